"""The client behind `hubwire connect`: one connection by a JSON subprotocol or as a simple client.

Reliable connections acknowledge what they get and recover by themselves for half a minute
(client-protocols.md section 4), as the SDKs do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import aiohttp

from hubwire.cli.rest import unreachable
from hubwire.model.errors import HubwireError, InvalidRequest, NotFound, Unauthenticated, Unavailable

ProtocolName = Literal["json", "reliable", "simple"]
SUBPROTOCOLS: dict[ProtocolName, str] = {
    "json": "json.webpubsub.azure.v1",
    "reliable": "json.reliable.webpubsub.azure.v1",
}
HANDSHAKE_SECONDS = 15.0
RECOVERY_SECONDS = 30.0
_RECOVERY_PAUSE_SECONDS = 0.5
_REFUSED = 1008  # the service's verdict: recovery is over


class Closed(HubwireError):
    """The service, or the network, ended the connection."""

    code = "closed"


class Client:
    """One client. `frames` yields what arrives; requests may be sent at any time meanwhile."""

    def __init__(self, url: str, protocol: ProtocolName, tell: Callable[[str], None]) -> None:
        self._url = url
        self._protocol = protocol
        self._tell = tell  # of losses and recoveries
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._connection_id = ""
        self._reconnection_token = ""
        self._last_ack = 0
        self._sequence = 0
        self._unanswered: dict[int, str] = {}  # the frames, to be sent again after a recovery
        self.asked: dict[int, str] = {}
        """What was asked, by ack id. Whoever shows the answer takes it out."""
        self.all_answered = asyncio.Event()
        self.all_answered.set()

    async def open(self) -> None:
        """Raises the category of error that a refusal of the handshake means."""
        self._session = aiohttp.ClientSession()
        try:
            self._socket = await self._connect(self._url)
        except BaseException:
            await self._session.close()
            raise

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()
        if self._session is not None:
            await self._session.close()

    async def _connect(self, url: str) -> aiohttp.ClientWebSocketResponse:
        assert self._session is not None
        subprotocol = SUBPROTOCOLS.get(self._protocol)
        where = urlsplit(url).netloc
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                socket = await self._session.ws_connect(
                    url, protocols=[subprotocol] if subprotocol else (), heartbeat=20, max_msg_size=0
                )
                if subprotocol and socket.protocol != subprotocol:
                    await socket.close()
                    raise InvalidRequest(
                        f"{where} does not speak the subprotocol {subprotocol}; choose another --protocol."
                    )
                return socket
        except aiohttp.WSServerHandshakeError as fault:
            raise _refused(where, fault.status) from fault
        except aiohttp.ClientConnectorError as fault:
            raise Unavailable(unreachable(where, fault.os_error)) from fault
        except (aiohttp.ClientError, OSError, TimeoutError) as fault:
            raise Unavailable(unreachable(where, fault)) from fault

    # Sending

    async def request(self, content: dict[str, Any], what: str) -> None:
        """Send a request that is answered by an ack."""
        self._last_ack += 1
        frame = json.dumps({**content, "ackId": self._last_ack}, ensure_ascii=False)
        self.asked[self._last_ack] = what
        self._unanswered[self._last_ack] = frame
        self.all_answered.clear()
        await self.send_text(frame)

    def unanswered(self) -> list[str]:
        """What was asked and has no answer yet."""
        return [self.asked.get(ack_id, "a request") for ack_id in self._unanswered]

    async def send_text(self, text: str) -> None:
        """Send a frame as it is. Raises Closed."""
        try:
            assert self._socket is not None
            await self._socket.send_str(text)
        except (ConnectionError, aiohttp.ClientError) as fault:
            if self._protocol != "reliable":
                raise Closed("The connection is lost.") from fault
            self._tell("The connection is being recovered; requests are repeated then.")

    # Receiving

    async def frames(self) -> AsyncIterator[str | bytes]:
        """What arrives, until the connection ends for good: then raises Closed."""
        while True:
            assert self._socket is not None
            async for message in self._socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    await self._note(message.data)
                    yield message.data
                elif message.type is aiohttp.WSMsgType.BINARY:
                    yield bytes(message.data)
            await self._lost()

    async def _note(self, text: str) -> None:
        """Keep what is needed for acks and recovery."""
        if self._protocol == "simple":
            return
        try:
            frame = json.loads(text)
        except ValueError:
            return
        if frame.get("event") == "connected":
            self._connection_id = frame.get("connectionId", "")
            self._reconnection_token = frame.get("reconnectionToken", "") or self._reconnection_token
        elif frame.get("type") == "ack":
            self._unanswered.pop(frame.get("ackId"), None)
            if not self._unanswered:
                self.all_answered.set()
        sequence = frame.get("sequenceId")
        if self._protocol == "reliable" and isinstance(sequence, int):
            self._sequence = max(self._sequence, sequence)
            await self.send_text(json.dumps({"type": "sequenceAck", "sequenceId": self._sequence}))

    async def _lost(self) -> None:
        assert self._socket is not None
        code = self._socket.close_code
        recoverable = self._protocol == "reliable" and self._reconnection_token and code != _REFUSED
        if not recoverable:
            raise Closed(f"The service closed the connection{f' (code {code})' if code else ''}.")
        self._tell(f"Connection lost{f' (code {code})' if code else ''}, recovering ...")
        parts = urlsplit(self._url)
        url = (
            f"{parts.scheme}://{parts.netloc}{parts.path}"
            f"?awps_connection_id={quote(self._connection_id, safe='')}"
            f"&awps_reconnection_token={quote(self._reconnection_token, safe='')}"
        )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + RECOVERY_SECONDS
        while True:
            try:
                self._socket = await self._connect(url)
                for frame in list(self._unanswered.values()):
                    await self.send_text(frame)  # with the same ack id: done before means answered again
                return
            except Unavailable as fault:
                if loop.time() > deadline:
                    raise Closed(f"The connection could not be recovered: {fault}") from fault
            except HubwireError as fault:
                raise Closed(f"The service refused the recovery: {fault}") from fault
            await asyncio.sleep(_RECOVERY_PAUSE_SECONDS)


def _refused(where: str, status: int) -> HubwireError:
    """The error for a refused handshake (client-protocols.md 1.5)."""
    if status == 401:
        return Unauthenticated(
            f"{where} does not accept the token (401): it is too old, signed with another key, "
            "or for another endpoint or hub. An event handler of the hub may have said so, too."
        )
    if status == 404:
        return NotFound(f"{where} has no clients' endpoint at this path (404); check the URL.")
    if status in (429, 502, 503, 504):
        return Unavailable(f"{where} takes no connection now ({status}); try again.")
    if status == 500:
        return InvalidRequest(
            f"{where} refused the connection (500): an event handler of the hub could not be asked, or "
            "answered nonsense; `hubwire events failures HUB` says why."
        )
    return InvalidRequest(
        f"{where} refused the connection ({status}). "
        "Where the hub has a `connect` handler, it may have said so."
    )
