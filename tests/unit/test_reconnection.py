"""Reconnection tokens (client-protocols.md 4.5) and their keys."""

from __future__ import annotations

import jwt as pyjwt
import pytest
from support.tokens import NOW, b64, raw_token

from hubwire.bus.settings_records import next_reconnection_keys
from hubwire.model.errors import Unauthenticated
from hubwire.model.limits import (
    CLOCK_SKEW_SECONDS,
    RECONNECTION_KEY_SECONDS,
    RECONNECTION_TOKEN_SECONDS,
)
from hubwire.model.reconnection import check_reconnection_token, issue_reconnection_token
from hubwire.model.settings import ReconnectionKeys

KEYS = ("the-key-of-new-tokens-0123456789abcdef012345", "the-key-before-it-0123456789abcdef0123456789")
ID = "b_AH6qt8DPYPujEQv4ytoAc82b04d71"


def issued(key=KEYS[0], connection_id=ID, hub="chat", now=NOW):
    return issue_reconnection_token(key, connection_id=connection_id, hub=hub, now=now)


def check(token, *, keys=KEYS, connection_id=ID, hub="chat", now=NOW):
    check_reconnection_token(token, keys=keys, connection_id=connection_id, hub=hub, now=now)


def refused(token, **more):
    with pytest.raises(Unauthenticated) as caught:
        check(token, **more)
    assert len(token) < 20 or token not in str(caught.value)


def test_a_token_is_a_jwt_that_the_library_reads():
    claims = pyjwt.decode(issued(), KEYS[0], algorithms=["HS256"], audience=ID, options={"verify_exp": False})
    assert claims == {"aud": ID, "hub": "chat", "exp": NOW + RECONNECTION_TOKEN_SECONDS}
    assert pyjwt.get_unverified_header(issued()) == {"alg": "HS256", "typ": "JWT"}


def test_it_is_good_for_a_week_and_as_often_as_it_is_wanted():
    token = issued()
    for now in (NOW - CLOCK_SKEW_SECONDS, NOW, NOW, NOW + RECONNECTION_TOKEN_SECONDS):
        check(token, now=now)
    refused(token, now=NOW + RECONNECTION_TOKEN_SECONDS + CLOCK_SKEW_SECONDS + 1)


def test_both_keys_verify_and_no_other():
    check(issued(KEYS[0]))
    check(issued(KEYS[1]))
    refused(issued("a-third-key"))
    refused(issued(), keys=())
    refused(issued(), keys=("", ""))


def test_without_a_key_none_is_issued():
    with pytest.raises(ValueError, match="key"):
        issued("")


def test_it_is_for_one_connection_of_one_hub():
    refused(issued(), connection_id=ID[:-1] + "2")
    refused(issued(), connection_id="")
    refused(issued(), connection_id=ID.lower())
    refused(issued(), hub="chat2")


@pytest.mark.parametrize(
    "claims",
    [
        '{"aud":"%s","hub":"chat"}',
        '{"aud":["%s"],"hub":"chat","exp":1900000000}',
        '{"aud":"%s","exp":1900000000}',
        '{"hub":"chat","exp":1900000000}',
        '{"aud":"%s","hub":null,"exp":1900000000}',
        '{"aud":"%s","hub":"chat","exp":"1900000000"}',
        '["%s"]',
        "",
    ],
)
def test_a_signature_alone_is_not_enough(claims):
    text = claims.replace("%s", ID).encode()
    refused(raw_token(b'{"alg":"HS256"}', text, key=KEYS[0]))


GOOD = b'{"aud":"%b","hub":"chat","exp":1900000000}' % ID.encode()


def test_the_claims_of_the_other_tests_are_good_ones():
    check(raw_token(b'{"alg":"HS256"}', GOOD, key=KEYS[0]))


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "\xe9.\xe9.\xe9",
        "x" * 100_000,
        b64(b'{"alg":"none"}') + "." + b64(GOOD) + ".",
        raw_token(b'{"alg":"none"}', GOOD, key=KEYS[0]),
        raw_token(b'{"alg":"HS512"}', GOOD, key=KEYS[0]),
        raw_token(b'{"alg":"HS256","crit":["x"]}', GOOD, key=KEYS[0]),
        raw_token(b'{"alg":"HS256"}', GOOD, key=""),
    ],
)
def test_forged_tokens_and_garbage_are_refused(token):
    refused(token)


# --- keys ---


def test_a_cluster_begins_with_one_key():
    keys = next_reconnection_keys(None, NOW)
    assert len(keys.current) >= 40
    assert (keys.previous, keys.made_at) == ("", NOW)
    assert keys.both == (keys.current,)


def test_a_key_signs_for_a_month_and_verifies_after_that():
    first = next_reconnection_keys(None, NOW)
    assert next_reconnection_keys(first, NOW + RECONNECTION_KEY_SECONDS - 1) is first
    later = NOW + RECONNECTION_KEY_SECONDS
    second = next_reconnection_keys(first, later)
    assert second.current not in first.both
    assert second.both == (second.current, first.current)
    check(issued(first.current, now=later - 1), keys=second.both, now=later + RECONNECTION_TOKEN_SECONDS - 1)


def test_a_key_that_another_clock_made_in_the_future_stays():
    keys = ReconnectionKeys("a", "b", NOW + 10**9)
    assert next_reconnection_keys(keys, NOW) is keys


def test_keys_do_not_show_themselves():
    assert "secret" not in repr(ReconnectionKeys("secret-1", "secret-2", 5)) + str(
        ReconnectionKeys("secret-1")
    )
