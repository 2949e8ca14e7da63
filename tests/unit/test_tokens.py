import json

import jwt as pyjwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tokens import (
    CLIENT_AUD,
    ENDPOINT,
    KEY,
    NOW,
    OTHER,
    VECTOR,
    client,
    raw_token,
    token,
)

from hubwire.model.errors import InvalidRequest, Unauthenticated
from hubwire.model.tokens import (
    NAME_IDENTIFIER,
    ROLE,
    claims_as_strings,
    sign_client_token,
)

# --- the token itself -------------------------------------------------------------------------------------


def test_the_published_token_is_read_and_written_byte_for_byte():
    claims = client(VECTOR)
    assert claims.user_id == "alice"
    assert claims.roles == ("webpubsub.joinLeaveGroup.room-1", "webpubsub.sendToGroup")
    assert claims.groups == ("room-1",)
    assert (
        sign_client_token(
            KEY,
            endpoint=ENDPOINT,
            hub="chat",
            user_id="alice",
            roles=claims.roles,
            groups=["room-1"],
            minutes=60,
            now=NOW,
        )
        == VECTOR
    )


def test_either_key_verifies_and_an_empty_one_never_does():
    assert client(token(OTHER), keys=[KEY, OTHER])
    with pytest.raises(Unauthenticated, match="signature"):
        client(token(OTHER), keys=[KEY])
    with pytest.raises(Unauthenticated, match="signature"):
        client(raw_token(b'{"alg":"HS256"}', b'{"exp":9e9}', key=""), keys=[KEY, ""])
    with pytest.raises(Unauthenticated):
        client(token(), keys=[])


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_only_hs256_is_accepted(algorithm):
    text = pyjwt.encode({"aud": CLIENT_AUD, "exp": NOW + 60}, KEY * 2, algorithm=algorithm)
    with pytest.raises(Unauthenticated, match="algorithm"):
        client(text, keys=[KEY * 2])


@pytest.mark.parametrize(
    "header", ['{"alg":"none"}', '{"alg":"None"}', '{"alg":"hs256"}', '{"alg":null}', "{}"]
)
@pytest.mark.parametrize("signed", [True, False])
def test_a_token_without_a_real_algorithm_is_refused(header, signed):
    text = raw_token(header.encode(), json.dumps({"aud": CLIENT_AUD, "exp": NOW + 60}).encode())
    with pytest.raises(Unauthenticated):
        client(text if signed else text.rpartition(".")[0] + ".")


def test_unknown_header_members_are_ignored_but_demanded_extensions_are_not():
    claims = json.dumps({"aud": CLIENT_AUD, "exp": NOW + 60}).encode()
    assert client(raw_token(b'{"alg":"HS256","kid":"s-1","x":[1]}', claims))
    with pytest.raises(Unauthenticated, match="crit"):
        client(raw_token(b'{"alg":"HS256","crit":["x"],"x":1}', claims))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff",
        b'{"aud":"\xff"}',
        b"[" * 40_000,
        b'{"exp":' + b"9" * 5000 + b"}",
    ],
)
def test_signed_rubbish_is_refused(payload):
    with pytest.raises(Unauthenticated):
        client(raw_token(b'{"alg":"HS256"}', payload))
    with pytest.raises(Unauthenticated):
        client(raw_token(payload, b"{}"))


@pytest.mark.parametrize(
    "text", ["", ".", "..", "...", "a.b", "a.b.c", "é.é.é", "x" * 100_000, VECTOR + ".", VECTOR + "="]
)
def test_what_is_not_a_token_is_refused(text):
    with pytest.raises(Unauthenticated):
        client(text)


def test_changing_any_character_spoils_the_token():
    for i in range(0, len(VECTOR), 7):
        other = "A" if VECTOR[i] != "A" else "B"
        with pytest.raises(Unauthenticated):
            client(VECTOR[:i] + other + VECTOR[i + 1 :])


def test_no_refusal_repeats_the_token():
    spoiled = [
        VECTOR[:-3] + "AAA",
        VECTOR,
        token(OTHER),
        token(exp=NOW - 9999),
        token(sub=["a", "b"]),
        "secret.x.y",
    ]
    for text in spoiled:
        with pytest.raises(Unauthenticated) as caught:
            client(text, hub="elsewhere")
        for part in text.split("."):
            assert len(part) < 4 or part not in str(caught.value)


@pytest.mark.parametrize(
    ("expiry", "good"), [(NOW + 1, True), (NOW - 299, True), (NOW - 301, False), (NOW - 299.5, True)]
)
def test_a_token_lives_five_minutes_longer_than_it_says(expiry, good):
    if good:
        assert client(token(exp=expiry))
    else:
        with pytest.raises(Unauthenticated, match="expired"):
            client(token(exp=expiry))


