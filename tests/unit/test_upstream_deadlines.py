"""Limits of time that share one timer behave as asyncio.timeout does."""

from __future__ import annotations

import asyncio

import pytest

from gateway.upstream.deadlines import Deadlines


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def test_what_takes_too_long_is_cut_off_each_at_its_own_time() -> None:
    deadlines = Deadlines(0.05)
    loop = asyncio.get_running_loop()

    async def one(delay: float) -> float:
        await asyncio.sleep(delay)
        began = loop.time()
        with pytest.raises(TimeoutError):
            async with deadlines.limit():
                await forever()
        return loop.time() - began

    took = await asyncio.gather(*(one(delay / 100) for delay in range(5)))
    assert all(0.04 <= seconds < 1 for seconds in took), took
    assert not deadlines._limits
    assert deadlines._timer is None


async def test_what_is_quick_is_left_alone() -> None:
    deadlines = Deadlines(0.02)
    for _ in range(3):
        async with deadlines.limit():
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.03)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    async with deadlines.limit():
        await asyncio.sleep(0)
    deadlines.close()


async def test_an_error_of_the_body_comes_out_as_it_is() -> None:
    deadlines = Deadlines(10)
    with pytest.raises(KeyError):
        async with deadlines.limit():
            raise KeyError("x")
    deadlines.close()


async def test_a_cancellation_from_elsewhere_is_one_also_when_the_time_is_over() -> None:
    deadlines = Deadlines(0.01)

    async def body(late: bool) -> None:
        async with deadlines.limit():
            try:
                await forever()
            except asyncio.CancelledError:
                if late:
                    await forever()
                raise

    early = asyncio.create_task(body(False))
    await asyncio.sleep(0)
    early.cancel()
    with pytest.raises(asyncio.CancelledError):
        await early
    both = asyncio.create_task(body(True))
    await asyncio.sleep(0.03)
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both
    deadlines.close()


async def test_limits_can_be_nested() -> None:
    outer, inner = Deadlines(10), Deadlines(0.01)
    async with outer.limit():
        with pytest.raises(TimeoutError):
            async with inner.limit():
                await forever()
        await asyncio.sleep(0)
    outer.close()
