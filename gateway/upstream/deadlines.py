"""One time limit for very many: like `asyncio.timeout`, without a timer of the loop for each."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Deadlines:
    """`async with deadlines.limit():` raises TimeoutError when its body takes longer than `seconds`.

    All limits are equally long, so they end in the order in which they began, and one timer, for the oldest,
    serves all. Used within one event loop.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._limits: dict[int, _Limit] = {}  # in the order in which they end
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None

    def limit(self) -> _Limit:
        return _Limit(self)

    def _begin(self, limit: _Limit) -> int:
        loop = asyncio.get_running_loop()
        limit.ends = loop.time() + self._seconds
        self._number += 1
        self._limits[self._number] = limit
        if self._timer is None:
            self._timer = loop.call_at(limit.ends, self._due)
        return self._number

    def _end(self, number: int) -> None:
        self._limits.pop(number, None)
        # The timer stays: it finds nothing due and is set again, which is rarer than limits are.

    def _due(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._limits:
            number = next(iter(self._limits))
            limit = self._limits[number]
            if limit.ends > loop.time():
                self._timer = loop.call_at(limit.ends, self._due)
                return
            del self._limits[number]
            limit.expire()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Limit:
    __slots__ = ("_cancelling", "_deadlines", "_expired", "_number", "_task", "ends")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._expired = False
        self.ends = 0.0

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._number = self._deadlines._begin(self)

    def expire(self) -> None:
        self._expired = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._deadlines._end(self._number)
        # A cancellation from elsewhere at the same time goes first, as with asyncio.timeout.
        if (
            self._expired
            and self._task.uncancel() <= self._cancelling
            and kind is not None
            and issubclass(kind, asyncio.CancelledError)
        ):
            raise TimeoutError from error
