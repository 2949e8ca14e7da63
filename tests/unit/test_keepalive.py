"""Client-protocols.md 1.10."""

from __future__ import annotations

import pytest

from gateway.frames import PING_FRAME
from gateway.keepalive import KeepAlive


class Client:
    def __init__(self, hub="chat"):
        self.hub = hub
        self.over = self.finished = self.reading_paused = False
        self.silent = self.ping_slot = 0
        self.sent = []
        self.cut_as = None

    def send(self, data):
        self.sent.append(data)

    def cut(self, category, _reason):
        self.cut_as = category
        self.over = True


class Clients(KeepAlive):
    def __init__(self, **intervals):
        self.intervals = intervals
        super().__init__(lambda hub: self.intervals.get(hub, 20))

    def seconds(self, count, *answering):
        for _ in range(count):
            self.tick()
            for client in answering:
                client.silent = 0


@pytest.mark.parametrize("interval", [1, 20, 120])
def test_a_client_is_pinged_once_an_interval_and_stays_while_it_answers(interval):
    clients, client = Clients(chat=interval), Client()
    clients.add(client)
    clients.seconds(interval - 1, client)
    assert client.sent == []
    clients.seconds(1, client)
    assert client.sent == [PING_FRAME]
    clients.seconds(9 * interval, client)
    assert client.sent == [PING_FRAME] * 10
    assert client.cut_as is None


@pytest.mark.parametrize("interval", [1, 20])
def test_a_client_that_falls_silent_is_cut_after_three_intervals(interval):
    clients, client = Clients(chat=interval), Client()
    clients.add(client)
    clients.seconds(5 * interval, client)
    clients.seconds(3 * interval - 1)
    assert client.cut_as is None
    clients.seconds(1)
    assert client.cut_as == "PingTimeout"
    assert clients.timeouts == 1
    assert len(clients) == 0


def test_any_frame_counts_as_a_sign_of_life():
    clients, client = Clients(chat=2), Client()
    clients.add(client)
    for _ in range(20):
        clients.seconds(3)
        client.silent = 0
    assert client.cut_as is None


def test_a_client_whose_socket_we_do_not_read_is_not_blamed():
    clients, client = Clients(chat=1), Client()
    client.reading_paused = True
    clients.add(client)
    clients.seconds(50)
    assert client.cut_as is None
    client.reading_paused = False
    clients.seconds(3)
    assert client.cut_as == "PingTimeout"


def test_a_shorter_interval_counts_at_once_and_cuts_nobody_who_answers():
    """Silence was measured in seconds, so that after a change from 120 s to 1 s everybody was cut who had
    last been heard a few seconds ago."""
    clients, client, other = Clients(chat=120, other=120), Client(), Client("other")
    clients.add(client)
    clients.add(other)
    clients.seconds(100, client, other)
    clients.intervals["chat"] = 1
    clients.settings_changed()
    clients.seconds(1, client)
    assert client.sent == [PING_FRAME]
    assert other.sent == []
    clients.seconds(10, client, other)
    assert client.cut_as is None
    assert len(client.sent) == 11
    clients.seconds(9, client, other)
    assert len(other.sent) == 1


def test_a_change_of_other_settings_moves_nobody():
    clients, client = Clients(chat=5), Client()
    clients.add(client)
    clients.seconds(4, client)
    clients.settings_changed()
    clients.seconds(1, client)
    assert len(client.sent) == 1


def test_those_that_have_ended_are_forgotten_and_discarding_twice_is_allowed():
    clients, client, over = Clients(chat=1), Client(), Client()
    clients.add(client)
    clients.add(over)
    clients.discard(client)
    clients.discard(client)
    over.over = True
    clients.seconds(3)
    assert client.sent == over.sent == []
    assert len(clients) == 0


def test_one_that_ends_another_while_it_is_pinged_is_no_trouble():
    clients, first, second = Clients(chat=1), Client(), Client()
    clients.add(first)
    clients.add(second)

    def end_second(data):
        second.over = True
        clients.discard(second)

    first.send = end_second
    clients.seconds(3, first)
    assert second.sent == []
    assert len(clients) == 1
