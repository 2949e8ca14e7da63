import base64
import hashlib
import hmac
import json

import jwt as pyjwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubwire.model.errors import InvalidRequest, Unauthenticated
from hubwire.model.tokens import (
    NAME_IDENTIFIER,
    ROLE,
    AudiencePolicy,
    claims_as_strings,
    sign_admin_token,
    sign_client_token,
    sign_rest_token,
    verify_admin_token,
    verify_client_token,
    verify_rest_token,
)

KEY = "test-access-key-0123456789abcdef0123456789abcdef"
OTHER = "other-access-key-0123456789abcdef0123456789abcde"
NOW = 1_700_000_000
ENDPOINT = "https://wps.example.com"
CLIENT_AUD = f"{ENDPOINT}/client/hubs/chat"
POLICY = AudiencePolicy.of([ENDPOINT])
# Client-protocols.md 2.1
VECTOR = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJhdWQiOiJodHRwczovL3dwcy5leGFtcGxlLmNvbS9jbGllbnQvaHVicy9jaGF0Iiwi"
    "aWF0IjoxNzAwMDAwMDAwLCJleHAiOjE3MDAwMDM2MDAsInN1YiI6ImFsaWNlIiwicm9sZSI6WyJ3ZWJwdWJzdWIuam9pbkxlYXZlR3Jv"
    "dXAucm9vbS0xIiwid2VicHVic3ViLnNlbmRUb0dyb3VwIl0sIndlYnB1YnN1Yi5ncm91cCI6WyJyb29tLTEiXX0."
    "jSXyqy7yEHw5IWJym-G-QbxnV1s_BSgSZawZ_Kx9IBI"
)


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_token(header, payload, key=KEY):
    signed = f"{b64(header)}.{b64(payload)}"
    return f"{signed}.{b64(hmac.digest(key.encode(), signed.encode(), hashlib.sha256))}"


def token(key=KEY, **claims):
    claims = {"aud": CLIENT_AUD, "exp": NOW + 60, **claims}
    return pyjwt.encode({n: v for n, v in claims.items() if v is not None}, key, algorithm="HS256")


def client(text, *, keys=(KEY,), hub="chat", audiences=POLICY, now=NOW, **more):
    return verify_client_token(text, keys=keys, hub=hub, audiences=audiences, now=now, **more)


def rest(text, url, *, public=(), now=NOW):
    return verify_rest_token(text, keys=[KEY], request_url=url, public_endpoints=public, now=now)


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


# --- audiences of client tokens ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "audience",
    [
        CLIENT_AUD,
        "http://wps.example.com/client/hubs/chat",
        "ws://wps.example.com/client/hubs/chat",
        "wss://wps.example.com/client/hubs/chat",
        "HTTPS://WPS.example.com/Client/Hubs/CHAT",
        "https://wps.example.com:443/client/hubs/chat",
        "http://wps.example.com:80/client/hubs/chat",
        "https://wps.example.com/client/hubs/chat/",
        "https://wps.example.com/client/hubs/%63hat",
        "https://wps.example.com/client/?hub=Chat",
        "https://wps.example.com/client?hub=chat",
        ["https://elsewhere.example", CLIENT_AUD],
    ],
)
def test_audiences_that_fit(audience):
    assert client(token(aud=audience))


@pytest.mark.parametrize(
    "audience",
    [
        None,
        "",
        [],
        5,
        "chat",
        "https://wps.example.com",
        "https://wps.example.com/client/hubs/chat2",
        "https://wps.example.com/client/hubs/",
        "https://wps.example.com/client/hubs/chat/more",
        "https://wps.example.com/client/hubs/chat?x=1",
        "https://wps.example.com/client/?hub=chat&hub=other",
        "https://wps.example.com/x/client/hubs/chat",
        "https://wps.example.com:8080/client/hubs/chat",
        "https://wps.example.com.evil.example/client/hubs/chat",
        "https://user@wps.example.com/client/hubs/chat",
        "ftp://wps.example.com/client/hubs/chat",
        "wps.example.com/client/hubs/chat",
        "https://wps.example.com/clients/mqtt/hubs/chat",
        "https://wps.example.com/api/hubs/chat",
        "https://management.azure.com",
    ],
)
def test_audiences_that_do_not_fit(audience):
    text = raw_token(b'{"alg":"HS256"}', json.dumps({"aud": audience, "exp": NOW}).encode())
    with pytest.raises(Unauthenticated, match="Failed to validate audience"):
        client(text)


