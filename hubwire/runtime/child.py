"""One child process of the supervisor: how it is forked, what it is told, how it reports.

A child lives no longer than its supervisor: the kernel kills it (Linux), and a thread that reads a pipe
nobody writes to notices the end of the supervisor everywhere else.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn, Protocol

from hubwire.model.errors import HubwireError
from hubwire.runtime.logs import get_logger
from hubwire.runtime.vitals import SILENCE_SECONDS, Probe

_PR_SET_PDEATHSIG = 1
BEAT = b"."  # on the ready pipe: the child is alive
_FAULT = b"\x00"  # there too: the rest is why the child cannot serve
_FAULT_BYTES = 2000
_log = get_logger("child")


class OutputWatch(Protocol):
    """Reads what one run of a child prints. Made anew for every run."""

    def feed(self, chunk: bytes) -> bool:
        """Take some output; True once it says that the child serves."""

    def reason(self) -> str:
        """Why the run ended, as far as the output tells; may be empty."""


class ChildContext:
    """What a child's `run` is given."""

    def __init__(self, name: str, ready_fd: int, parent_fd: int) -> None:
        self.name = name
        self.ready_fd = ready_fd
        self.parent_fd = parent_fd

    def ready(self) -> None:
        """Tell the supervisor that this child serves. Further calls change nothing."""
        os.write(self.ready_fd, b"R")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What is supervised.

    `run` is called in the forked process; when it returns the process exits with 0, when it raises, the
    exception's text is the reason that the supervisor logs. It owns SIGTERM (at first: die at once);
    SIGINT is ignored, so that Ctrl-C in a terminal reaches the supervisor alone. It tells readiness by a
    byte to `ChildContext.ready_fd` (which stays open: a later fault goes the same way), or its output
    does, read by `watch`.

    With `beats` it writes BEAT there again and again, and each of `probes` asks it something: one of these
    silent for `silence_seconds` while it serves, and it is taken for hung, killed, and started again.
    """

    name: str
    run: Callable[[ChildContext], None]
    stage: int = 0  # started once all of the stages before serve
    stop_rank: int = 0  # told to stop once all of the lower ranks are gone
    start_seconds: float = 30.0
    stop_seconds: float = 10.0
    watch: Callable[[], OutputWatch] | None = None
    beats: bool = False
    probes: tuple[Callable[[], Probe], ...] = ()
    silence_seconds: float = SILENCE_SECONDS


@dataclass(frozen=True, slots=True)
class Started:
    pid: int
    ready_fd: int
    output_fd: int | None


def fork_child(
    spec: ChildSpec,
    parent_read_fd: int,
    close_in_child: Callable[[], Iterable[int]],
    while_forked: Callable[[], None],
) -> Started:
    """Fork and run `spec`. Raises OSError when the system has no process to give.

    `close_in_child` names the supervisor's descriptors, `while_forked` takes back its signal set-up; both
    are called in the child only, before any signal can reach it.
    """
    ready_read, ready_write = os.pipe()
    output_read, output_write = os.pipe() if spec.watch else (None, None)
    sys.stdout.flush()
    sys.stderr.flush()
    supervisor = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _in_child(
                spec,
                ChildContext(spec.name, ready_write, parent_read_fd),
                supervisor,
                [*close_in_child(), ready_read, *([output_read] if output_read is not None else [])],
                output_write,
                while_forked,
            )
    except OSError:
        for fd in (ready_read, output_read):
            if fd is not None:
                os.close(fd)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for fd in (ready_write, output_write):
            if fd is not None:
                os.close(fd)
    for fd in (ready_read, output_read):
        if fd is not None:
            os.set_blocking(fd, False)
    return Started(pid, ready_read, output_read)


def _in_child(
    spec: ChildSpec,
    context: ChildContext,
    supervisor: int,
    to_close: list[int],
    output_fd: int | None,
    while_forked: Callable[[], None],
) -> NoReturn:
    code = 1
    try:
        die_with_parent(signal.SIGKILL, supervisor)
        # A group of its own: what the terminal sends to the foreground is the supervisor's to hear.
        os.setpgid(0, 0)
        while_forked()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for fd in to_close:
            os.close(fd)
        if output_fd is not None:
            os.dup2(output_fd, 1)
            os.dup2(output_fd, 2)
        threading.Thread(target=_end_with_pipe, args=(context.parent_fd,), daemon=True).start()
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        spec.run(context)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        cause = end.__cause__ or end.__context__
        if code and cause is not None:  # logged by whoever turned it into an exit
            _report(context, cause)
    except BaseException as fault:
        _log.error("child_failed", exc_info=fault)
        _report(context, fault)
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _report(context: ChildContext, fault: BaseException) -> None:
    """Tell the supervisor why, in one line."""
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    text = str(fault) if isinstance(fault, HubwireError | OSError) else f"{type(fault).__name__}: {fault}"
    try:
        os.write(context.ready_fd, _FAULT + " ".join(text.split()).encode()[:_FAULT_BYTES])
    except OSError:
        pass  # the supervisor has gone, and this process goes with it


def fault_in(report: bytes) -> str | None:
    """The fault that a child wrote to its ready pipe, or None."""
    _, found, text = report.partition(_FAULT)
    return text.decode(errors="replace") if found else None


def says_ready(report: bytes) -> bool:
    """Whether there is more in it than beats."""
    return bool(report.strip(BEAT))


def ending(status: int, fault: str, output: str) -> str:
    """How and why a child ended: by its wait status, what it or the supervisor told, and its last words."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        try:
            how = f"killed by {signal.Signals(-code).name}"
        except ValueError:
            how = f"killed by signal {-code}"
    elif code == 0:
        how = "ended by itself"
    else:
        how = f"exit code {code}"
    why = fault or ("" if code == -signal.SIGKILL else output)  # who is killed so has no last words
    return f"{how}: {why}" if why else how


def die_with_parent(how: signal.Signals, parent: int) -> None:
    """Have the kernel send `how` to this process when its parent ends; exit now if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(how), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _end_with_pipe(fd: int) -> None:
    while os.read(fd, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def exec_with_parent(command: list[str], context: ChildContext, keep_fds: Iterable[int] = ()) -> NoReturn:
    """Become `command`, in a child. It gets SIGTERM when the supervisor ends. `keep_fds` stay open in it.

    Where the kernel does not tell of a parent's end, a watcher process beside it does.
    """
    if sys.platform == "linux":
        die_with_parent(signal.SIGTERM, os.getppid())
    elif os.fork() == 0:
        _watch_beside(context.parent_fd, os.getppid())
    for fd in keep_fds:
        os.set_inheritable(fd, True)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(command[0], command)


def _watch_beside(parent_fd: int, watched: int) -> NoReturn:
    import select

    try:
        while os.getppid() == watched:
            if select.select([parent_fd], [], [], 1.0)[0] and not os.read(parent_fd, 1):
                os.kill(watched, signal.SIGTERM)
                break
    finally:
        os._exit(0)