@pytest.mark.parametrize("expiry", [None, "1800000000", True, [NOW], {}, -(10**400)])
def test_a_token_needs_a_number_for_its_end(expiry):
    with pytest.raises(Unauthenticated):
        client(raw_token(b'{"alg":"HS256"}', json.dumps({"aud": CLIENT_AUD, "exp": expiry}).encode()))


@pytest.mark.parametrize("start", ["x", True, [], NOW + 301])
def test_a_token_that_is_not_valid_yet(start):
    with pytest.raises(Unauthenticated, match="nbf"):
        client(
            raw_token(b'{"alg":"HS256"}', json.dumps({"aud": CLIENT_AUD, "exp": NOW, "nbf": start}).encode())
        )


def test_a_token_that_is_just_valid():
    assert client(token(nbf=NOW + 299, iat=NOW + 9999))


# --- client claims ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "user_id"),
    [
        ({}, None),
        ({"sub": "alice"}, "alice"),
        ({"sub": ""}, None),
        ({"nameid": "bob"}, "bob"),
        ({NAME_IDENTIFIER: "carol"}, "carol"),
        ({"sub": "alice", "nameid": "bob"}, "alice"),
        ({"sub": ["alice"]}, "alice"),
        ({"sub": 42}, "42"),
        ({"sub": "x" * 1024}, "x" * 1024),
    ],
)
def test_the_user_id(claims, user_id):
    text = raw_token(b'{"alg":"HS256"}', json.dumps({"aud": CLIENT_AUD, "exp": NOW, **claims}).encode())
    assert client(text).user_id == user_id


@pytest.mark.parametrize("sub", [["a", "b"], {}, True, 1.5, "x" * 1025, [1.5]])
def test_a_user_id_that_is_not_one_string_is_refused(sub):
    text = raw_token(b'{"alg":"HS256"}', json.dumps({"aud": CLIENT_AUD, "exp": NOW, "sub": sub}).encode())
    with pytest.raises(Unauthenticated, match="sub"):
        client(text)


def test_roles_are_a_string_or_an_array_under_either_name():
    assert client(token(role="r1")).roles == ("r1",)
    assert client(token(role=["r1", 5, "r2"])).roles == ("r1", "r2")
    assert client(token(**{ROLE: ["r3"]})).roles == ("r3",)
    assert client(token(role="r1", **{ROLE: "r3"})).roles == ("r1", "r3")
    assert client(token(role=7)).roles == ()


def test_groups_are_a_string_or_an_array():
    assert client(token(**{"webpubsub.group": "g"})).groups == ("g",)
    assert client(token(**{"webpubsub.group": ["g", "h", "g"]})).groups == ("g", "h")
    assert client(token()).groups == ()


@pytest.mark.parametrize("groups", ["", " ", ["ok", "x" * 1025], [None], [5], {}])
def test_an_illegal_group_is_a_bad_request_not_a_bad_token(groups):
    with pytest.raises(InvalidRequest) as caught:
        client(token(**{"webpubsub.group": groups}))
    assert caught.value.target == "webpubsub.group"


def test_all_claims_are_kept_and_can_be_had_as_strings():
    claims = client(token(sub="ada", x=1.5, y=[True, "z"], deep={"a": [1]})).claims
    assert claims_as_strings(claims) == {
        "aud": [CLIENT_AUD],
        "exp": [str(NOW + 60)],
        "sub": ["ada"],
        NAME_IDENTIFIER: ["ada"],
        "x": ["1.5"],
        "y": ["true", "z"],
        "deep": ['{"a":[1]}'],
    }


def test_extra_claims_are_signed_but_replace_nothing():
    text = sign_client_token(KEY, endpoint=ENDPOINT, hub="chat", now=NOW, extra={"aud": "x", "tenant": "t"})
    assert client(text).claims["tenant"] == "t"


# --- PyJWT as the oracle ----------------------------------------------------------------------------------

_OPTIONS = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_sub": False,
    "verify_jti": False,
}


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=5), st.none() | st.integers(-9, 9) | st.text(max_size=5), max_size=4),
    st.data(),
)
def test_signatures_agree_with_pyjwt(extra, data):
    extra = {f"x{n}": v for n, v in extra.items()}  # not the claims that have a meaning
    ours = sign_client_token(KEY, endpoint=ENDPOINT, hub="chat", now=NOW, extra=extra)
    theirs = pyjwt.encode({"aud": CLIENT_AUD, "iat": NOW, "exp": NOW + 3600, **extra}, KEY, algorithm="HS256")
    assert client(theirs).claims == client(ours).claims
    assert (
        pyjwt.decode(ours, KEY, algorithms=["HS256"], audience=CLIENT_AUD, options=_OPTIONS)
        == client(ours).claims
    )

    at = data.draw(st.integers(0, len(ours) - 1))
    bent = ours[:at] + data.draw(st.sampled_from("aA0_-.=")) + ours[at + 1 :]
    try:
        client(bent)
    except Unauthenticated:
        return
    pyjwt.decode(bent, KEY, algorithms=["HS256"], audience=CLIENT_AUD, options=_OPTIONS)
