"""Request to decision (client-protocols.md 3.2, 3.8, section 10)."""

import pytest

from gateway.protocol.requests import ClientEvent, JoinGroup, LeaveGroup, Ping, SendToGroup, SequenceAck
from gateway.session import decide, released_by
from hubwire.model.ack_window import AckWindow
from hubwire.model.limits import ACK_WINDOW, MAX_UINT64
from hubwire.model.message import DataType
from hubwire.model.permissions import PermissionSet

NOTHING_ALLOWED = PermissionSet()
ALL = PermissionSet.from_roles(["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"])
ONE = PermissionSet.from_roles(["webpubsub.joinLeaveGroup.g", "webpubsub.sendToGroup.g"])
FLEET = PermissionSet.from_roles(["webpubsub.joinLeaveGroups.fleet.**", "webpubsub.sendToGroups.fleet.*"])


def send(group="g", ack_id=None):
    return SendToGroup(group, ack_id, False, DataType.TEXT, b"x", 0, None)


def event(ack_id=None):
    return ClientEvent("order", ack_id, DataType.TEXT, b"x", None)


FORBIDDEN = "The client does not have permission to {} group '{}'."


@pytest.mark.parametrize(
    ("request_", "permissions", "verdict", "error", "message"),
    [
        (Ping(), NOTHING_ALLOWED, "pong", "", ""),
        (SequenceAck(5), NOTHING_ALLOWED, "nothing", "", ""),
        (event(), NOTHING_ALLOWED, "execute", "", ""),
        (event(0), NOTHING_ALLOWED, "execute", "", ""),
        (send(), NOTHING_ALLOWED, "nothing", "", ""),
        (send(ack_id=1), NOTHING_ALLOWED, "ack", "Forbidden", FORBIDDEN.format("send to", "g")),
        (send(ack_id=0), NOTHING_ALLOWED, "ack", "Forbidden", FORBIDDEN.format("send to", "g")),
        (JoinGroup("g", 1), NOTHING_ALLOWED, "ack", "Forbidden", FORBIDDEN.format("join", "g")),
        (LeaveGroup("g", 1), NOTHING_ALLOWED, "ack", "Forbidden", FORBIDDEN.format("leave", "g")),
        (JoinGroup("g", None), NOTHING_ALLOWED, "nothing", "", ""),
        (send(ack_id=1), ALL, "execute", "", ""),
        (JoinGroup("g", 1), ALL, "execute", "", ""),
        (LeaveGroup("g", 1), ALL, "execute", "", ""),
        (send("g"), ONE, "execute", "", ""),
        (send("G", 1), ONE, "ack", "Forbidden", FORBIDDEN.format("send to", "G")),
        (send("fleet.a"), FLEET, "execute", "", ""),
        (send("fleet.a.b"), FLEET, "nothing", "", ""),
        (JoinGroup("fleet.a.b", 1), FLEET, "execute", "", ""),
        (JoinGroup("fleet", 1), FLEET, "ack", "Forbidden", FORBIDDEN.format("join", "fleet")),
    ],
)
def test_what_a_request_leads_to(request_, permissions, verdict, error, message):
    decision = decide(request_, permissions, AckWindow())
    assert decision == (verdict, error, message)


@pytest.mark.parametrize("request_", [send(ack_id=5), JoinGroup("g", 5), LeaveGroup("g", 5), event(5)])
def test_a_second_request_of_the_same_id_is_a_duplicate_of_whatever_kind_and_before_permission(request_):
    window = AckWindow()
    window.begin(5)
    window.end(5, True)
    decision = decide(request_, NOTHING_ALLOWED, window)
    assert decision == ("ack", "Duplicate", "Message with ack-id: 5 has been processed")


def test_an_id_that_is_being_executed_waits_whatever_the_permission():
    window = AckWindow()
    window.begin(5)
    assert decide(send(ack_id=5), NOTHING_ALLOWED, window).verdict == "wait"
    assert decide(send(ack_id=6), ALL, window).verdict == "execute"


def test_a_failed_request_is_not_remembered():
    window = AckWindow()
    window.begin(5)
    window.end(5, False)
    assert decide(send(ack_id=5), ALL, window).verdict == "execute"


def test_a_grant_and_a_revoke_count_from_the_next_request_on():
    permissions = PermissionSet()
    assert decide(send(), permissions, AckWindow()).verdict == "nothing"
    permissions.grant("sendToGroup", "g")
    assert decide(send(), permissions, AckWindow()).verdict == "execute"
    permissions.revoke("sendToGroup", "g")
    assert decide(send(ack_id=1), permissions, AckWindow()).error_name == "Forbidden"


def test_the_window_is_the_last_thousand_first_in_first_out():
    window = AckWindow()
    ids = [0, MAX_UINT64, *range(10, 10 + ACK_WINDOW - 2)]
    for one in ids:
        window.begin(one)
        window.end(one, True)
    assert all(map(window.is_done, ids))
    window.end(5, True)
    assert not window.is_done(0)
    assert window.is_done(MAX_UINT64)
    window.end(MAX_UINT64, True)  # again: neither twice in it nor younger for that
    window.end(6, True)
    assert not window.is_done(MAX_UINT64)


def test_an_unused_window_is_small_and_a_used_one_forgets_what_is_executing():
    window = AckWindow()
    window.begin(1)
    window.begin(2)
    window.end(1, False)
    assert not window.is_executing(1)
    assert window.is_executing(2)
    window.end(2, False)
    assert not window.is_executing(2)
    assert not window.is_done(2)


def test_a_sequence_ack_is_a_matter_of_reliable_sessions_alone():
    assert decide(SequenceAck(5), NOTHING_ALLOWED, AckWindow(), reliable=True).verdict == "acked"
    assert decide(SequenceAck(5), NOTHING_ALLOWED, AckWindow()).verdict == "nothing"
    assert decide(Ping(), NOTHING_ALLOWED, AckWindow(), reliable=True).verdict == "pong"


@pytest.mark.parametrize(
    ("sequence_id", "acked", "sent", "released"),
    [
        (0, 0, 0, 0),
        (0, 0, 7, 0),
        (5, 0, 7, 5),
        (5, 5, 7, 5),
        (3, 5, 7, 5),
        (7, 5, 7, 7),
        (8, 5, 7, 7),
        (MAX_UINT64, 0, 7, 7),
    ],
)
def test_a_sequence_ack_releases_what_was_sent_up_to_it_and_takes_nothing_back(
    sequence_id, acked, sent, released
):
    assert released_by(sequence_id, acked, sent) == released
