"""The process behind `hubwire up`: starts the others, keeps them up, stops them in order.

Plain and synchronous on purpose: it imports the heavy modules once and forks, so start-up costs one
import, pages are shared, and a dead child is back in milliseconds. One selector waits for everything:
signals (through a wake-up descriptor), children's readiness, and their output, which is read for ever.

    stage 0 → serves → stage 1 → all serve → on_ready
    SIGINT, SIGTERM, SIGHUP → rank 0 is told to stop → gone, or killed at its deadline → rank 1 → ... → return
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum

from hubwire.model.errors import Unavailable
from hubwire.runtime.child import ChildSpec, OutputWatch, ending, fault_in, fork_child, says_ready
from hubwire.runtime.logs import get_logger
from hubwire.runtime.terminal import Terminal
from hubwire.runtime.vitals import TICK_SECONDS, AwakeClock, Vitals

_BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_STEADY_SECONDS = 30.0  # a child that served this long has its back-off forgotten
_READ_BYTES = 65536
_log = get_logger("supervisor")


class ChildFailed(Unavailable):
    """A child could not be started for the first time. Everything else has been stopped again."""

    code = "child_failed"


class _State(Enum):
    WAITING = "waiting"  # for its stage, or for its back-off to pass
    STARTING = "starting"
    SERVING = "serving"
    HUNG = "hung"  # killed for it, and not gone yet
    STOPPING = "stopping"
    GONE = "gone"


class _Child:
    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.state = _State.WAITING
        self.pid = 0
        self.deadline: float | None = None  # of the present state
        self.failures = 0
        self.since = 0.0
        self.fault = ""
        self.watch: OutputWatch | None = None
        self.vitals: Vitals | None = None  # while it serves, if anything is heard of it
        self.fds: dict[int, str] = {}

    @property
    def alive(self) -> bool:
        return self.pid != 0


class Supervisor:
    """Runs `children` until a signal says stop.

    `while_starting` is called once, after the first stage was forked: work (imports) to do meanwhile.
    `on_ready` is called once, when every child serves for the first time. A child that dies later is
    started again with a growing pause, for as long as the supervisor lives, and so is one that hangs; one
    that dies, or is not ready in time, before `on_ready` ends everything.
    """

    def __init__(
        self,
        children: Sequence[ChildSpec],
        *,
        on_ready: Callable[[], None] = lambda: None,
        while_starting: Callable[[], None] = lambda: None,
    ) -> None:
        self._children = [_Child(spec) for spec in children]
        self._on_ready = on_ready
        self._while_starting = while_starting
        self._selector = selectors.DefaultSelector()
        self._awake = AwakeClock(min([TICK_SECONDS, *(spec.silence_seconds / 4 for spec in children)]))
        self._terminal = Terminal()
        self._served = False
        self._stopping = False
        self._failure = ""
        self._wake_read, self._wake_write = socket.socketpair()
        self._parent_read, self._parent_write = os.pipe()

    def run(self) -> None:
        """Returns once everything has stopped because a signal asked for it. Raises `ChildFailed` when a
        child could not be started. However it ends, no child is left."""
        previous = self._catch_signals()
        try:
            self._start_due()
            self._while_starting()
            gc.collect()
            gc.freeze()  # what was imported stays shared: no collection in a child writes to its pages
            while any(child.state is not _State.GONE for child in self._children):
                self._turn()
        finally:
            self._kill_rest()
            self._release_signals(previous)
            self._close()
        if self._failure:
            raise ChildFailed(self._failure)

    # Signals

    def _catch_signals(self) -> dict[signal.Signals, object]:
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        # First the descriptor, then the handlers: a signal in between must not be swallowed.
        self._previous_wakeup = signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        previous: dict[signal.Signals, object] = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            # A hang-up that was ignored before us (nohup) stays ignored.
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, _only_wake)
        return previous

    def _release_signals(self, previous: dict[signal.Signals, object]) -> None:
        signal.set_wakeup_fd(self._previous_wakeup)
        for number, handler in previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signals(self) -> None:
        try:
            numbers = self._wake_read.recv(4096)
        except BlockingIOError:
            return
        self._reap()
        for number in numbers:
            if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._on_stop_signal(signal.Signals(number))

    def _on_stop_signal(self, number: signal.Signals) -> None:
        if not self._stopping:
            _log.info("stop_requested", signal=number.name)
            self._begin_stop()
            return
        _log.warning("stop_hurried", signal=number.name)  # the second Ctrl-C: no more patience
        for child in self._children:
            if child.alive:
                self._signal(child, signal.SIGKILL)

    # The loop

    def _turn(self) -> None:
        now = time.monotonic()
        deadlines = [child.deadline for child in self._children if child.deadline is not None]
        if not self._stopping:
            deadlines.append(now + self._awake.tick)
        wait = max(0.0, min(deadlines) - now) if deadlines else None
        for key, _ in self._selector.select(wait):
            if key.fileobj is self._wake_read:
                self._on_signals()
            else:
                self._on_child_fd(key.data, key.fd)
        self._on_deadlines(time.monotonic())
        if self._stopping:
            self._stop_next_rank()
        else:
            self._start_due()
            self._tell_when_ready()
            self._look_for_hung(self._awake.look())
            if self._terminal.gone() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                self._on_stop_signal(signal.SIGHUP)

    def _on_deadlines(self, now: float) -> None:
        for child in self._children:
            if child.deadline is None or child.deadline > now:
                continue
            if child.state is _State.STARTING:
                child.deadline = None
                child.fault = f"not ready within {child.spec.start_seconds:g} seconds"
                self._signal(child, signal.SIGKILL)
            elif child.state is _State.STOPPING:
                child.deadline = None
                _log.warning(
                    "child_killed",
                    child=child.spec.name,
                    reason="did not stop",
                    seconds=child.spec.stop_seconds,
                )
                self._signal(child, signal.SIGKILL)

    def _tell_when_ready(self) -> None:
        if not self._served and all(child.state is _State.SERVING for child in self._children):
            self._served = True
            for child in self._children:
                if child.vitals is not None:
                    child.vitals.excuse(self._awake.look())
            self._on_ready()

    def _look_for_hung(self, now: float) -> None:
        """After everything that has come was read: nobody is hung whose beat lies in its pipe."""
        for child in self._children:
            if not self._served or child.vitals is None or child.state is not _State.SERVING:
                continue
            if why := child.vitals.tick(now):
                child.state = _State.HUNG
                child.fault = f"hung: {why}"
                _log.warning("child_hung", child=child.spec.name, pid=child.pid, reason=why)
                self._signal(child, signal.SIGKILL)

    # Starting

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.state is _State.WAITING and (child.deadline is None or child.deadline <= now):
                blocked = not self._served and any(
                    other.spec.stage < child.spec.stage and other.state is not _State.SERVING
                    for other in self._children
                )
                if not blocked:
                    self._start(child)

    def _start(self, child: _Child) -> None:
        child.fault = ""
        child.watch = child.spec.watch() if child.spec.watch else None
        child.since = time.monotonic()
        try:
            started = fork_child(child.spec, self._parent_read, self._own_fds, self._forget_signals)
        except OSError as fault:
            child.fault = f"cannot be forked: {fault.strerror}"
            self._ended(child, child.fault)
            return
        child.pid = started.pid
        child.state = _State.STARTING
        child.deadline = child.since + child.spec.start_seconds
        self._watch_fd(child, started.ready_fd, "ready")
        if started.output_fd is not None:
            self._watch_fd(child, started.output_fd, "output")
        _log.debug("child_started", child=child.spec.name, pid=child.pid)

    def _own_fds(self) -> Iterator[int]:
        yield from (self._selector.fileno(), self._wake_read.fileno(), self._wake_write.fileno())
        yield self._parent_write
        for child in self._children:
            yield from child.fds
            if child.vitals is not None:
                yield from child.vitals.fds()

    def _forget_signals(self) -> None:
        signal.set_wakeup_fd(-1)

    def _watch_fd(self, child: _Child, fd: int, kind: str) -> None:
        child.fds[fd] = kind
        self._selector.register(fd, selectors.EVENT_READ, child)

    def _drop_fd(self, child: _Child, fd: int) -> None:
        del child.fds[fd]
        self._selector.unregister(fd)
        os.close(fd)

    def _on_child_fd(self, child: _Child, fd: int) -> None:
        kind = child.fds.get(fd)
        if kind is None:
            return  # closed earlier in this turn, with its child
        try:
            chunk = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            self._drop_fd(child, fd)
        elif kind == "output":
            if child.watch is not None and child.watch.feed(chunk):
                self._serves(child)
        elif (fault := fault_in(chunk)) is not None:
            child.fault = fault
        elif says_ready(chunk):
            self._serves(child)
        elif child.vitals is not None:
            child.vitals.beat(self._awake.look())

    def _serves(self, child: _Child) -> None:
        if child.state is _State.STARTING:
            child.state = _State.SERVING
            child.deadline = None
            spec = child.spec
            if spec.beats or spec.probes:
                child.vitals = Vitals(spec.beats, spec.probes, spec.silence_seconds, self._awake.look())
            level = _log.info if self._served else _log.debug
            level(
                "child_ready",
                child=child.spec.name,
                pid=child.pid,
                seconds=round(time.monotonic() - child.since, 3),
            )

    # Ends

    def _reap(self) -> None:
        for child in self._children:
            if child.alive:
                try:
                    pid, status = os.waitpid(child.pid, os.WNOHANG)
                except ChildProcessError:
                    pid, status = child.pid, 0
                if pid:
                    self._collect(child)
                    output = child.watch.reason() if child.watch else ""
                    self._ended(child, ending(status, child.fault, output))

    def _collect(self, child: _Child) -> None:
        """Read what the child still said, then let go of its descriptors."""
        child.pid = 0
        if child.vitals is not None:
            child.vitals.close()
            child.vitals = None
        for fd, kind in list(child.fds.items()):
            try:
                chunk = os.read(fd, _READ_BYTES)
            except BlockingIOError:
                chunk = b""
            if kind == "output" and child.watch is not None:
                child.watch.feed(chunk)
            elif chunk:
                child.fault = fault_in(chunk) or child.fault
            self._drop_fd(child, fd)

    def _ended(self, child: _Child, reason: str) -> None:
        if self._stopping:
            child.state = _State.GONE
            child.deadline = None
            _log.debug("child_stopped", child=child.spec.name, reason=reason)
            return
        child.state = _State.WAITING
        now = time.monotonic()
        if not self._served:
            child.state = _State.GONE
            child.deadline = None
            self._failure = f"{child.spec.name} could not start: {child.fault or reason}"
            _log.debug("child_failed_to_start", child=child.spec.name, reason=reason)
            self._begin_stop()
            return
        if now - child.since > _STEADY_SECONDS:
            child.failures = 0
        pause = _BACKOFF_SECONDS[min(child.failures, len(_BACKOFF_SECONDS) - 1)]
        child.failures += 1
        child.deadline = now + pause
        _log.warning("child_ended", child=child.spec.name, reason=reason, restart_in_seconds=pause)

    # Stopping

    def _begin_stop(self) -> None:
        self._stopping = True
        for child in self._children:
            if not child.alive:
                child.state = _State.GONE
                child.deadline = None

    def _stop_next_rank(self) -> None:
        left = [child for child in self._children if child.state is not _State.GONE]
        if not left:
            return
        rank = min(child.spec.stop_rank for child in left)
        for child in left:
            if child.spec.stop_rank == rank and child.state is not _State.STOPPING:
                child.state = _State.STOPPING
                child.deadline = time.monotonic() + child.spec.stop_seconds
                self._signal(child, signal.SIGTERM)
                self._signal(child, signal.SIGCONT)  # one that was paused cannot stop either

    def _signal(self, child: _Child, number: signal.Signals) -> None:
        if child.alive:  # not reaped yet, so the pid is still this child's
            os.kill(child.pid, number)

    def _kill_rest(self) -> None:
        for child in self._children:
            if child.alive:
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
                child.pid = 0

    def _close(self) -> None:
        for child in self._children:
            if child.vitals is not None:
                child.vitals.close()
            for fd in list(child.fds):
                self._drop_fd(child, fd)
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()
        os.close(self._parent_read)
        os.close(self._parent_write)
        gc.unfreeze()


def _only_wake(number: int, frame: object) -> None:
    """The work is done by the loop, which the wake-up descriptor tells."""
