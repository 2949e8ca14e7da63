"""A little supervised family for tests of the supervisor: run as `python -m support.supervised SCENARIO`.

Prints one JSON object a line: {"ready": true}, and what children tell of themselves.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from hubwire.model.errors import Unavailable
from hubwire.runtime.child import BEAT, ChildContext, ChildSpec
from hubwire.runtime.logs import configure_logs
from hubwire.runtime.supervisor import ChildFailed, Supervisor

served: list[bool] = []


def tell(**facts: object) -> None:
    os.write(1, (json.dumps(facts) + "\n").encode())


def serve(context: ChildContext) -> None:
    """A good child: serves until SIGTERM, then tells that it stops."""
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    tell(child=context.name, pid=os.getpid())
    context.ready()
    while not stopped:
        time.sleep(0.01)
    tell(stopped=context.name)


def stubborn(context: ChildContext) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell(child=context.name, pid=os.getpid())
    context.ready()
    while True:
        time.sleep(1)


def beating(context: ChildContext) -> None:
    """A good child that beats."""
    tell(child=context.name, pid=os.getpid())
    context.ready()
    while True:
        os.write(context.ready_fd, BEAT)
        time.sleep(0.05)


def broken(context: ChildContext) -> None:
    """As a service ends that cannot start: it logs, and exits."""
    try:
        raise ExceptionGroup("tasks", [Unavailable("the disk is full")])
    except ExceptionGroup:
        sys.exit(1)


def silent(context: ChildContext) -> None:
    tell(child=context.name, pid=os.getpid())
    time.sleep(60)


def weak(context: ChildContext) -> None:
    """Serves well the first time; every later run ends as soon as it serves."""
    if not served:
        serve(context)
    tell(child=context.name, pid=os.getpid())
    context.ready()
    raise RuntimeError("the cable was pulled")


SCENARIOS = {
    "family": [
        ChildSpec(name="bus", run=serve, stage=0, stop_rank=2),
        ChildSpec(name="router", run=serve, stage=1, stop_rank=1),
        ChildSpec(name="gateway", run=serve, stage=1, stop_rank=0),
    ],
    "stubborn": [ChildSpec(name="stubborn", run=stubborn, stop_seconds=0.3)],
    "patient": [ChildSpec(name="stubborn", run=stubborn, stop_seconds=60)],
    "broken": [
        ChildSpec(name="good", run=serve, stage=0),
        ChildSpec(name="bad", run=broken, stage=1),
    ],
    "silent": [
        ChildSpec(name="good", run=serve, stage=0),
        ChildSpec(name="quiet", run=silent, stage=1, start_seconds=0.3),
    ],
    "beating": [
        ChildSpec(name="beating", run=beating, beats=True, silence_seconds=0.8),
        ChildSpec(name="good", run=serve),
    ],
    "dying": [ChildSpec(name="good", run=serve), ChildSpec(name="weak", run=weak)],
}


def main() -> int:
    configure_logs("debug", "json")

    def on_ready() -> None:
        served.append(True)
        tell(ready=True, pid=os.getpid())

    try:
        Supervisor(SCENARIOS[sys.argv[1]], on_ready=on_ready).run()
    except ChildFailed as fault:
        tell(fault=str(fault))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
