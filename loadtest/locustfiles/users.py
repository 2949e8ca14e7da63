"""What the locust files are made of: clients, REST publishers, and the shape that leads a run.

A client that leaves out what a scenario does can be made from `Member` by replacing `work`.
"""

from __future__ import annotations

import http.client
import random
import time
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

import gevent
from gevent.event import AsyncResult
from gevent.pool import Group
from locust import LoadTestShape, User, events, task
from locust.exception import StopUser

from hubwire.model.tokens import sign_client_token, sign_rest_token
from loadtest.locustfiles import stamps
from loadtest.locustfiles.course import Course
from loadtest.locustfiles.ledger import ONE, Seen
from loadtest.locustfiles.member_socket import Gone, MemberSocket, event, join, send_to_group
from loadtest.locustfiles.options import ready
from loadtest.locustfiles.scenarios import PROTOCOLS, Scenario, refusal

ROLES = ("webpubsub.joinLeaveGroup", "webpubsub.sendToGroup")
ANSWER_SECONDS = 30.0
UNANSWERED = 1000
"""A client with so many sends that were not answered waits before the next; it then counts as behind."""
CONNECT_AGAIN_SECONDS = 1.0
TWICE_SECONDS = 1.5
"""So long is waited when all has come, for what may come once more."""


class _Paced(User):
    """Sends in an open loop: at times that do not depend on how long the sends before took."""

    abstract = True
    scenario: ClassVar[Scenario]

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.course: Course = environment.hubwire_course
        self.options = environment.parsed_options
        self._numbers: dict[str, int] = {}

    @task
    def play(self) -> None:
        """The one task that locust knows: `work`, once all are connected."""
        self.course.go.wait()
        self.course.senders += 1
        try:
            self.work()
        finally:
            self.course.senders -= 1
        gevent.sleep(1e6)  # until the run ends

    def work(self) -> None:
        """What a user does between the start of all and the end of the sending. Not a locust task: locust
        adds the tasks of a class to those of its bases."""
        raise NotImplementedError

    def pace(self, interval: float) -> None:
        """Calls `send_one` every `interval` seconds from a random first time on, until the run is over."""
        due = random.random() * interval
        while due < self.options.seconds:
            gevent.sleep(max(0.0, due - self.course.now()))
            self.send_one(due)
            due += interval

    def send_one(self, due: float) -> None:
        raise NotImplementedError

    def stamped(self, key: str, target: str, sender: str, due: float) -> str:
        """The text of the next message, which counts as sent."""
        number = self._numbers.get(target, 0)
        self._numbers[target] = number + 1
        now = self.course.now()
        self.course.ledger.sending(key, now, now - due)
        stamp = stamps.Stamp(self.course.run, target, sender, number, time.time_ns())
        return stamps.write(stamp, self.options.bytes)

    def told(
        self, kind: str, name: str, seconds: float, size: int = 0, fault: Exception | None = None
    ) -> None:
        """For locust's own statistics, which the web UI shows."""
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=seconds * 1000,
            response_length=size,
            exception=fault,
            context={},
        )


