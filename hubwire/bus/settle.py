"""From a callback to something that can be awaited."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


def settle(future: asyncio.Future[T], result: T, error: Exception | None) -> None:
    """Give a future its result, or the error when there is one. Nothing happens when it has one already or
    whoever waited was cancelled: answers that nobody waits for any more are legal on the bus."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
