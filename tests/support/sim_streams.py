"""The streams of a simulated JetStream, for `support.sim_bus`: inboxes and the records of sessions.

At the level of subjects and JSON that hubwire.bus uses: writes with compare-and-set, INFO, CREATE, UPDATE,
PURGE, DELETE, NAMES, MSG.GET, push consumers with heartbeats, pull consumers with pages. A leader can be
silent, a write can be stored late and behind later ones, and an answer can be lost.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from hubwire.bus.client import NO_RESPONDERS
from hubwire.bus.subjects import INBOX_STREAM_PREFIX, SESSIONS_STREAM

if TYPE_CHECKING:
    from support.sim_bus import SimBus, SimNats

UNIX_TIME = 1_700_000_000.0  # of the world's clock at 0
LONGEST_DELAY = 2.5  # seconds that a write may wait for its leader when writes are late
_OURS = (INBOX_STREAM_PREFIX, SESSIONS_STREAM)


@dataclass(eq=False)
class _Pull:
    subject: str
    left: int
    room: int
    expires: float


@dataclass(eq=False)
class _Consumer:
    name: str
    bus: SimBus
    life: int
    following: int
    subject: str = ""  # where a push consumer brings its messages
    heartbeat: float = 0.0
    delivered: int = 0
    spoke: float = 0.0
    pulls: deque[_Pull] = field(default_factory=deque)

    @property
    def heard(self) -> bool:
        return self.bus.connected and self.bus.life == self.life


class Stream:
    """One stream. `messages` has no gaps but where the last of a subject counts only."""

    def __init__(self, config: dict[str, Any], created: str) -> None:
        self.config = config
        self.created = created
        self.subject: str = config["subjects"][0]
        self.messages: dict[int, tuple[str, bytes, int]] = {}
        self.first = self.last = self.bytes = 0
        self.last_of: dict[str, int] = {}
        self.consumers: dict[str, _Consumer] = {}
        self.silent_until = 0.0
        self.nobody = False  # how it is silent: the server says that nobody listens

    @property
    def name(self) -> str:
        return str(self.config["name"])

    def takes(self, subject: str) -> bool:
        return subject == self.subject or (self.subject[-1] == "*" and subject.startswith(self.subject[:-1]))

    def info(self) -> dict[str, Any]:
        state = {"first_seq": self.first, "last_seq": self.last, "bytes": self.bytes}
        return {"created": self.created, "state": state, "config": self.config}

    def store(self, subject: str, data: bytes, time_ns: int) -> int:
        self.last += 1
        self.first = self.first or 1
        self.messages[self.last] = (subject, data, time_ns)
        self.bytes += len(data)
        before = self.last_of.get(subject)
        if self.config.get("max_msgs_per_subject") == 1 and before is not None:
            self.bytes -= len(self.messages.pop(before)[1])
        self.last_of[subject] = self.last
        return self.last

    def purge(self, below: int) -> None:
        for seq in range(self.first, min(below, self.last + 1)):
            found = self.messages.pop(seq, None)
            if found is not None:
                self.bytes -= len(found[1])
        self.first = max(self.first, min(below, self.last + 1))


class SimStreams:
    """All of them. `late` and `mute` are how likely a write comes late, and an answer never."""

    def __init__(self, nats: SimNats) -> None:
        self.nats = nats
        self.world = nats.world
        self.streams: dict[str, Stream] = {}
        self.late = 0.0
        self.mute = 0.0
        self.on_stored: Callable[[str, bytes], None] = lambda _subject, _data: None

    def forget(self) -> None:
        """A memory-mode server has restarted."""
        self.streams.clear()

    def be_silent(self, name: str, seconds: float, *, nobody: bool) -> None:
        stream = self.streams[name]
        stream.silent_until, stream.nobody = self.world.now + seconds, nobody

    @staticmethod
    def takes(subject: str) -> bool:
        if subject.startswith(("hw.inbox.", "hw.session.")) or subject == "$JS.API.STREAM.NAMES":
            return True
        return subject.startswith("$JS.API.") and any(f".{prefix}" in subject for prefix in _OURS)

    def received(self, sender: SimBus, subject: str, data: bytes, reply: str, headers: bytes) -> None:
        if self.nats.stalled:
            return
        answer: Any
        if subject.startswith("hw."):
            stream = next((one for one in self.streams.values() if one.takes(subject)), None)
            if stream is None or (self._is_silent(stream) and stream.nobody):
                self._nobody(sender, reply)
                return
            if self._is_silent(stream):
                return
            store = partial(self._write, sender, stream, subject, data, reply, headers)
            if self.late and self.world.chance.random() < self.late:
                self.world.at(self.world.now + self.world.chance.random() * LONGEST_DELAY, store)
            else:
                store()
            return
        if subject == "$JS.API.STREAM.NAMES":
            names = [name for name in sorted(self.streams) if name.startswith(INBOX_STREAM_PREFIX)]
            offset = json.loads(data)["offset"]
            answer = {"streams": names[offset : offset + 3], "total": len(names)}  # pages happen
        else:
            answer = self._api(sender, subject.split(".")[2:], data, reply)
        if answer is not None:
            self._answer(sender, reply, answer)

    def _is_silent(self, stream: Stream) -> bool:
        return stream.silent_until > self.world.now

    def _nobody(self, sender: SimBus, reply: str) -> None:
        if reply:
            sender.deliver(reply, NO_RESPONDERS, b"", b"NATS/1.0 503\r\n\r\n")

    def _answer(self, sender: SimBus, reply: str, answer: Any) -> None:
        if reply and not (self.mute and self.world.chance.random() < self.mute):
            sender.deliver(reply, "", json.dumps(answer).encode())

    # -- writes --------------------------------------------------------------------------------------

    def _write(
        self, sender: SimBus, stream: Stream, subject: str, data: bytes, reply: str, headers: bytes
    ) -> None:
        if self.streams.get(stream.name) is not stream:
            return
        expected = _header(headers, "Nats-Expected-Last-Subject-Sequence")
        room = int(stream.config.get("max_bytes", -1))
        answer: dict[str, Any]
        if expected is not None and int(expected) != stream.last_of.get(subject, 0):
            answer = {"error": {"code": 400, "err_code": 10071, "description": "wrong last sequence"}}
        elif 0 < room < stream.bytes + len(data):
            answer = {"error": {"code": 400, "err_code": 10077, "description": "maximum bytes exceeded"}}
        else:
            seq = stream.store(subject, data, int((UNIX_TIME + self.world.now) * 1e9))
            answer = {"stream": stream.name, "seq": seq}
            self.on_stored(subject, data)
            for consumer in [*stream.consumers.values()]:
                self._pump(stream, consumer)
        self._answer(sender, reply, answer)

    # -- the API -------------------------------------------------------------------------------------

    def _api(self, sender: SimBus, tokens: list[str], data: bytes, reply: str) -> Any:
        request = json.loads(data) if data else {}
        if tokens[0] == "CONSUMER":
            return self._consumer_api(sender, tokens[1:], request, reply)
        operation, name = ".".join(tokens[1:-1]), tokens[-1]
        stream = self.streams.get(name)
        if operation == "CREATE" and stream is None:
            created = datetime.fromtimestamp(self.world.now, UTC).isoformat() + f"/{self.world.next_id()}"
            stream = self.streams[name] = Stream(request, created)
        if stream is None:
            return {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}}
        if self._is_silent(stream):
            return None
        if operation in ("CREATE", "INFO"):
            return stream.info()
        if operation == "UPDATE":
            stream.config = request
            return stream.info()
        if operation == "PURGE":
            stream.purge(request["seq"])
            return {"success": True}
        if operation == "DELETE":
            del self.streams[name]
            return {"success": True}
        assert operation == "MSG.GET", operation
        seq = stream.last_of.get(request["last_by_subj"])
        if seq is None:
            return {"error": {"code": 404, "err_code": 10037, "description": "no message found"}}
        subject, stored, _ = stream.messages[seq]
        return {"message": {"seq": seq, "subject": subject, "data": b64encode(stored).decode()}}

    def _consumer_api(
        self, sender: SimBus, tokens: list[str], request: dict[str, Any], reply: str
    ) -> dict[str, Any] | None:
        operation, (stream_name, name) = ".".join(tokens[:-2]), tokens[-2:]
        stream = self.streams.get(stream_name)
        if operation == "MSG.NEXT":
            consumer = stream.consumers.get(name) if stream is not None else None
            if stream is None or consumer is None:
                self._nobody(sender, reply)
            elif not self._is_silent(stream):
                expires = self.world.now + request["expires"] / 1e9
                pull = _Pull(reply, request["batch"], request["max_bytes"], expires)
                consumer.pulls.append(pull)
                self.world.at(expires, partial(self._expire, consumer, pull))
                self._pump(stream, consumer)
            return None
        if stream is None:
            return {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}}
        if self._is_silent(stream):
            return None
        if operation == "DELETE":
            stream.consumers.pop(name, None)
            return {"success": True}
        assert operation == "CREATE", operation
        config = request["config"]
        consumer = _Consumer(name, sender, sender.life, config["opt_start_seq"])
        stream.consumers[name] = consumer
        if "deliver_subject" in config:
            consumer.subject, consumer.heartbeat = config["deliver_subject"], config["idle_heartbeat"] / 1e9
            self.world.at(self.world.now + consumer.heartbeat, partial(self._beat, stream, consumer))
            self.world.at(self.world.now, partial(self._pump, stream, consumer))
        return {"name": name, "config": config}

    # -- consumers -------------------------------------------------------------------------------------

    def _there(self, stream: Stream, consumer: _Consumer) -> bool:
        if self.streams.get(stream.name) is not stream or stream.consumers.get(consumer.name) is not consumer:
            return False
        if not consumer.heard:
            del stream.consumers[consumer.name]
            return False
        return True

    def _pump(self, stream: Stream, consumer: _Consumer) -> None:
        """Bring what can be brought."""
        if not self._there(stream, consumer) or self._is_silent(stream) or self.nats.stalled:
            return
        while consumer.following <= stream.last:
            seq = max(consumer.following, stream.first)
            if seq > stream.last:
                return
            _, data, time_ns = stream.messages[seq]
            subject = consumer.subject
            if not subject:
                if not consumer.pulls:
                    return
                pull = consumer.pulls[0]
                if len(data) > pull.room:
                    self._end(consumer, pull, b"409 Message Size Exceeds MaxBytes")
                    continue
                subject = pull.subject
                pull.room -= len(data)
                pull.left -= 1
                if not pull.left:
                    consumer.pulls.popleft()
            consumer.delivered += 1
            consumer.following = seq + 1
            consumer.spoke = self.world.now
            place = f"{stream.name}.{consumer.name}.1.{seq}.{consumer.delivered}.{time_ns}"
            consumer.bus.deliver(subject, f"$JS.ACK.{place}.{stream.last - seq}", data)

    def _beat(self, stream: Stream, consumer: _Consumer) -> None:
        if not self._there(stream, consumer):
            return
        self._pump(stream, consumer)
        quiet = self.world.now - consumer.spoke >= consumer.heartbeat * 0.99
        if quiet and not self._is_silent(stream) and not self.nats.stalled:
            headers = f"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: {consumer.delivered}\r\n\r\n"
            consumer.bus.deliver(consumer.subject, "", b"", headers.encode())
        self.world.at(self.world.now + consumer.heartbeat, partial(self._beat, stream, consumer))

    def _expire(self, consumer: _Consumer, pull: _Pull) -> None:
        if pull in consumer.pulls:
            self._end(consumer, pull, b"408 Request Timeout")

    @staticmethod
    def _end(consumer: _Consumer, pull: _Pull, status: bytes) -> None:
        consumer.pulls.remove(pull)
        if consumer.heard:
            consumer.bus.deliver(pull.subject, "", b"", b"NATS/1.0 " + status + b"\r\n\r\n")


def _header(headers: bytes, name: str) -> str | None:
    for line in headers.decode().split("\r\n"):
        key, found, value = line.partition(": ")
        if found and key == name:
            return value
    return None
