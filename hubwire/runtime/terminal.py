"""The terminal that a command was started on: whether it has gone."""

from __future__ import annotations

import os
import select


class Terminal:
    """Looks at the terminal behind standard input, if there is one.

    The system tells only the leader of the session of its end. Where that is `make up`, which then waits for
    us, nobody would tell us. What ran in the background is meant to stay, as with a shell's `disown`.
    """

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._there = os.isatty(fd)
        self._in_front = False
        if self._there:
            self._poll.register(fd, 0)

    def gone(self) -> bool:
        """Whether it has ended since we were last seen in its foreground. To be asked again and again."""
        if not self._there:
            return False
        if any(events & select.POLLHUP for _, events in self._poll.poll(0)):
            self._there = False
            return self._in_front
        try:
            self._in_front = os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            pass  # it ends at this moment
        return False