class Member(_Paced):
    """A WebSocket client. It reads in a greenlet of its own, comes back when it loses its connection, and
    sends if the scenario is one where clients do."""

    abstract = True

    def on_start(self) -> None:
        self.number = self.course.clients
        self.course.clients += 1
        self.name = f"u{self.course.worker}-{self.number}"
        self.target, self.key = self._target()
        self._seen: dict[str, Seen] = {}
        self._waiting: dict[int, AsyncResult] = {}
        self._acks = 0
        self.socket = MemberSocket(self._url, PROTOCOLS[self.options.protocol], self._came, self._answered)
        self._tasks = Group()
        self._connect()
        self._tasks.spawn(self._read)
        if self.scenario.to == "group":
            self._join()
        if self.key != ONE:
            self.course.ledger.joined(self.key)
        self.course.is_connected()

    def _target(self) -> tuple[str, str]:
        """(what the stamps of its messages say, what they are counted under)."""
        if self.scenario.to == "group":
            # Groups are spread over the workers, so that each has members everywhere.
            group = f"g{self.number % self.scenario.group_count(self.options.connections)}"
            return group, group
        return ("all", "all") if self.scenario.to == "all" else (self.name, ONE)

    def _url(self) -> str:
        options = self.options
        token = sign_client_token(
            options.access_key,
            endpoint=options.endpoint,
            hub=options.hub,
            user_id=self.name,
            roles=ROLES,
            minutes=1440,
            now=time.time(),
        )
        return f"ws{options.endpoint[4:]}/client/hubs/{quote(options.hub)}?access_token={token}"

    def _connect(self) -> None:
        while True:
            began = time.perf_counter()
            try:
                self.socket.connect()
                self.told("WS", "connect", time.perf_counter() - began)
                return
            except Gone as fault:
                self.told("WS", "connect", time.perf_counter() - began, fault=fault)
                gevent.sleep(CONNECT_AGAIN_SECONDS)

    def _join(self) -> None:
        number, answer = self._question()
        self.socket.send(join(self.target, number))
        if not answer.get(timeout=ANSWER_SECONDS):
            raise StopUser(f"the service refused the group {self.target}")

    def _read(self) -> None:
        """Until the user is stopped."""
        while True:
            try:
                self.socket.read()
            except Gone as fault:
                self.told("WS", "lost", 0.0, fault=fault)
                self._come_back()

    def _come_back(self) -> None:
        counts = self.course.ledger.counts
        if self.socket.recover():
            counts["recovered"] += 1
            return
        for answer in list(self._waiting.values()):
            answer.set(None)
        self._connect()
        counts["reconnects"] += 1
        if self.scenario.to == "group":
            self.socket.send(join(self.target, self._question()[0]))

    def _question(self) -> tuple[int, AsyncResult]:
        self._acks += 1
        answer = self._waiting[self._acks] = AsyncResult()
        return self._acks, answer

    def _answered(self, number: int, done: bool) -> None:
        answer = self._waiting.pop(number, None)
        if answer is not None:
            answer.set(done)

    def _came(self, data: str) -> None:
        stamp = stamps.read(data) if isinstance(data, str) else None
        if stamp is None or stamp.run != self.course.run:
            return
        ledger = self.course.ledger
        if stamp.target != self.target:
            ledger.counts["strange"] += 1
            return
        new = self._seen.setdefault(stamp.sender, Seen()).add(stamp.number)
        latency = (time.time_ns() - stamp.sent_ns) / 1e9
        ledger.came(self.key, new, self.course.now(), latency)
        # Straight to the statistics: the event for each delivery would be the greatest cost of this process.
        self.environment.runner.stats.log_request("WS", "delivered", latency * 1000, len(data))

    def work(self) -> None:
        """Sends if in this scenario clients do."""
        if self.scenario.sent_by != "rest":
            self.pace(self.options.connections / self.options.rate)

    def send_one(self, due: float) -> None:
        """Sends, and leaves the answer to a greenlet: the next send must not wait for it."""
        if len(self._waiting) >= UNANSWERED:
            next(iter(self._waiting.values())).wait(timeout=ANSWER_SECONDS)
        text = self.stamped(self.key, self.target, self.name, due)
        if not PROTOCOLS[self.options.protocol]:
            self._sent(text)
            return
        number, answer = self._question()
        began = time.perf_counter()
        if self.scenario.sent_by == "events":
            frame = event("echo", text, number)
        else:
            frame = send_to_group(self.target, text, number)
        if self._sent(frame) or self.socket.reliable:
            self._tasks.spawn(self._follow, number, frame, answer, began)
        else:
            self._waiting.pop(number, None)

    def _sent(self, frame: str) -> bool:
        try:
            self.socket.send(frame)
        except Gone:
            if not self.socket.reliable:
                self.course.ledger.was_refused(self.key)  # it did not leave this process whole
            return False
        return True

    def _follow(self, number: int, frame: str, answer: AsyncResult, began: float) -> None:
        """Waits for the answer. A reliable client says it again with the same number, as the SDKs do: the
        service does nothing twice."""
        self.course.senders += 1
        try:
            answer.wait(timeout=ANSWER_SECONDS)
            if not answer.ready() and self.socket.reliable:
                self.course.ledger.counts["retried"] += 1
                self._sent(frame)
                answer.wait(timeout=ANSWER_SECONDS)
        finally:
            self.course.senders -= 1
            self._waiting.pop(number, None)
        seconds = time.perf_counter() - began
        if answer.value:
            self.course.ledger.answers.note(seconds)
            self.told("WS", "send", seconds, self.options.bytes)
        elif answer.value is False:
            self.course.ledger.was_refused(self.key)
            self.told("WS", "send", seconds, fault=RuntimeError("the service refused a message"))
        else:
            self.course.ledger.counts["unknown"] += 1
            self.told("WS", "send", seconds, fault=Gone("no answer"))

    def on_stop(self) -> None:
        self.course.ledger.counts["resent"] += self.socket.resent
        self._tasks.kill()
        self.socket.close()


