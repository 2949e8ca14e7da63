"""Which token fits which place, and that none of the three kinds passes for another."""

import json

import jwt as pyjwt
import pytest
from support.tokens import (
    CLIENT_AUD,
    ENDPOINT,
    KEY,
    NOW,
    OTHER,
    URL,
    VECTOR,
    client,
    raw_token,
    rest,
    token,
)

from hubwire.model.audiences import expected_client, expected_rest
from hubwire.model.errors import Unauthenticated
from hubwire.model.tokens import (
    AudiencePolicy,
    sign_admin_token,
    sign_client_token,
    sign_rest_token,
    verify_admin_token,
)

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
        Unauthenticated, match="Expected Audiences: <http://localhost:8080/api/hubs/chat/groups/a/:send>"
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


def test_the_sentence_has_the_scheme_of_the_request_or_of_the_public_endpoint():
    for endpoints, scheme in (([], "http"), (["https://a.example.com"], "https"), (["HTTP://b"], "http")):
        policy = AudiencePolicy.of(endpoints)
        assert expected_rest("http://x/api/hubs/chat/:send", policy).startswith(f"{scheme}://x/api")
        assert expected_client("chat", policy.with_host("x")).endswith(f"{scheme}://x/client/hubs/chat")
    assert expected_rest("https://x/api/hubs/chat/:send", AudiencePolicy()).startswith("https://x/")
