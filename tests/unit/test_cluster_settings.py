"""What all processes share: laid over each other leaf by leaf, changed by people, shown without secrets."""

from __future__ import annotations

import msgspec
import pytest

from hubwire.bus.settings_records import CLUSTER_KEY, decode_stored, encode_stored
from hubwire.model.cluster_settings import (
    ClusterSettings,
    ManagementSettings,
    RestLimits,
    changed,
    hash_of_token,
    is_token,
    overlaid,
    shown,
)
from hubwire.model.errors import InternalError, InvalidRequest
from hubwire.model.settings import HubLimits

TOKEN = "a-static-token-of-an-operator"
SOME = ClusterSettings(
    cors_origins=("https://a.example.com",),
    limits=RestLimits(max_body_bytes=10),
    hub_limits=HubLimits(messages_per_second=5),
    management=ManagementSettings(resource_name="mine"),
)


def test_what_lies_above_wins_and_what_it_leaves_open_shows_through() -> None:
    over = ClusterSettings(
        limits=RestLimits(request_seconds=2.0), hub_limits=HubLimits(messages_per_second=7)
    )
    assert overlaid(SOME, over) == ClusterSettings(
        cors_origins=("https://a.example.com",),
        limits=RestLimits(max_body_bytes=10, request_seconds=2.0),
        hub_limits=HubLimits(messages_per_second=7),
        management=ManagementSettings(resource_name="mine"),
    )
    assert overlaid(SOME, ClusterSettings()) == overlaid(ClusterSettings(), SOME) == SOME


def test_an_empty_list_of_origins_is_something_that_was_said() -> None:
    assert overlaid(SOME, ClusterSettings(cors_origins=())).cors_origins == ()


def test_a_change_sets_what_it_names_and_null_takes_away() -> None:
    change = {"corsOrigins": None, "limits": {"requestSeconds": 3}, "hubLimits": {"messagesPerSecond": None}}
    assert changed(SOME, change) == ClusterSettings(
        limits=RestLimits(max_body_bytes=10, request_seconds=3.0),
        management=ManagementSettings(resource_name="mine"),
    )
    assert changed(SOME, {"limits": None}).limits == RestLimits()
    assert changed(SOME, {}) == SOME


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ([], "The settings must be an object."),
        ({"cors": ["*"]}, "cors is not a setting; known here: corsOrigins, hubLimits, limits, management."),
        ({"limits": {"maxBody": 1}}, "limits.maxBody is not a setting; known here: maxBodyBytes,"),
        ({"limits": 7}, "limits must be an object."),
        ({"limits": {"maxBodyBytes": 0}}, "limits.maxBodyBytes is 0: it must be a whole number from 1."),
        (
            {"hubLimits": {"maxMessageBytes": 1048577}},
            "maxMessageBytes is 1048577: it must be a whole number from 1 to 1048576.",
        ),
        ({"corsOrigins": "https://a"}, "corsOrigins is 'https://a': it must be a list."),
        ({"management": {"adminToken": "short"}}, "management.adminToken must be text of 16 characters"),
        ({"management": {"adminTokenSha256": "0"}}, "Give the token itself, as adminToken."),
        ({"management": {"x": 1}}, "known here: adminToken, location"),
    ],
)
def test_what_cannot_be_set_is_named(change: object, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        changed(SOME, change)
    assert said in str(caught.value)


def test_of_an_administrators_token_only_the_hash_is_kept_and_nothing_is_shown() -> None:
    with_token = changed(SOME, {"management": {"adminToken": TOKEN}})
    kept = with_token.management.admin_token_sha256
    assert kept == hash_of_token(TOKEN)
    assert is_token(TOKEN, kept)
    assert not is_token(TOKEN + "x", kept)
    assert TOKEN.encode() not in encode_stored(1, "", with_token)
    assert shown(with_token)["management"] == {"resourceName": "mine", "adminToken": "***"}
    assert changed(with_token, {"management": {"adminToken": None}}) == SOME


def test_it_is_shown_as_the_file_has_it_and_nothing_is_shown_of_nothing() -> None:
    assert shown(ClusterSettings()) == {}
    assert shown(SOME) == {
        "corsOrigins": ("https://a.example.com",),
        "limits": {"maxBodyBytes": 10},
        "hubLimits": {"messagesPerSecond": 5},
        "management": {"resourceName": "mine"},
    }
    assert changed(ClusterSettings(), shown(SOME)) == SOME


def test_the_record_is_read_as_it_was_written_and_one_that_makes_no_sense_is_refused() -> None:
    assert decode_stored(CLUSTER_KEY, 1, encode_stored(1, "", SOME)).value == SOME
    newer = {**msgspec.to_builtins(SOME), "ofALaterVersion": 1}
    assert decode_stored(CLUSTER_KEY, 1, encode_stored(1, "", newer)).value == SOME
    with pytest.raises(InternalError):
        decode_stored(CLUSTER_KEY, 1, encode_stored(1, "", {"limits": {"maxBodyBytes": -1}}))
