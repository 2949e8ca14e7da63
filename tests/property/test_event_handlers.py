"""What holds for every template, pattern and filter."""

from __future__ import annotations

import fnmatch
from urllib.parse import parse_qsl, unquote, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from hubwire.model.event_handlers import (
    UnusableUrl,
    compile_template,
    matches_group,
    matches_user_event,
    resolve_url,
    shown_url,
    template_fault,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NAME = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,20}", fullmatch=True)
PIECE = st.sampled_from(
    ["{hub}", "{EVENT}", "a", "/", "?", "=", "&", ".", "..", "%41", "{", "x}", "#", "ü", "@"]
)
TEMPLATE = st.one_of(TEXT, st.lists(PIECE, max_size=8).map(lambda p: "https://h.example/" + "".join(p)))


@given(TEXT)
def test_a_value_stands_in_the_url_as_one_segment_and_comes_back_unchanged(value: str) -> None:
    try:
        url = urlsplit(resolve_url("https://a.example/x/{event}/y?e={event}", "h", value))
    except UnusableUrl:
        assert value in (".", "..")
        return
    assert url.netloc == "a.example"
    assert [unquote(part) for part in url.path.split("/")] == ["", "x", value, "y"]
    assert parse_qsl(url.query, keep_blank_values=True) == [("e", value)]


@given(TEMPLATE, TEXT, TEXT)
def test_a_template_that_was_saved_leads_to_its_host_whatever_clients_do(
    t: str, hub: str, event: str
) -> None:
    if template_fault(t) is not None or "KeyVault" in t:
        return
    try:
        url = resolve_url(t, hub, event)
    except UnusableUrl:
        return  # a segment that is . or .. with these values
    assert url.isascii()
    assert url.isprintable()
    assert "{" not in url
    assert urlsplit(url).netloc == urlsplit(compile_template(t).resolve("h", "e")).netloc
    assert not {unquote(part) for part in urlsplit(url).path.split("/")} & {".", ".."}


@given(TEMPLATE)
def test_any_text_is_a_template_or_refused(text: str) -> None:
    fault = template_fault(text)
    assert fault is None or fault.endswith((".", "%7D."))


@given(st.text(), st.text("abcdefghij", min_size=8))
def test_no_value_of_a_query_is_ever_shown(path: str, secret: str) -> None:
    url = f"https://a.example/{path.replace('?', '').replace(secret, '')}?code={secret}&{secret}&x={secret}"
    assert secret not in shown_url(url)


@given(st.lists(NAME, max_size=5), NAME)
def test_a_list_matches_its_names_in_any_case_and_nothing_else(names: list[str], other: str) -> None:
    pattern = " , ".join(names)
    assert all(matches_user_event(pattern, name.swapcase()) for name in names)
    assert matches_user_event(pattern, other) is (other.lower() in {name.lower() for name in names})
    assert matches_user_event(pattern + ",*", other)


@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_a_group_filter_is_a_shell_pattern_of_asterisks(pattern: str, group: str) -> None:
    assert matches_group((pattern,), group) is fnmatch.fnmatchcase(group, pattern)
