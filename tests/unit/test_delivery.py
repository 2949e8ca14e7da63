"""From an envelope to the connections that get it (DESIGN.md sections 4 and 6)."""

from __future__ import annotations

import pytest

from gateway.delivery import MAX_SENDERS_REMEMBERED, Delivery
from gateway.frames import BINARY, TEXT, frame
from gateway.hub import LocalHubs
from gateway.protocol.json_v1 import JSON_V1
from gateway.protocol.protobuf_v1 import PROTOBUF_V1
from gateway.protocol.simple import SIMPLE
from hubwire.bus.envelopes import pack, pack_body
from hubwire.bus.keys import group_key, hub_key, user_key
from hubwire.model.message import DataType, Message

KEY = group_key("chat", "g")
NOW = 1000.0


class Client:
    direct = -1  # something waits, so that it is sent to by `send`; sockets are in test_transport.py

    def __init__(self, name, *, groups=("g",), user=None, codec=JSON_V1, hub="chat"):
        self.id = name
        self.hub = hub
        self.user_id = user
        self.groups = set(groups)
        self.codec = codec
        self.got = []
        self.on_send = None

    def send(self, data):
        self.got.append(data)

    def send_until(self, data, deadline):
        if self.on_send is not None:
            self.on_send()
        self.got.append((data, deadline))


class Gateway(Delivery):
    def __init__(self, *clients):
        self.hubs = LocalHubs()
        for client in clients:
            self.hubs.add(client)
        super().__init__(self.hubs, lambda: NOW)
        self.number = 0

    def publish(self, text="hi", *, key=KEY, epoch=5, sender="s", number=None, partition=7, **more):
        if number is None:
            self.number += 1
            number = self.number
        message = Message(more.pop("data_type", DataType.TEXT), text.encode(), None, more.pop("user", None))
        self.envelopes([[partition, epoch, sender, number, key, pack_body(message, **more)]])


def test_a_group_message_names_its_group_and_a_message_to_hub_or_user_comes_from_the_server():
    client = Client("1", user="u")
    gateway = Gateway(client)
    gateway.publish("a", user="bob")
    gateway.publish("b", key=hub_key("chat"))
    gateway.publish("c", key=user_key("chat", "u"))
    gateway.publish("d", key=group_key("chat", "other"))
    gateway.publish("e", key=group_key("other", "g"))
    from_group = (
        b'{"type":"message","from":"group","fromUserId":"bob","group":"g","dataType":"text","data":"a"}'
    )
    assert client.got == [
        frame(TEXT, from_group),
        frame(TEXT, b'{"type":"message","from":"server","dataType":"text","data":"b"}'),
        frame(TEXT, b'{"type":"message","from":"server","dataType":"text","data":"c"}'),
    ]


def test_it_is_encoded_once_for_all_of_one_subprotocol():
    clients = [
        Client(f"{codec.name}{n}", codec=codec) for codec in (JSON_V1, PROTOBUF_V1, SIMPLE) for n in "ab"
    ]
    gateway = Gateway(*clients)
    gateway.publish("hi")
    for one, two in zip(clients[::2], clients[1::2], strict=True):
        assert len(one.got) == 1
        assert one.got[0] is two.got[0]
    assert [one.got[0][0] & 15 for one in clients[::2]] == [TEXT, BINARY, TEXT]
    assert clients[4].got == [frame(TEXT, b"hi")]
    gateway.publish("\x00", data_type=DataType.BINARY)
    assert clients[4].got[1] == frame(BINARY, b"\x00")


def test_those_excluded_are_spared():
    clients = [Client(name) for name in "abc"]
    gateway = Gateway(*clients)
    gateway.publish(excluded=("a", "c"))
    assert [len(client.got) for client in clients] == [0, 1, 0]
    assert gateway.delivered == 1


def test_a_filter_chooses_among_the_members():
    clients = [Client("a", user="u"), Client("b", groups=("g", "h")), Client("c", codec=PROTOBUF_V1)]
    gateway = Gateway(*clients)
    gateway.publish(filter="userId eq 'u'")
    gateway.publish(filter="'h' in groups")
    assert [len(client.got) for client in clients] == [1, 1, 0]


def test_a_filter_that_is_no_filter_reaches_nobody_and_spoils_nothing():
    client = Client("a")
    gateway = Gateway(client)
    gateway.publish(filter="and and")
    gateway.publish("fine")
    assert len(client.got) == 1


def test_a_time_to_live_is_a_deadline_from_now():
    client = Client("a")
    gateway = Gateway(client)
    gateway.publish(ttl_seconds=30)
    assert client.got[0][1] == NOW + 30


def test_a_member_that_is_closed_as_too_slow_in_the_middle_costs_the_others_nothing():
    """It left the table that was being walked over; the rest of the envelope, and of all envelopes that came
    with it, was lost."""
    clients = [Client(name) for name in "abc"]
    gateway = Gateway(*clients)
    clients[0].on_send = lambda: gateway.hubs.remove(clients[0])
    gateway.publish(ttl_seconds=30)
    gateway.publish("next")
    assert [len(client.got) for client in clients] == [1, 2, 2]