class Publisher(_Paced):
    """Sends by REST, over one connection that it keeps. It waits for each answer, so it takes several for a
    rate above what one can have answered."""

    abstract = True
    fixed_count = 4

    def on_start(self) -> None:
        self.name = f"p{self.course.worker}-{self.course.publishers}"
        self.course.publishers += 1
        self._connection: http.client.HTTPConnection | None = None
        self._turn = random.randrange(1 << 20)

    def work(self) -> None:
        self._users = [f"u{worker}-{n}" for worker, count in self.course.users.items() for n in range(count)]
        self.pace(self.options.publishers / self.options.rate)

    def send_one(self, due: float) -> None:
        self._turn += 1
        user = self._users[self._turn % len(self._users)]
        one = self.scenario.to == "one"
        key, target = (ONE, user) if one else ("all", "all")
        path = f"/api/hubs/{quote(self.options.hub)}" + (f"/users/{user}" if one else "")
        self._post(key, path + "/:send?api-version=2024-12-01", self.stamped(key, target, self.name, due))

    def _post(self, key: str, path: str, text: str) -> None:
        began = time.perf_counter()
        try:
            status = self._status(path, text)
        except (OSError, http.client.HTTPException) as fault:
            self._close()
            self.course.ledger.counts["unknown"] += 1
            self.told("REST", "send", time.perf_counter() - began, fault=fault)
            return
        seconds = time.perf_counter() - began
        if status == 202:
            self.course.ledger.answers.note(seconds)
            self.told("REST", "send", seconds, len(text))
        else:
            self.course.ledger.was_refused(key)
            self.told("REST", "send", seconds, fault=RuntimeError(f"status {status}"))

    def _status(self, path: str, text: str) -> int:
        if self._connection is None:
            at = urlsplit(self.options.endpoint)
            kind = http.client.HTTPSConnection if at.scheme == "https" else http.client.HTTPConnection
            self._connection = kind(at.netloc, timeout=ANSWER_SECONDS)
        token = sign_rest_token(self.options.access_key, self.options.endpoint + path, time.time())
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "text/plain"}
        self._connection.request("POST", path, text.encode(), headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def on_stop(self) -> None:
        self._close()


class Shape(LoadTestShape):
    """Connects all, lets them send for --seconds, waits for what is under way, and ends the run."""

    abstract = True
    scenario: ClassVar[Scenario]

    def reset_time(self) -> None:
        super().reset_time()
        self._began = self._ended = 0.0
        self._asked = False

    def tick(self) -> tuple[int, float] | None:
        course: Course = self.runner.environment.hubwire_course
        options = course.options
        publishers = options.publishers if self.scenario.sent_by == "rest" else 0
        users = options.connections + publishers
        now = time.time()
        if not self._asked:  # the run starts after this, and what the course knows is of the one before
            self._asked = True
        elif course.failure:
            return None
        elif not self._began:
            if course.all_are_connected():
                self._began = course.start_all()
            elif self.get_run_time() > options.connect_deadline:
                course.failure = (
                    f"only {sum(course.ready.values())} of {options.connections} clients were connected "
                    f"after {options.connect_deadline:.0f} s"
                )
        elif now > self._began + options.seconds and self._has_ended(course, now):
            return None
        return users, min(options.connect_rate, users)

    def _has_ended(self, course: Course, now: float) -> bool:
        """Whether all has come, or enough time has passed for what has not."""
        course_end = self._began + course.options.seconds
        if course.sending():
            return now > course_end + 3 * ANSWER_SECONDS
        self._ended = self._ended or now
        waited = now - self._ended
        return waited > course.options.drain or (waited > TWICE_SECONDS and course.sums()["lost"] == 0)


def play(scenario: Scenario) -> None:
    """Called by a locust file: what happens when locust starts, and when a run starts and ends."""

    @events.init.add_listener
    def _(environment: Any, **more: Any) -> None:
        ready(environment.parsed_options, scenario)
        course = environment.hubwire_course = Course(environment)
        if environment.runner is not None:
            course.listen()

    @events.test_start.add_listener
    def _(environment: Any, **more: Any) -> None:
        course, options = environment.hubwire_course, environment.parsed_options
        course.reset()  # the web UI has several runs, and changes options between them
        course.failure = refusal(scenario, options.protocol)
        for one in environment.user_classes:
            if issubclass(one, Publisher):
                one.fixed_count = options.publishers

    @events.test_stop.add_listener
    def _(environment: Any, **more: Any) -> None:
        environment.hubwire_course.finish(scenario)
        environment.hubwire_course.run = ""
