import asyncio

from hubwire.runtime.service import end_tasks


async def test_a_task_that_loses_its_first_cancellation_is_ended_all_the_same():
    """A gateway that was told to stop while it read from NATS never stopped: `asyncio.wait_for` of Python
    3.11 gives back an answer that comes in the turn of the cancellation, and forgets the cancellation."""
    lost = 0

    async def loses_one():
        nonlocal lost
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            lost += 1
        await asyncio.sleep(60)

    tasks = [asyncio.create_task(loses_one()), asyncio.create_task(asyncio.sleep(60))]
    await asyncio.sleep(0)
    await asyncio.wait_for(end_tasks(tasks), 10)
    assert lost == 1
    assert all(task.cancelled() for task in tasks)


async def test_tasks_that_have_ended_are_no_trouble():
    done = asyncio.create_task(asyncio.sleep(0))
    await done
    await end_tasks([done])
    await end_tasks([])
