"""Every check of a handshake, in its order (client-protocols.md 1.1 to 1.6, 1.8, 2.3, 6.3)."""

from __future__ import annotations

from base64 import b64encode

import pytest
from support.tokens import ENDPOINT, KEY, NOW, OTHER, POLICY, raw_token, token

from gateway.handshake import (
    Admission,
    RecoveryRequest,
    Refusal,
    RefusedRecovery,
    check,
    is_client_path,
)
from gateway.http_head import parse_head
from gateway.protocol.json_reliable_v1 import JSON_RELIABLE_V1
from gateway.protocol.protobuf_reliable_v1 import PROTOBUF_RELIABLE_V1
from hubwire.model.limits import CLOCK_SKEW_SECONDS, RECONNECTION_TOKEN_SECONDS
from hubwire.model.reconnection import issue_reconnection_token
from hubwire.model.settings import HubSettings

WS_KEY = b64encode(b"0123456789abcdef").decode()
JSON, PROTOBUF = "json.webpubsub.azure.v1", "protobuf.webpubsub.azure.v1"
JSON_R, PROTOBUF_R = "json.reliable.webpubsub.azure.v1", "protobuf.reliable.webpubsub.azure.v1"
UPGRADE = {
    "Host": "gateway:8080",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": WS_KEY,
}
PATH = "/client/hubs/chat"


def decide(
    target=None,
    headers=None,
    *,
    method="GET",
    version="HTTP/1.1",
    anonymous=(),
    keys=(KEY, OTHER),
    now=NOW,
    reconnection_keys=(),
):
    target = target or f"{PATH}?access_token={token()}"
    lines = {**UPGRADE, **(headers or {})}
    text = "\r\n".join(
        [f"{method} {target} {version}", *(f"{n}: {v}" for n, v in lines.items() if v is not None)]
    )
    return check(
        parse_head(text.encode("latin-1")),
        settings_of=lambda hub: HubSettings(anonymous_connect_policy="allow" if hub in anonymous else "deny"),
        keys=keys,
        audiences=POLICY,
        now=now,
        reconnection_keys=reconnection_keys,
    )


def refused(status, *words, **request):
    verdict = decide(**request)
    assert isinstance(verdict, Refusal), verdict
    assert verdict.status == status, verdict
    for word in words:
        assert word in verdict.text
    assert verdict.text.endswith(".")
    assert "\r" not in verdict.text
    assert "\n" not in verdict.text
    return verdict


# --- paths and hubs ---


@pytest.mark.parametrize(
    "path", ["/client", "/client/", "/client/hubs/a", "/clients/mqtt/hubs/a", "/client/x"]
)
def test_paths_that_the_gateway_answers(path):
    assert is_client_path(path)


@pytest.mark.parametrize("path", ["/", "/api/hubs/a", "/clientele", "/clients", "/Client/hubs/a", ""])
def test_paths_that_it_does_not(path):
    assert not is_client_path(path)


@pytest.mark.parametrize(
    "target",
    [
        "/client/hubs/chat?x=1",
        "/client/hubs/CHAT?x=1",
        "/client/hubs/chat/?x=1",
        "/client/hubs/ch%61t?x=1",
        "/client?hub=chat",
        "/client/?hub=Chat",
        "/client/?HUB=chat",
        "/client/hubs?hub=chat",
        "/client/hubs/chat?hub=other",  # the path wins
        "/client/?hub=other&hub=chat",
    ],
)
def test_every_form_of_the_url_names_its_hub(target):
    verdict = decide(f"{target}&access_token={token()}")
    assert isinstance(verdict, Admission), verdict
    assert verdict.hub == "chat"


@pytest.mark.parametrize(
    "path",
    ["/client/other", "/client/hubs/chat/more", "/clients/mqtt/hubs/chat", "/clients/x", "/client/hub"],
)
def test_an_unknown_path_is_404_even_when_nothing_else_is_right(path):
    refused(404, path, target=path, headers={"Upgrade": None}, method="POST")


@pytest.mark.parametrize(
    "target",
    [
        "/client",
        "/client/?hub=",
        "/client/hubs/",
        "/client/hubs/1chat",
        "/client/hubs/a%2Fb",
        "/client/hubs/a%0d%0aX:%20y",
        "/client/?hub=a%0D%0ASet-Cookie:x",
        "/client/hubs/%00",
        "/client/hubs/%ff",
        "/client/hubs/" + "a" * 129,
    ],
)
def test_a_missing_or_illegal_hub_is_400_before_the_token_is_looked_at(target):
    refused(400, "hub", target=target)


def test_too_many_parameters_are_400():
    refused(400, "parameters", target=PATH + "?" + "&".join(["a=1"] * 1001))


# --- the upgrade ---


