"""`hubwire connect`: a client in the terminal. Lines are commands, frames are printed as they come."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from hubwire.cli.options import add_json
from hubwire.cli.output import Output
from hubwire.cli.target import add_target, find_target
from hubwire.cli.token import add_claims, check_group, make_token, roles_of
from hubwire.model.errors import InvalidRequest
from hubwire.model.names import normalize_hub

if TYPE_CHECKING:
    from hubwire.cli.client import Client

_HELP = """\
join GROUP           join a group
leave GROUP          leave it
send GROUP TEXT      send text to a group
json GROUP VALUE     send a JSON value to a group
event NAME TEXT      raise an event for the event handlers
raw FRAME            send a frame as it is
help, quit           (or Ctrl-D, Ctrl-C)"""
_ANSWER_SECONDS = 10.0


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("hub", help="the hub")
    parser.add_argument(
        "--protocol",
        choices=("json", "reliable", "simple"),
        default="json",
        help="subprotocol; reliable survives lost connections, simple sends lines as text (default: json)",
    )
    parser.add_argument("--url", help="a whole client access URL, instead of one made here")
    parser.add_argument("--join", metavar="GROUP", action="append", default=[], help="may be repeated")
    parser.add_argument("--count", metavar="N", type=int, help="leave after so many messages")
    parser.add_argument(
        "--for",
        metavar="SECONDS",
        type=float,
        dest="listen",
        help="listen so long after the input ended",
    )
    add_claims(parser)
    add_json(parser)
    add_target(parser)
    parser.epilog = (
        "Without --role the client may join and send to all groups.\n\n"
        f"commands, one a line:\n{_indented(_HELP)}\n\n"
        "When standard input is no terminal, the commands in it are carried out, their answers waited for,\n"
        "and the client leaves, unless --for or --count say to stay. With --json the frames are printed as\n"
        "they come."
    )


def run(args: Namespace, out: Output) -> int:
    normalize_hub(args.hub)
    for group in args.join:
        check_group(group, "--join")
    if args.join and args.protocol == "simple":
        raise InvalidRequest("--join needs a client of JSON; a simple one begins in groups by --group.")
    if args.count is not None and args.count < 1:
        raise InvalidRequest("--count must be 1 or more.")
    if args.listen is not None and not args.listen >= 0:
        raise InvalidRequest("--for must be a number of seconds, 0 or more.")
    if args.url:
        url = args.url
    else:
        target = find_target(args)
        roles = roles_of(args.role or ["all"])
        token = make_token(args, target.endpoint, target.access_key, roles)
        url = f"{target.client_endpoint}/client/hubs/{args.hub}?access_token={token}"
    if not url.startswith(("ws://", "wss://")):
        raise InvalidRequest("--url must begin with ws:// or wss://; `hubwire token` prints one.")
    return asyncio.run(_Terminal(args, url, out).run())


class _Terminal:
    """Between the lines that are typed and the client's frames."""

    def __init__(self, args: Namespace, url: str, out: Output) -> None:
        from hubwire.cli.client import Client

        self._args = args
        self._out = out
        self._client: Client = Client(url, args.protocol, out.hint)
        self._simple = args.protocol == "simple"
        self._messages = 0
        self._enough = asyncio.Event()
        self._greeted = asyncio.Event()
        """Set by the first frame; a client of JSON begins with `connected`."""
        self._interactive = bool(sys.stdin) and sys.stdin.isatty()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        interrupted = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupted.set)
        await self._client.open()
        receive = asyncio.create_task(self._receive())
        converse = asyncio.create_task(self._converse())
        others: list[asyncio.Task[Any]] = [
            asyncio.create_task(event.wait()) for event in (interrupted, self._enough)
        ]
        try:
            await asyncio.wait({receive, converse, *others}, return_when=asyncio.FIRST_COMPLETED)
            for task in (receive, converse):
                if task.done():
                    task.result()  # raises what ended it
        finally:
            for task in (receive, converse, *others):
                task.cancel()
            await asyncio.gather(receive, converse, *others, return_exceptions=True)
            await self._client.close()
        return 0

    # Typed lines

    async def _converse(self) -> None:
        if not self._simple:
            await self._wait_answers(self._greeted)  # a script of no lines is told it as well
        for group in self._args.join:
            await self._command(f"join {group}")
        if self._interactive:
            self._out.hint("Connected. `help` lists the commands.")
        lines = _lines_of_stdin()
        while (line := await lines.get()) is not None:
            try:
                if not await self._command(line):
                    return
            except InvalidRequest as fault:
                if not self._interactive:
                    raise  # a script is not to go on after a command that failed
                self._out.fail([str(fault)])
        if self._interactive:
            return
        await self._wait_answers(self._client.all_answered)
        if self._args.listen is not None:
            await asyncio.sleep(self._args.listen)
        elif self._args.count is not None:
            await self._enough.wait()

    async def _wait_answers(self, come: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await come.wait()
        except TimeoutError:
            missing = ", ".join(self._client.unanswered()) or "connected"
            self._out.fail([f"The service did not answer: {missing}."])

    async def _command(self, line: str) -> bool:
        """Carry one line out. False: leave. Raises InvalidRequest for a line that is no command."""
        if self._simple and line not in ("quit", "exit"):
            await self._client.send_text(line)
            return True
        word, _, rest = line.strip().partition(" ")
        first, _, second = rest.strip().partition(" ")
        if word in ("quit", "exit"):
            return False
        if word == "help":
            print(_HELP, file=sys.stderr, flush=True)
        elif word == "raw" and rest:
            await self._client.send_text(rest.strip())
        elif word in ("join", "leave") and rest.strip():
            group = rest.strip()
            await self._client.request({"type": f"{word}Group", "group": group}, f"{word} {group}")
        elif word in ("send", "json") and first and second:
            content = {"type": "sendToGroup", "group": first, **_content(word, second)}
            await self._client.request(content, f"send to {first}")
        elif word == "event" and first:
            content = {"type": "event", "event": first, **_content("send", second)}
            await self._client.request(content, f"event {first}")
        elif word:
            raise InvalidRequest(f"{line.strip()[:60]!r} is no command; `help` lists them.")
        return True

    # Frames

    async def _receive(self) -> None:
        async for frame in self._client.frames():
            self._show(frame)
            self._greeted.set()
            if self._args.count is not None and self._messages >= self._args.count:
                self._enough.set()

    def _show(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            self._messages += 1
            self._print({"type": "binary", "hex": frame.hex()}, f"{len(frame)} bytes: {frame.hex(' ')}")
            return
        if self._simple:
            self._messages += 1
            self._print({"type": "text", "data": frame}, frame)
            return
        try:
            content = json.loads(frame)
        except ValueError:
            content = {"type": "?"}
        if content.get("type") == "message":
            self._messages += 1
        if self._out.as_json:
            print(frame, flush=True)
        elif (text := self._said(content, frame)) is not None:
            print(text, flush=True)

    def _print(self, facts: object, text: str) -> None:
        self._out.result(facts, text)

    def _said(self, content: dict[str, Any], frame: str) -> str | None:
        """One line for a frame of a JSON subprotocol (client-protocols.md 3.7)."""
        style = self._out.style
        kind = content.get("type")
        if kind == "message":
            data = content.get("data")
            shown = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
            if content.get("from") == "group":
                who = content.get("fromUserId") or "somebody"
                group = f"[{content.get('group')}]"
                return f"{style(group, 'cyan')} {style(who, 'bold')}: {shown}"
            return f"{style('[server]', 'cyan')} {shown}"
        if kind == "ack":
            what = self._client.asked.pop(content.get("ackId", 0), "request")
            if content.get("success"):
                return style(f"ok: {what}", "dim")
            error = content.get("error") or {}
            return style(
                f"failed: {what}: {error.get('name', '')} {error.get('message', '')}".rstrip(), "red"
            )
        if kind == "system" and content.get("event") == "connected":
            user = f" as {content['userId']}" if content.get("userId") else ""
            return style(f"connected{user}, connection {content.get('connectionId')}", "green")
        if kind == "system" and content.get("event") == "disconnected":
            return style(f"disconnected: {content.get('message') or 'no reason given'}", "yellow")
        return frame


def _content(word: str, text: str) -> dict[str, Any]:
    if word == "send":
        return {"dataType": "text", "data": text}
    try:
        return {"dataType": "json", "data": json.loads(text)}
    except ValueError as fault:
        raise InvalidRequest(f"This is not JSON: {fault}.") from fault


def _lines_of_stdin() -> asyncio.Queue[str | None]:
    """Lines as they are typed, then None. A thread reads them: a terminal cannot be read by the loop
    without changing it for whoever else uses it."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def put(line: str | None) -> None:
        try:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        except RuntimeError:
            pass  # the loop has ended; so will this thread, with the process

    def read() -> None:
        for line in sys.stdin or ():
            put(line.rstrip("\n"))
        put(None)

    threading.Thread(target=read, name="stdin", daemon=True).start()
    return lines


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