def test_what_an_owner_of_an_older_epoch_still_sends_is_dropped():
    client = Client("a")
    gateway = Gateway(client)
    gateway.publish("a", epoch=5)
    gateway.publish("b", epoch=6)
    gateway.publish("late", epoch=5)
    gateway.publish("c", epoch=6)
    gateway.publish("another partition", epoch=1, partition=8)
    assert [data.split(b'"')[-2] for data in client.got] == [b"a", b"b", b"c", b"another partition"]
    assert gateway.fenced == 1


def test_the_table_fences_before_the_new_owner_has_said_anything():
    client = Client("a")
    gateway = Gateway(client)
    gateway.epoch_seen(7, 9)
    gateway.epoch_seen(7, 3)  # an older table changes nothing
    gateway.publish(epoch=8)
    assert client.got == []
    gateway.publish(epoch=9)
    assert len(client.got) == 1


def test_a_repeat_of_a_publish_is_dropped_whoever_owns_the_partition_now():
    client = Client("a")
    gateway = Gateway(client)
    gateway.publish("a", number=1)
    gateway.publish("b", number=2)
    gateway.publish("a", number=1, epoch=6)
    gateway.publish("b", number=2, epoch=6)
    gateway.publish("c", number=4, epoch=6)
    gateway.publish("other sender", number=1, epoch=6, sender="t")
    gateway.publish("other partition", number=3, partition=8)
    assert len(client.got) == 5
    assert gateway.repeated == 2


def test_a_repeat_is_remembered_also_when_nobody_was_there():
    gateway = Gateway()
    gateway.publish(number=1)
    client = Client("a")
    gateway.hubs.add(client)
    gateway.publish(number=1, epoch=6)
    assert client.got == []


def test_the_memory_of_senders_is_bounded_and_keeps_the_latest():
    client = Client("a")
    gateway = Gateway(client)
    for n in range(MAX_SENDERS_REMEMBERED + 1):
        gateway.publish(sender=f"s{n}", number=1)
    gateway.publish(sender=f"s{MAX_SENDERS_REMEMBERED}", number=1)
    assert gateway.repeated == 1
    assert max(map(len, gateway._seen)) <= MAX_SENDERS_REMEMBERED


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [1],
        None,
        "text",
        [7, 5, "s", 50, KEY, b"\xc1"],
        [7, 5, "s", 51, KEY, pack([1, 2])],
        [7, 5, "s", 52, KEY, pack([9, b"", None, None, None, None, 0])],
        [7, 5, "s", 53, KEY, pack([1, 5, None, None, None, None, 0])],
        [999, 5, "s", 54, KEY, b""],
        [7, "5", "s", 55, KEY, b""],
        [7, 5, "s", "x", KEY, b""],
    ],
)
def test_an_envelope_that_is_none_is_refused_and_those_beside_it_are_delivered(bad):
    client = Client("a")
    gateway = Gateway(client)
    body = pack_body(Message(DataType.TEXT, b"hi"))
    gateway.envelopes([[7, 5, "s", 1, KEY, body], bad, [7, 5, "s", 99, KEY, body]])
    assert len(client.got) == 2


def test_what_its_client_sends_again_elsewhere_reaches_nobody_twice_though_its_owner_is_another():
    client = Client("1")
    gateway = Gateway(client)
    body = pack_body(Message(DataType.TEXT, b"hi", None, None))
    for epoch, sender, number in ((5, "s", 1), (6, "t", 1), (7, "u", 9)):
        gateway.envelopes([[7, epoch, sender, number, KEY, body, "publisher", 3]])
    assert (len(client.got), gateway.repeated) == (1, 2)


def test_another_ack_id_publisher_or_partition_is_another_publish():
    client = Client("1")
    gateway = Gateway(client)
    body = pack_body(Message(DataType.TEXT, b"hi", None, None))
    others = ((7, "publisher", 3), (7, "publisher", 4), (7, "somebody", 3), (8, "publisher", 3))
    for number, (partition, publisher, ack_id) in enumerate(others, 1):
        gateway.envelopes([[partition, 5, "s", number, KEY, body, publisher, ack_id]])
    assert (len(client.got), gateway.repeated) == (4, 0)


def test_what_came_when_nobody_was_here_does_not_keep_it_from_who_joins():
    gateway = Gateway()
    body = pack_body(Message(DataType.TEXT, b"hi", None, None))
    gateway.envelopes([[7, 5, "s", 1, KEY, body, "publisher", 3]])
    client = Client("1")
    gateway.hubs.add(client)
    gateway.envelopes([[7, 6, "t", 1, KEY, body, "publisher", 3]])
    assert len(client.got) == 1