def test_a_refused_audience_is_named_beside_the_expected_one():
    with pytest.raises(Unauthenticated) as caught:
        client(token(aud="https://typo.example/client/hubs/chat"), hub="chat")
    assert f"Expected Audiences: <{CLIENT_AUD}>" in str(caught.value)
    assert "Actual Audiences: <https://typo.example/client/hubs/chat>" in str(caught.value)


def test_the_requests_own_host_and_several_endpoints_with_prefixes_are_accepted():
    policy = AudiencePolicy.of(["https://a.example/base/", "http://b.example:8080"], "LOCALHOST:8000")
    for endpoint in ("https://a.example/base", "http://b.example:8080", "http://localhost:8000"):
        text = sign_client_token(KEY, endpoint=endpoint, hub="Chat", now=NOW)
        assert client(text, audiences=policy)
    for endpoint in (
        "https://a.example",
        "http://b.example",
        "http://localhost",
        "http://localhost:8000/base",
    ):
        with pytest.raises(Unauthenticated):
            client(sign_client_token(KEY, endpoint=endpoint, hub="chat", now=NOW), audiences=policy)


def test_a_hub_that_dotnet_escapes():
    assert client(token(aud=f"{ENDPOINT}/client/hubs/c%5B1%5D"), hub="c[1]")
    assert client(token(aud=f"{ENDPOINT}/client/hubs/c[1]"), hub="c[1]")


def test_a_client_type_has_its_own_audience():
    mqtt = sign_client_token(KEY, endpoint=ENDPOINT, hub="chat", now=NOW, client_type="mqtt")
    assert client(mqtt, client_type="mqtt")
    with pytest.raises(Unauthenticated):
        client(mqtt)
    with pytest.raises(Unauthenticated):
        client(VECTOR, client_type="mqtt")


def test_a_public_endpoint_must_be_a_url():
    for wrong in ("wps.example.com", "ftp://x", "https://x?y", ""):
        with pytest.raises(ValueError, match="endpoint"):
            AudiencePolicy.of([wrong])


# --- REST tokens ------------------------------------------------------------------------------------------

URL = "http://localhost:8080/api/hubs/chat/groups/a/:send?api-version=2024-12-01"


@pytest.mark.parametrize(
    "audience",
    [
        URL,
        URL.partition("?")[0],
        URL.partition("?")[0] + "/",
        "https://LOCALHOST:8080/API/hubs/Chat/groups/A/:send?x",
        "wss://localhost:8080/api/hubs/chat/groups/a/:send",
        "http://localhost:8080/api/hubs/chat/groups/a/%3Asend",
        "http://localhost:8080/api/hubs/chat/groups/a/:send/child",
    ],
)
def test_a_rest_token_fits_its_url(audience):
    assert rest(sign_rest_token(KEY, audience, NOW), URL)


@pytest.mark.parametrize(
    "audience",
    [
        "http://localhost:8080/api/hubs/chat/groups/a",
        "http://localhost:8080/api/hubs/chat/groups/a/:sendSuffix",
        "http://localhost:8080/api/hubs/other/groups/a/:send",
        "http://localhost/api/hubs/chat/groups/a/:send",
        "http://elsewhere:8080/api/hubs/chat/groups/a/:send",
        "ftp://localhost:8080/api/hubs/chat/groups/a/:send",
        "http://localhost:8080/api/hubs/chat/groups/a/:send%3Fx",
        "http://localhost:8080/client/hubs/chat",
        "http://localhost:8080",
        "https://webpubsub.azure.com",
        "https://management.azure.com",
    ],
)
def test_a_rest_token_does_not_fit_another_url(audience):
    with pytest.raises(
        Unauthenticated, match="Expected Audiences: <https://localhost:8080/api/hubs/chat/groups/a/:send>"
    ):
        rest(sign_rest_token(KEY, audience, NOW), URL)


@pytest.mark.parametrize(
    ("requested", "audience"),
    [
        # What SDKs sign is what they send.
        ("/api/hubs/c%5B1%5D/groups/a+b%2Fc%3Fd", "/api/hubs/c%5B1%5D/groups/a+b%2Fc%3Fd"),
        ("/api/hubs/chat/groups/%E4%BD%A0%20x", "/api/hubs/chat/groups/你 x"),
        ("/api/hubs/chat/groups/a%2Fb", "/api/hubs/chat/groups/a%2fb"),
        ("/api/hubs/chat/groups/a%2Fb%20c", "/api/hubs/chat/groups/a%2Fb c"),
        ("/api/hubs/chat/groups/a%2Fb%20c", "/api/hubs/chat/groups/a%252Fb%20c"),
        ("/api/hubs/chat/groups/a/", "/api/hubs/chat/groups/a"),
    ],
)
def test_escapes_in_a_rest_audience(requested, audience):
    assert rest(sign_rest_token(KEY, "http://h" + audience, NOW), "http://h" + requested + "?api-version=1")


