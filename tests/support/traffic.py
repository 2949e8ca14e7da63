"""Messages that flow through many groups while something is broken, and what was acked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from support.members import (
    Member,
    Sender,
    assert_all_arrive,
    assert_at_most_once_in_order,
    until,
)
from support.processes import Service

GROUPS = [f"g{number}" for number in range(12)]  # spread over two or three routers


class Traffic:
    """A publisher for each group on one gateway, and members of all groups wherever one wants them."""

    def __init__(self, publishers: Sequence[Member], members: Sequence[Member]) -> None:
        self.publishers = publishers
        self.members = members
        self.senders = [
            Sender(publisher, group, f"p-{group}", pause_seconds=0.004)
            for publisher, group in zip(publishers, GROUPS, strict=True)
        ]

    @classmethod
    async def start(cls, here: Service, *others: Service) -> Traffic:
        """Publishers `here`; a member here and one on each of the others."""
        publishers = await asyncio.gather(*(Member.connect(here, f"p-{group}") for group in GROUPS))
        members = await asyncio.gather(*(Member.connect(one, f"m-{one.port}") for one in (here, *others)))
        for member in members:
            assert all(await asyncio.gather(*(member.join(group) for group in GROUPS)))
        return cls(publishers, members)

    @property
    def longest_outages(self) -> dict[str, float]:
        return {sender.group: round(sender.longest_outage, 3) for sender in self.senders}

    async def flow(self, messages: int = 100, seconds: float = 20.0) -> None:
        """Until every publisher has had so many more acks."""
        goals = [len(sender.acked) + messages for sender in self.senders]
        await until(
            lambda: all(len(s.acked) >= goal for s, goal in zip(self.senders, goals, strict=True)),
            seconds,
            "messages flow",
        )

    async def stop(self) -> None:
        for sender in self.senders:
            await sender.stop()

    async def assert_nothing_lost(
        self, members: Iterable[Member] | None = None, *, except_within: Sequence[tuple[float, float]] = ()
    ) -> None:
        """Everything that was acked has arrived, once and in order, at these members (at all of them).

        `except_within` are times (monotonic, from and to) at which a link was cut: what was on its way
        then was promised to nobody.
        """
        for sender in self.senders:
            assert not sender.failed
            wanted = [
                text
                for text in sender.acked
                if not any(begin <= sender.sent_at[text] <= end for begin, end in except_within)
            ]
            for member in self.members if members is None else members:
                await assert_all_arrive(member, sender.group, wanted)
                assert_at_most_once_in_order(member.of(sender.group))

    async def close(self) -> None:
        for member in [*self.publishers, *self.members]:
            await member.close()
