"""The permissions against a model that follows client-protocols.md 2.5 and 2.6 word for word."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from hubwire.model.patterns import compile_pattern
from hubwire.model.permissions import PermissionSet

_TOKEN = re.compile(r"\\[\\*?]|\*+|\?|[^\\]", re.DOTALL)


def pattern_regex(pattern: str) -> re.Pattern[str] | None:
    if not 1 <= len(pattern) <= 1024:
        return None
    tokens = _TOKEN.findall(pattern)
    if "".join(tokens) != pattern:
        return None
    wild = [t for t in tokens if t[0] in "*?"]
    if len(wild) > 5 or sum(len(t) for t in wild if t[0] == "*") > 5:
        return None
    parts = []
    for token in tokens:
        if token == "?":
            parts.append("[^.]")
        elif token == "*":
            parts.append("[^.]*")
        elif token[0] == "*":
            parts.append(".*")
        else:
            parts.append(re.escape(token[-1]))
    return re.compile("".join(parts), re.DOTALL)


class Model:
    """One permission."""

    def __init__(self) -> None:
        self.default = False
        self.patterns: list[tuple[re.Pattern[str], bool]] = []
        self.literals: dict[str, bool] = {}

    def check(self, group: str) -> bool:
        if group in self.literals:
            return self.literals[group]
        for pattern, verdict in self.patterns:
            if pattern.fullmatch(group):
                return verdict
        return self.default

    def put(self, group: str, verdict: bool) -> bool:
        entry = self.literals.get(group)
        if entry is verdict:
            return True
        if entry is not None:
            del self.literals[group]
            return True
        if self.check(group) is verdict:
            return True
        if len(self.literals) >= 1000:
            return False
        self.literals[group] = verdict
        return True

    def all(self, verdict: bool) -> None:
        self.default, self.patterns, self.literals = verdict, [], {}

    def apply(self, roles: list[str], name: str) -> None:
        for role in sorted(set(roles)):
            if role == f"webpubsub.{name}":
                self.all(True)
            elif role.startswith(f"webpubsub.{name}."):
                group = role.removeprefix(f"webpubsub.{name}.")
                if group.strip() and len(group) <= 1024:
                    self.put(group, True)
            elif role.startswith(f"webpubsub.{name}s."):
                text = role.removeprefix(f"webpubsub.{name}s.")
                regex = pattern_regex(text)
                if regex is None:
                    continue
                wild = [t for t in _TOKEN.findall(text) if t[0] in "*?"]
                if not wild:
                    self.put("".join(t[-1] for t in _TOKEN.findall(text)), True)
                elif re.fullmatch(r"\*{2,}", text):
                    self.all(True)
                elif len(self.patterns) < 9:
                    self.patterns.insert(0, (regex, True))
                    self.literals = {g: v for g, v in self.literals.items() if not regex.fullmatch(g)}


groups = st.text(alphabet="ab.*?\\", min_size=1, max_size=6)
patterns = st.text(alphabet="ab.*?\\", max_size=10)
role_names = st.sampled_from(["joinLeaveGroup", "sendToGroup"])
roles = st.lists(
    st.one_of(
        role_names.map("webpubsub.{}".format),
        st.tuples(role_names, groups).map(lambda t: f"webpubsub.{t[0]}.{t[1]}"),
        st.tuples(role_names, patterns).map(lambda t: f"webpubsub.{t[0]}s.{t[1]}"),
        st.text(max_size=5),
    ),
    max_size=14,
)
changes = st.lists(st.tuples(st.booleans(), role_names, st.none() | groups), max_size=12)


@settings(deadline=None)
@given(patterns, st.text(alphabet="ab.*?\\\n", max_size=10))
def test_a_pattern_matches_what_its_regular_expression_does(pattern, group):
    regex = pattern_regex(pattern)
    compiled = compile_pattern(pattern)
    assert (compiled is None) == (regex is None)
    if compiled is not None:
        assert compiled.matches(group) == (regex.fullmatch(group) is not None)
        if compiled.literal is not None:
            assert compiled.matches(compiled.literal)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["?", "*", "**", "a", "b", "."]), max_size=8).map("".join), st.data())
def test_patterns_with_many_wildcards(pattern, data):
    regex = pattern_regex(pattern)
    if regex is not None:
        group = data.draw(st.text(alphabet="ab.", max_size=14))
        assert compile_pattern(pattern).matches(group) == (regex.fullmatch(group) is not None)


@settings(deadline=None)
@given(roles, changes, st.lists(groups, max_size=5))
def test_roles_and_changes_decide_as_the_rules_say(roles, changes, asked):
    permissions = PermissionSet.from_roles(roles)
    models = {name: Model() for name in ("joinLeaveGroup", "sendToGroup")}
    for name, model in models.items():
        model.apply(roles, name)

    def agree() -> None:
        mentioned = {group for _, _, group in changes if group} | {r.split(".", 2)[-1] for r in roles}
        for group in {*asked, *mentioned, "a", "a.b"} - {""}:
            assert permissions.can_join_leave(group) == models["joinLeaveGroup"].check(group)
            assert permissions.can_send(group) == models["sendToGroup"].check(group)
            assert permissions.check("sendToGroup", group) == models["sendToGroup"].check(group)
        for name, model in models.items():
            assert permissions.check(name, None) == model.default

    agree()
    for verdict, name, group in changes:
        # As a reliable session's do, they may move to another process at any time.
        permissions = PermissionSet.restored(permissions.snapshot())
        done = permissions.grant(name, group) if verdict else permissions.revoke(name, group)
        if group is None:
            models[name].all(verdict)
            assert done
        else:
            assert done == models[name].put(group, verdict)
        agree()
