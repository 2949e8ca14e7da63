"""What a connection may do: roles of its token or connect handler, changed by REST grants and revokes.

Client-protocols.md 2.4 to 2.7. Dynamic changes know no patterns, and roles know no denial, so patterns only
ever allow and their order does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from hubwire.model.limits import MAX_LITERALS, MAX_PATTERNS
from hubwire.model.names import is_valid_group
from hubwire.model.patterns import Pattern, compile_pattern

Permission: TypeAlias = Literal["joinLeaveGroup", "sendToGroup", "getGroupState", "setGroupState"]

PERMISSIONS: Final[tuple[Permission, ...]] = (
    "joinLeaveGroup",
    "sendToGroup",
    "getGroupState",
    "setGroupState",
)
_PREFIX: Final = "webpubsub."
_WITH_PATTERNS: Final = {"joinLeaveGroups": "joinLeaveGroup", "sendToGroups": "sendToGroup"}
_NO_LITERALS: Final[Mapping[str, bool]] = {}


class _Rules:
    """The rules of one permission: a value, never changed, so that connections can share it."""

    __slots__ = ("default", "literals", "patterns")

    def __init__(
        self, default: bool, patterns: tuple[Pattern, ...] = (), literals: Mapping[str, bool] = _NO_LITERALS
    ) -> None:
        self.default = default
        self.patterns = patterns
        self.literals = literals

    def allows(self, group: str) -> bool:
        verdict = self.literals.get(group)
        if verdict is not None:
            return verdict
        for pattern in self.patterns:
            if pattern.matches(group):
                return True
        return self.default

    def with_verdict(self, group: str, verdict: bool) -> _Rules | None:
        """The rules after a grant (True) or revoke (False) of one group, by the four steps of 2.6.

        None when that needs one literal too many.
        """
        present = self.literals.get(group)
        if present is verdict:
            return self
        literals = dict(self.literals)
        if present is not None:
            del literals[group]
        without = _Rules(self.default, self.patterns, literals or _NO_LITERALS)
        if without.allows(group) is verdict:
            return without if present is not None else self
        if len(literals) >= MAX_LITERALS:
            return None
        literals[group] = verdict
        return _Rules(self.default, self.patterns, literals)


_NONE: Final = _Rules(False)
_ALL: Final = _Rules(True)


class PermissionSet:
    """The permissions of one connection; starts with none. Small: most connections share both rule values."""

    __slots__ = ("_join_leave", "_others", "_send")

    def __init__(self) -> None:
        self._join_leave = _NONE
        self._send = _NONE
        self._others: dict[str, _Rules] | None = None  # group state: rare

    @classmethod
    def from_roles(cls, roles: Sequence[str]) -> PermissionSet:
        """What the roles grant. Unknown roles, invalid patterns and what exceeds the limits are ignored."""
        permissions = cls()
        if not roles:
            return permissions
        texts: dict[Permission, list[tuple[bool, str | None]]] = {}
        for role in sorted(set(roles)):
            parsed = _parse(role)
            if parsed is not None:
                texts.setdefault(parsed[0], []).append(parsed[1:])
        for permission, entries in texts.items():
            permissions._set(permission, _rules_of(entries))
        return permissions

    def snapshot(self) -> list[list[Any]]:
        """The permissions as plain lists that msgpack can pack: of each that is not empty
        [permission, default, patterns, groups allowed, groups denied]."""
        return [
            [
                permission,
                rules.default,
                [pattern.text for pattern in rules.patterns],
                [group for group, verdict in rules.literals.items() if verdict],
                [group for group, verdict in rules.literals.items() if not verdict],
            ]
            for permission in PERMISSIONS
            if (rules := self._get(permission)) is not _NONE
        ]

    @classmethod
    def restored(cls, snapshot: Sequence[Sequence[Any]]) -> PermissionSet:
        """Permissions that answer as those of the snapshot. Raises ValueError for what is no snapshot."""
        permissions = cls()
        for name, default, texts, allowed, denied in snapshot:
            if name not in _PERMISSION:
                raise ValueError(f"Not a permission: {name!r}")
            literals = dict.fromkeys(allowed, True) | dict.fromkeys(denied, False)
            patterns = tuple(filter(None, map(compile_pattern, texts)))
            if default and not literals and not patterns:
                rules = _ALL
            else:
                rules = _Rules(bool(default), patterns, literals or _NO_LITERALS)
            permissions._set(_PERMISSION[name], rules)
        return permissions

    def can_join_leave(self, group: str) -> bool:
        return self._join_leave.allows(group)

    def can_send(self, group: str) -> bool:
        return self._send.allows(group)

    def check(self, permission: Permission, group: str | None) -> bool:
        """Whether the group is allowed; with None, whether groups are that no rule mentions (2.7)."""
        rules = self._get(permission)
        return rules.default if group is None else rules.allows(group)

    def grant(self, permission: Permission, group: str | None) -> bool:
        """Allow one group (the name is literal, also with a "*" in it), or with None all groups.

        False, and nothing changed, when it would need a 1001st literal rule.
        """
        return self._change(permission, group, True)

    def revoke(self, permission: Permission, group: str | None) -> bool:
        """Deny one group, also under a wider role; with None, everything. False as with `grant`.

        It takes nobody out of a group.
        """
        return self._change(permission, group, False)

    def _change(self, permission: Permission, group: str | None, verdict: bool) -> bool:
        if group is None:
            self._set(permission, _ALL if verdict else _NONE)
            return True
        rules = self._get(permission).with_verdict(group, verdict)
        if rules is None:
            return False
        self._set(permission, rules)
        return True

    def _get(self, permission: Permission) -> _Rules:
        if permission == "joinLeaveGroup":
            return self._join_leave
        if permission == "sendToGroup":
            return self._send
        return (self._others or {}).get(permission, _NONE)

    def _set(self, permission: Permission, rules: _Rules) -> None:
        if permission == "joinLeaveGroup":
            self._join_leave = rules
        elif permission == "sendToGroup":
            self._send = rules
        elif self._others is None:
            self._others = {permission: rules}
        else:
            self._others[permission] = rules


def is_known_role(role: str) -> bool:
    """Whether the role means anything; one that does not is ignored, and worth a line in the log."""
    return _parse(role) is not None


def _parse(role: str) -> tuple[Permission, bool, str | None] | None:
    """(permission, whether the text is a pattern, text); the text is None for all groups."""
    if not role.startswith(_PREFIX):
        return None
    name, dot, text = role[len(_PREFIX) :].partition(".")
    if name in _WITH_PATTERNS:
        return (_PERMISSION[_WITH_PATTERNS[name]], True, text) if compile_pattern(text) is not None else None
    permission = _PERMISSION.get(name)
    if permission is None:
        return None
    if not dot:
        return permission, False, None
    return (permission, False, text) if is_valid_group(text) else None


_PERMISSION: Final[dict[str, Permission]] = {permission: permission for permission in PERMISSIONS}


def _rules_of(entries: Iterable[tuple[bool, str | None]]) -> _Rules:
    """The rules after applying the entries of one permission in the order of their role strings (2.6).

    That order puts the all-groups role first, then the literals, then the patterns.
    """
    patterns: list[Pattern] = []
    literals: dict[str, bool] = {}
    for is_pattern, text in entries:
        if text is None:
            return _ALL
        if is_pattern:
            pattern = compile_pattern(text)
            if pattern is None:
                continue
            if pattern.everything:
                return _ALL
            if pattern.literal is None:
                if len(patterns) < MAX_PATTERNS:
                    patterns.append(pattern)
                    literals = {g: v for g, v in literals.items() if not pattern.matches(g)}
                continue
            text = pattern.literal
        # A wildcard-free pattern can stand between others, and may be covered by one of them already.
        if len(literals) < MAX_LITERALS and not any(pattern.matches(text) for pattern in patterns):
            literals[text] = True
    return _Rules(False, tuple(patterns), literals or _NO_LITERALS) if patterns or literals else _NONE
