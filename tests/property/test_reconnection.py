"""Nobody recovers a connection with anything but a token that was issued for it."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from hubwire.model.errors import Unauthenticated
from hubwire.model.limits import CLOCK_SKEW_SECONDS, RECONNECTION_TOKEN_SECONDS
from hubwire.model.reconnection import check_reconnection_token, issue_reconnection_token

KEY = "the-key-of-new-tokens-0123456789abcdef012345"
ID = "b_AH6qt8DPYPujEQv4ytoAc82b04d71"
NOW = 1_700_000_000
TOKEN = issue_reconnection_token(KEY, connection_id=ID, hub="chat", now=NOW)

ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
times = st.floats(0, 2**40)


def good(token: str, *, key: str = KEY, connection_id: str = ID, hub: str = "chat", now: float = NOW) -> bool:
    """Raises nothing but Unauthenticated, whatever the token is."""
    try:
        check_reconnection_token(token, keys=(key,), connection_id=connection_id, hub=hub, now=now)
    except Unauthenticated:
        return False
    return True


@settings(deadline=None)
@given(st.text(min_size=1, max_size=60).filter(lambda t: t.isprintable()), ids, ids, times)
def test_what_was_issued_is_good_for_its_connection_until_it_expires(key, connection_id, hub, now):
    token = issue_reconnection_token(key, connection_id=connection_id, hub=hub, now=now)
    assert good(token, key=key, connection_id=connection_id, hub=hub, now=now)
    end = int(now) + RECONNECTION_TOKEN_SECONDS + CLOCK_SKEW_SECONDS
    assert good(token, key=key, connection_id=connection_id, hub=hub, now=end)
    assert not good(token, key=key, connection_id=connection_id, hub=hub, now=end + 1)


@settings(deadline=None)
@given(ids, ids, st.text(max_size=60))
def test_it_is_good_for_nothing_else(connection_id, hub, key):
    assume(key != KEY)
    assert good(TOKEN, connection_id=connection_id) == (connection_id == ID)
    assert good(TOKEN, hub=hub) == (hub == "chat")
    assert not good(TOKEN, key=key)


@settings(deadline=None)
@given(st.integers(0, len(TOKEN) - 1), st.text(max_size=3), st.integers(0, 3))
def test_nothing_in_it_can_be_changed(at, put, cut):
    changed = TOKEN[:at] + put + TOKEN[at + cut :]
    assume(changed != TOKEN)
    assert not good(changed)


@settings(deadline=None)
@given(
    st.text(max_size=200) | st.lists(st.sampled_from([*TOKEN.split("."), ".", "e30", "=", ""])).map("".join)
)
@example("eyJhbGciOiJub25lIn0." + TOKEN.split(".")[1] + ".")  # "alg": "none"
def test_garbage_is_refused(token):
    assume(token != TOKEN)
    assert not good(token)


def test_the_token_of_these_tests_is_good():
    assert good(TOKEN)
    with pytest.raises(Unauthenticated):
        check_reconnection_token(TOKEN, keys=(), connection_id=ID, hub="chat", now=NOW)
