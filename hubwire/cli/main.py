"""The command `hubwire`. Here is only what must stand before anything else is imported: from the first line
on, Ctrl-C ends the command quietly, with status 130. The commands are in hubwire.cli.commands."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # typing itself is one of the slow imports
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    quiet = _exit_at_once_when_interrupted()
    try:
        try:
            from hubwire.cli.commands import prepare

            run = prepare(list(sys.argv[1:] if argv is None else argv))
        finally:
            if quiet:
                signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    except KeyboardInterrupt:
        return INTERRUPTED


def _exit_at_once_when_interrupted() -> bool:
    """While modules are imported nothing has begun that would have to be ended. An exception there could come
    up where Python only prints it and goes on. False where SIGINT is not ours: ignored (`nohup`), or no main
    thread."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    try:
        signal.signal(signal.SIGINT, _exit)
    except ValueError:
        return False
    return True


def _exit(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
