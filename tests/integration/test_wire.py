"""The tools of the chaos suite do to a process what their names say."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.members import Member
from support.nats import NatsServer
from support.processes import Fleet
from support.wire import Wires
from websockets.exceptions import InvalidStatus


async def test_a_wire_that_is_cut_passes_nothing_until_it_is_healed_and_then_everything() -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            heard.put_nowait(data)
            writer.write(b'INFO {"connect_urls":["127.0.0.1:1"]}' if data == b"info" else data)
        heard.put_nowait(b"")
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(20):
        with Wires() as wires:
            wire, control = wires.to(lambda: port), wires.to(lambda: port)
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            other = (await asyncio.open_connection("127.0.0.1", control.port))[1]
            writer.write(b"info")
            assert await reader.read(100) == b'INFO {"connect_ways":["127.0.0.1:1"]}'
            assert await heard.get() == b"info"
            wire.cut()
            writer.write(b"one")
            late_reader, late = await asyncio.open_connection("127.0.0.1", wire.port)
            late.write(b"late")
            other.write(b"other")
            assert await heard.get() == b"other", "the one that is whole"
            assert heard.empty()
            wire.heal()
            assert {await heard.get(), await heard.get()} == {b"one", b"late"}
            assert await reader.read(100) == b"one"
            assert await late_reader.read(100) == b"late"
            wire.reset()
            with pytest.raises(ConnectionResetError):
                await reader.read(100)
            for one in (writer, late, other):
                one.close()
    server.close()


async def test_a_process_whose_clock_was_moved_judges_tokens_by_it(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as nats, Fleet(tmp_path, [nats.url]) as fleet:
        _, gateway = fleet.start_all("router", "gateway")
        async with await Member.connect(gateway, "before"):
            gateway.move_clock(2 * 3600.0)
            with pytest.raises(InvalidStatus) as refused:
                await Member.connect_once(gateway, "meanwhile")
            assert refused.value.response.status_code == 401
            gateway.move_clock(0.0)
        async with await Member.connect(gateway, "after") as member:
            assert await member.join("g")