@pytest.mark.parametrize(
    "request_",
    [
        {"method": "POST"},
        {"method": "HEAD"},
        {"version": "HTTP/1.0"},
        {"headers": {"Upgrade": None}},
        {"headers": {"Upgrade": "h2c"}},
        {"headers": {"Connection": None}},
        {"headers": {"Connection": "keep-alive"}},
        {"headers": {"Sec-WebSocket-Version": None}},
        {"headers": {"Sec-WebSocket-Version": "8"}},
        {"headers": {"Sec-WebSocket-Version": "13, 8"}},
        {"headers": {"Sec-WebSocket-Key": None}},
        {"headers": {"Sec-WebSocket-Key": "short"}},
        {"headers": {"Sec-WebSocket-Key": b64encode(b"x" * 17).decode()}},
        {"headers": {"Sec-WebSocket-Key": WS_KEY + "\xe9"}},
        {"headers": {"Content-Length": "5"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
    ],
)
def test_what_is_no_websocket_upgrade_is_400_before_hub_and_token(request_):
    verdict = refused(400, target="/client/hubs/1?access_token=x", **request_)
    assert ("Sec-WebSocket-Version", "13") in verdict.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Connection": "keep-alive, UPGRADE"},
        {"Upgrade": "WebSocket"},
        {"Content-Length": "0"},
        {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"},
    ],
)
def test_upgrades_in_other_words_are_upgrades(headers):
    assert isinstance(decide(headers=headers), Admission)


# --- recovery ---


def test_a_recovery_is_never_refused_by_status_whatever_its_token():
    verdict = decide(
        f"{PATH}?awps_connection_id=abc&awps_reconnection_token=x&access_token=expired",
        {"Sec-WebSocket-Protocol": "json.reliable.webpubsub.azure.v1"},
    )
    assert verdict == RefusedRecovery(WS_KEY, "json.reliable.webpubsub.azure.v1")


def test_a_recovery_without_an_offer_gets_no_subprotocol_back():
    assert decide(f"{PATH}?AWPS_CONNECTION_ID=abc") == RefusedRecovery(WS_KEY, None)


def test_a_recovery_of_an_illegal_hub_is_400():
    refused(400, "hub", target="/client/hubs/1?awps_connection_id=abc")


@pytest.mark.parametrize("query", ["awps_reconnection_token=x", "awps_connection_id="])
def test_without_a_connection_id_it_is_a_new_connection(query):
    refused(401, target=f"{PATH}?{query}")


SESSION = "b_AH6qt8DPYPujEQv4ytoAc82b04d71"
RECONNECTION_KEYS = ("key-of-reconnection-tokens-0123456789", "the-one-before-0123456789")


def reconnection_token(key=RECONNECTION_KEYS[0], connection_id=SESSION, hub="chat"):
    return issue_reconnection_token(key, connection_id=connection_id, hub=hub, now=NOW)


def recover(token, more="", *, path=PATH, connection_id=SESSION, offer=JSON_R, **request):
    return decide(
        f"{path}?awps_connection_id={connection_id}&awps_reconnection_token={token}{more}",
        {"Sec-WebSocket-Protocol": offer},
        **{"reconnection_keys": RECONNECTION_KEYS, **request},
    )


@pytest.mark.parametrize("key", RECONNECTION_KEYS)
@pytest.mark.parametrize(
    "more",
    [
        "",
        "&access_token=" + token(),
        "&access_token=" + token(exp=NOW - 9999),
        "&access_token=" + token(key="x" * 40),
        "&access_token=",
        "&webpubsub_mode=nonsense",
    ],
)
def test_a_recovery_needs_the_token_of_its_connection_and_no_access_token(key, more):
    assert recover(reconnection_token(key), more) == RecoveryRequest("chat", SESSION, WS_KEY, [JSON_R])


def test_a_recovery_may_write_its_hub_in_other_letters():
    request = recover(reconnection_token(), path="/client/hubs/CHAT")
    assert request == RecoveryRequest("chat", SESSION, WS_KEY, [JSON_R])
    assert recover(reconnection_token(), "&hub=Chat", path="/client/") == request


@pytest.mark.parametrize(
    "request_",
    [
        {"token": ""},
        {"token": "x"},
        {"token": reconnection_token("another-key")},
        {"token": reconnection_token(KEY)},  # an access key signs nothing that recovers
        {"token": token(aud=SESSION, hub="chat")},
        {"token": reconnection_token(connection_id=SESSION[:-1] + "2")},
        {"token": reconnection_token(), "connection_id": SESSION[:-1] + "2"},
        {"token": reconnection_token(hub="other")},
        {"token": reconnection_token(), "path": "/client/hubs/other"},
        {"token": reconnection_token(), "now": NOW + RECONNECTION_TOKEN_SECONDS + CLOCK_SKEW_SECONDS + 1},
        {"token": reconnection_token(), "reconnection_keys": ()},
        {"token": reconnection_token(connection_id="not-ours"), "connection_id": "not-ours"},
    ],
)
def test_any_other_recovery_is_refused_after_its_101(request_):
    text = request_.pop("token")
    assert recover(text, **request_) == RefusedRecovery(WS_KEY, JSON_R)


def test_a_recovery_without_a_token_is_refused_after_its_101():
    target = f"{PATH}?awps_connection_id={SESSION}&access_token={token()}"
    assert decide(target, reconnection_keys=RECONNECTION_KEYS) == RefusedRecovery(WS_KEY, None)


@pytest.mark.parametrize(
    ("offer", "echo", "refused_with"),
    [
        (None, None, None),
        (JSON_R, JSON_R, JSON_R),
        (
            "JSON.Reliable.webpubsub.azure.v1",
            "JSON.Reliable.webpubsub.azure.v1",
            "JSON.Reliable.webpubsub.azure.v1",
        ),
        (f"{PROTOBUF_R}, {JSON_R}", JSON_R, PROTOBUF_R),
        (f"mine, {JSON}", JSON, JSON),
        ("mine", "mine", "mine"),
    ],
)
def test_a_recovered_session_confirms_its_own_subprotocol_if_it_is_offered(offer, echo, refused_with):
    request = recover(reconnection_token(), offer=offer)
    assert request.echo(JSON_RELIABLE_V1) == echo
    assert request.refused() == RefusedRecovery(WS_KEY, refused_with)


def test_a_recovery_of_an_illegal_hub_is_400_also_with_a_good_token():
    assert recover(reconnection_token(), path="/client/hubs/1").status == 400


@pytest.mark.parametrize(
    ("offer", "codec"), [(JSON_R, JSON_RELIABLE_V1), (f"mine, {PROTOBUF_R}, {JSON}", PROTOBUF_RELIABLE_V1)]
)
def test_reliable_subprotocols_are_served_where_sessions_are_kept(offer, codec):
    headers = {"Sec-WebSocket-Protocol": offer}
    verdict = decide(headers=headers, reconnection_keys=RECONNECTION_KEYS)
    assert (verdict.codec, verdict.subprotocol, verdict.reliable) == (codec, codec.name, True)
    assert decide(headers=headers).reliable is False
    assert decide(headers=headers).codec is not codec


# --- the token ---


def test_the_token_is_taken_from_query_or_header_and_the_query_wins():
    good, bad = token(), token(key="x" * 40)
    assert isinstance(decide(f"{PATH}?ACCESS_TOKEN={good}"), Admission)
    assert isinstance(decide(PATH, {"Authorization": f"Bearer {good}"}), Admission)
    assert isinstance(decide(PATH, {"Authorization": f"bEARER   {good}  "}), Admission)
    assert isinstance(decide(f"{PATH}?access_token=", {"Authorization": f"Bearer {good}"}), Admission)
    assert isinstance(decide(f"{PATH}?access_token={good}", {"Authorization": f"Bearer {bad}"}), Admission)
    refused(401, target=f"{PATH}?access_token={bad}", headers={"Authorization": f"Bearer {good}"})
    refused(401, "No access token", target=PATH, headers={"Authorization": f"Basic {good}"})


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_both_keys_are_good_at_the_same_time(key):
    assert isinstance(decide(f"{PATH}?access_token={token(key=key)}"), Admission)


@pytest.mark.parametrize(
    ("good", "claims"),
    [
        (True, {"exp": NOW - 299}),
        (False, {"exp": NOW - 301}),
        (True, {"nbf": NOW + 299}),
        (False, {"nbf": NOW + 301}),
        (False, {"exp": None}),
        (False, {"exp": "never"}),
        (True, {"aud": [ENDPOINT, f"{ENDPOINT}/client/hubs/chat"]}),
        (True, {"aud": "http://GATEWAY:8080/client/hubs/Chat"}),
        (False, {"aud": f"{ENDPOINT}/client/hubs/other"}),
        (False, {"aud": "https://elsewhere/client/hubs/chat"}),
        (False, {"aud": f"{ENDPOINT}/api/hubs/chat/:send"}),
        (False, {"aud": f"{ENDPOINT}/client/hubs/chat/more"}),
        (False, {"aud": None}),
        (False, {"sub": "u" * 1025}),
    ],
)
def test_lifetime_and_audience_of_a_token(good, claims):
    target = f"{PATH}?access_token={token(**claims)}"
    if good:
        assert isinstance(decide(target), Admission)
    else:
        refused(401, target=target)


def test_the_refusal_of_an_audience_names_what_was_expected_and_what_came():
    refused(
        401,
        f"{ENDPOINT}/client/hubs/chat",
        "elsewhere",
        target=f"{PATH}?access_token={token(aud='https://elsewhere/client/hubs/chat')}",
    )


@pytest.mark.parametrize(
    "forged",
    [
        "x",
        "a.b.c",
        "..",
        "%00.%00.%00",
        raw_token(b'{"alg":"none"}', b'{"aud":"https://wps.example.com/client/hubs/chat","exp":1800000000}'),
        raw_token(b'{"alg":"none"}', b"{}").rpartition(".")[0] + ".",
        raw_token(b'{"alg":"HS512"}', b"{}"),
        raw_token(b'{"alg":"RS256"}', b"{}"),
        raw_token(b"[" * 100_000, b"{}"),
        raw_token(b'{"alg":"HS256"}', b"[" * 20_000),
        raw_token(b'{"alg":"HS256"}', b'{"exp":1' + b"0" * 5_000 + b"}"),
        token()[:-2],
        token() + ".x",
        raw_token(b'{"alg":"HS256"}', b"{}", key=""),
    ],
)
def test_forged_tokens_are_401_and_nothing_of_them_comes_back(forged):
    verdict = refused(401, target=f"{PATH}?access_token={forged}")
    assert len(forged) < 20 or forged not in verdict.text


def test_without_a_token_only_a_hub_that_allows_it_is_entered():
    refused(401, "anonymous", target=PATH)
    verdict = decide(PATH, anonymous=("chat",))
    assert isinstance(verdict, Admission)
    assert (verdict.claims.user_id, verdict.claims.roles, verdict.claims.groups) == (None, (), ())


def test_an_invalid_token_is_401_also_where_none_is_needed():
    refused(401, target=f"{PATH}?access_token=x", anonymous=("chat",))


@pytest.mark.parametrize("group", ["", " \t", "g" * 1025, 5, ["ok", None]])
def test_an_illegal_group_in_a_good_token_is_400(group):
    refused(400, "group", target=f"{PATH}?access_token={token(**{'webpubsub.group': group})}")


def test_an_illegal_group_in_a_bad_token_is_401():
    refused(401, target=f"{PATH}?access_token={token(exp=0, **{'webpubsub.group': ''})}")


def test_a_group_name_may_be_anything_else():
    name = "a\r\nX: y\0/é"
    verdict = decide(f"{PATH}?access_token={token(**{'webpubsub.group': name})}")
    assert verdict.claims.groups == (name,)


# --- subprotocols and modes ---


@pytest.mark.parametrize(
    ("offer", "name", "echo"),
    [
        (None, "", None),
        (JSON, JSON, JSON),
        ("JSON.WebPubSub.Azure.V1", JSON, "JSON.WebPubSub.Azure.V1"),
        (f"mine, {PROTOBUF}, {JSON}", PROTOBUF, PROTOBUF),
        ("mine", "", None),
        ("a b,\xe9," + JSON, JSON, JSON),
    ],
)
def test_the_first_predefined_subprotocol_of_the_client_is_taken(offer, name, echo):
    verdict = decide(headers={"Sec-WebSocket-Protocol": offer})
    assert (verdict.codec.name, verdict.subprotocol) == (name, echo)


@pytest.mark.parametrize(
    ("query", "group", "no_echo"),
    [
        ("", None, False),
        ("webpubsub_mode=", None, False),
        ("webpubsub_mode=SENDevent&group=", None, False),
        ("webpubsub_mode=sendToGroup&group=g", "g", False),
        ("WebPubSub_Mode=SENDTOGROUP&Group=g&NoEcho=TRUE", "g", True),
        ("webpubsub_mode=x&webpubsub_mode=sendToGroup&group=a&group=b%20c&noEcho=false", "b c", False),
    ],
)
def test_the_mode_of_a_simple_client(query, group, no_echo):
    mode = decide(f"{PATH}?access_token={token()}&{query}").mode
    assert (mode.group, mode.no_echo) == (group, no_echo)


@pytest.mark.parametrize(
    "query",
    [
        "webpubsub_mode=other",
        "webpubsub_mode=sendToGroup",
        "webpubsub_mode=sendToGroup&group=%20",
        "webpubsub_mode=sendToGroup&group=" + "g" * 1025,
        "webpubsub_mode=sendToGroup&group=g&noEcho=1",
        "webpubsub_mode=sendToGroup&group=g&noEcho=",
    ],
)
def test_an_illegal_mode_is_400_after_the_token_and_for_simple_clients_only(query):
    refused(400, target=f"{PATH}?access_token={token()}&{query}")
    refused(401, target=f"{PATH}?{query}")
    verdict = decide(f"{PATH}?access_token={token()}&{query}", {"Sec-WebSocket-Protocol": JSON})
    assert isinstance(verdict, Admission)
