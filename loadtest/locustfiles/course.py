"""The course of a run over all processes: all connect, then all send at once, then it waits for what is
under way.

Senders start when the last client is connected, so whoever must get a message is there when it is sent, and
what does not come is lost. Works the same in one process and with distributed workers: over messages of
locust's runner.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from pathlib import Path
from typing import Any

import gevent
import msgspec
from gevent.event import Event
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtest.locustfiles import pages
from loadtest.locustfiles.ledger import Histogram, Ledger, total
from loadtest.locustfiles.scenarios import Scenario
from loadtest.locustfiles.verdict import verdict

log = logging.getLogger("loadtest")

SETTLE_SECONDS = 1.0
TELL_SECONDS = 1.0
WATCH_SECONDS = 0.05
POINTS = 120
NOT_ONCE, FAILED = 2, 3
"""Exit codes of locust: messages were lost or came twice; the run did not come about. Its own 1 is for
refusals."""


class Course:
    """One a process. The parts for workers and the one that leads are used where they apply; locally both."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.options = environment.parsed_options
        self.reset()

    def reset(self) -> None:
        """Before each run."""
        self.ledger = Ledger(max(1.0, self.options.seconds / POINTS))
        self.run, self.began, self.users = "", 0.0, {}
        self.go = Event()
        self.connected = self.senders = self.clients = self.publishers = 0
        self.lags, self._cpu, self._wall = Histogram(), 0.0, 0.0
        self.ready: dict[str, int] = {}
        self.told: dict[str, dict[str, Any]] = {}
        self.failure = ""

    def listen(self) -> None:
        """Registers for the messages. Once, when the runner is there."""
        runner = self.environment.runner
        assert runner is not None
        runner.register_message("hubwire_ready", lambda environment, msg, **_: self._is_ready(msg.data))
        runner.register_message("hubwire_counts", lambda environment, msg, **_: self._is_told(msg.data))
        runner.register_message("hubwire_go", lambda environment, msg, **_: self._start(msg.data))

    # In a process with clients

    @property
    def worker(self) -> str:
        return str(getattr(self.environment.runner, "worker_index", 0))

    def now(self) -> float:
        """Seconds into the run."""
        return time.time() - self.began

    @property
    def over(self) -> bool:
        """Whether nothing is to be sent any more."""
        return self.go.is_set() and self.now() >= self.options.seconds

    def is_connected(self) -> None:
        """One more client is, for the first time."""
        self.connected += 1
        self.environment.runner.send_message(
            "hubwire_ready", {"worker": self.worker, "count": self.connected}
        )

    def _start(self, data: dict[str, Any]) -> None:
        if self.go.is_set():
            return
        self.run, self.users, self.began = data["run"], data["users"], data["began"]
        gevent.spawn_later(max(0.0, self.began - time.time()), self.go.set)
        gevent.spawn(self._tell, data["run"])
        gevent.spawn(self._watch, data["run"])

    def _tell(self, run: str) -> None:
        """Until the run has ended, its account goes to who leads."""
        while self.run == run:
            gevent.sleep(TELL_SECONDS)
            self.environment.runner.send_message("hubwire_counts", self.account())

    def account(self) -> dict[str, Any]:
        """What this process knows."""
        return {
            "worker": self.worker,
            "sending": not self.over or self.senders > 0,
            "ledger": self.ledger.snapshot(),
            "generator": {
                "cpu": self._cpu / self._wall if self._wall else 0.0,
                "lag_p99_ms": self.lags.at(0.99) * 1000,
                "load": os.getloadavg()[0] / len(os.sched_getaffinity(0)),
            },
        }

    def _watch(self, run: str) -> None:
        """How late the loop wakes, and what CPU this process takes, while it sends."""
        self.go.wait()
        since, used, worst = time.monotonic(), time.process_time(), 0.0
        while self.run == run and not self.over:
            planned = time.monotonic() + WATCH_SECONDS
            gevent.sleep(WATCH_SECONDS)
            now = time.monotonic()
            self.lags.note(now - planned)
            worst = max(worst, now - planned)
            if now - since >= TELL_SECONDS:
                cpu = time.process_time() - used
                self._cpu, self._wall = self._cpu + cpu, self._wall + now - since
                self.ledger.loaded(self.now(), cpu / (now - since), worst)
                since, used, worst = now, used + cpu, 0.0

    # Where the run is led

    def _is_ready(self, data: dict[str, Any]) -> None:
        self.ready[data["worker"]] = data["count"]

    def _is_told(self, data: dict[str, Any]) -> None:
        self.told[data["worker"]] = data

    def all_are_connected(self) -> bool:
        return sum(self.ready.values()) >= self.options.connections

    def start_all(self) -> float:
        """Lets all senders start, and says when, in Unix time."""
        began = time.time() + SETTLE_SECONDS
        run = secrets.token_hex(4)
        data = {"run": run, "users": self.ready, "began": began}
        self.run = run
        self.environment.runner.send_message("hubwire_go", data)
        return began

    def sending(self) -> bool:
        """Whether a process sends still, or has not told yet."""
        processes = getattr(self.environment.runner, "worker_count", 1)
        return len(self.told) < processes or any(one["sending"] for one in self.told.values())

    def sums(self) -> dict[str, Any]:
        return total([one["ledger"] for one in self.told.values()])

    def result(self, scenario: Scenario) -> dict[str, Any]:
        """The report as data."""
        account = self.sums()
        generators = {name: one["generator"] for name, one in self.told.items()}
        limited, sentence = verdict(account, generators)
        options = self.options
        return {
            "scenario": scenario.name,
            "verdict": self.failure or sentence,
            "generator_was_the_limit": limited,
            "account": account,
            "generators": generators,
            "conditions": {
                "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
                "endpoint": options.endpoint,
                "protocol": options.protocol,
                "connections": sum(self.ready.values()),
                "rate": options.rate,
                "bytes": options.bytes,
                "seconds": options.seconds,
                "locust processes": len(self.told),
                "cores": len(os.sched_getaffinity(0)),
                "load average": round(os.getloadavg()[0], 1),
            },
        }

    def finish(self, scenario: Scenario) -> None:
        """Where the run was led: the exit code of locust, and the report as files if a folder for it was
        named."""
        if isinstance(self.environment.runner, WorkerRunner) or not (self.ready or self.failure):
            return
        result = self.result(scenario)
        account = result["account"]
        if self.failure:
            log.error(self.failure)
            self.environment.process_exit_code = FAILED
        elif account["lost"] or account["twice"] or account["strange"]:
            self.environment.process_exit_code = NOT_ONCE
        told = ", ".join(
            f"{name} {account[name]}" for name in ("sent", "expected", "lost", "twice", "strange")
        )
        log.info("%s: %s. %s", scenario.name, told, result["verdict"])
        if not self.options.out:
            return
        folder = Path(self.options.out)
        folder.mkdir(parents=True, exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(result), indent=1)
        (folder / f"{scenario.name}.json").write_bytes(text + b"\n")
        (folder / f"{scenario.name}.html").write_text(pages.page(result))