def test_an_escaped_slash_is_not_a_slash():
    with pytest.raises(Unauthenticated):
        rest(
            sign_rest_token(KEY, "http://h/api/hubs/chat/groups/a/b", NOW),
            "http://h/api/hubs/chat/groups/a%2Fb",
        )


def test_default_ports_do_not_count():
    for host, other in (("h:80", "h"), ("h", "h:443"), ("h:443", "h:443")):
        assert rest(sign_rest_token(KEY, f"https://{host}/api/hubs/c", NOW), f"http://{other}/api/hubs/c")


def test_public_endpoints_are_accepted_with_a_prefix_that_the_proxy_removed_or_left():
    public = ["https://wps.example.com/base"]
    text = sign_rest_token(KEY, "https://wps.example.com/base/api/hubs/chat/:send?x", NOW)
    assert rest(text, "http://10.0.0.1:8080/api/hubs/chat/:send?x", public=public)
    assert rest(text, "http://10.0.0.1:8080/base/api/hubs/chat/:send?x", public=public)
    without = sign_rest_token(KEY, "https://wps.example.com/api/hubs/chat/:send?x", NOW)
    with pytest.raises(Unauthenticated):
        rest(without, "http://10.0.0.1:8080/api/hubs/chat/:send?x", public=public)


def test_rest_tokens_honour_nbf_and_iat():
    for name in ("nbf", "iat"):
        claims = {"aud": URL, "exp": NOW + 60, name: NOW + 200}
        assert rest(pyjwt.encode(claims, KEY), URL)
        with pytest.raises(Unauthenticated, match=name):
            rest(pyjwt.encode({**claims, name: NOW + 400}, KEY), URL)
    with pytest.raises(Unauthenticated, match="exp"):
        rest(pyjwt.encode({"aud": URL}, KEY), URL)


# --- one kind never passes for another --------------------------------------------------------------------

ADMIN = sign_admin_token(KEY, NOW)


@pytest.mark.parametrize("suffix", ["", "/", "/.default"])
def test_the_management_audience(suffix):
    text = token(OTHER, aud="https://management.azure.com" + suffix)
    assert verify_admin_token(text, keys=[KEY, OTHER], now=NOW)


def test_an_admin_token_ends_too():
    assert verify_admin_token(ADMIN, keys=[KEY], now=NOW + 599)
    with pytest.raises(Unauthenticated):
        verify_admin_token(ADMIN, keys=[KEY], now=NOW + 601)
    with pytest.raises(Unauthenticated):
        verify_admin_token(ADMIN, keys=[OTHER], now=NOW)


@pytest.mark.parametrize(
    "text",
    [
        VECTOR,
        sign_rest_token(KEY, URL, NOW),
        token(aud=ENDPOINT),
        token(aud="https://management.azure.com.evil"),
        token(aud=None),
    ],
)
def test_client_and_rest_tokens_do_not_manage(text):
    with pytest.raises(Unauthenticated):
        verify_admin_token(text, keys=[KEY], now=NOW)


@pytest.mark.parametrize(
    "host", ["http://localhost:8080", "http://localhost:8080/api", "http://localhost:8080/client"]
)
@pytest.mark.parametrize(
    "url", ["/", "/api", "/api/", "/client", "/client/hubs/chat", "/client/hubs", "/api/hubs/chat"]
)
def test_a_client_token_is_never_a_rest_token(host, url):
    text = sign_client_token(KEY, endpoint=host, hub="chat", now=NOW)
    with pytest.raises(Unauthenticated):
        rest(text, "http://localhost:8080" + url, public=[host])
    with pytest.raises(Unauthenticated):
        rest(ADMIN, "http://localhost:8080" + url, public=[host])


def test_rest_and_admin_tokens_do_not_connect():
    policy = AudiencePolicy.of([], "localhost:8080")
    for text in (
        sign_rest_token(KEY, URL, NOW),
        sign_rest_token(KEY, "http://localhost:8080/api/hubs/chat", NOW),
        ADMIN,
    ):
        with pytest.raises(Unauthenticated):
            client(text, audiences=policy)


# --- PyJWT as the oracle ----------------------------------------------------------------------------------

_OPTIONS = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_sub": False,
    "verify_jti": False,
}


@given(
    st.dictionaries(st.text(max_size=5), st.none() | st.integers(-9, 9) | st.text(max_size=5), max_size=4),
    st.data(),
)
def test_signatures_agree_with_pyjwt(extra, data):
    extra = {n: v for n, v in extra.items() if n not in ("sub", "iss")}
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
