"""One hub of one topology, as a conformance test sees it: tokens, plain clients, REST.

The plain clients speak the subprotocols with nothing but the `websockets` library, and `json` or the
official protobuf library. Tokens come from the vendor's own service client. Everything that is waited for
has a deadline; that something does not come is seen by what comes instead.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import jwt
import yarl
from azure.core.credentials import AzureKeyCredential
from azure.messaging.webpubsubservice import WebPubSubServiceClient
from support.topology import Topology
from support.webpubsub_proto import DownstreamMessage, UpstreamMessage
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

SECONDS = 10.0
JSON_V1 = "json.webpubsub.azure.v1"
PROTOBUF_V1 = "protobuf.webpubsub.azure.v1"
API_VERSION = "2024-12-01"
Answer = tuple[int, Mapping[str, str], bytes]
"""Status, headers and body of a REST call."""
EVERYTHING = ("webpubsub.joinLeaveGroup", "webpubsub.sendToGroup")


class Client:
    """A client without a subprotocol; also what the two below stand on."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def frame(self) -> str | bytes:
        """The next frame, whatever it is."""
        async with asyncio.timeout(SECONDS):
            return await self.socket.recv()

    async def send_frame(self, frame: str | bytes) -> None:
        await self.socket.send(frame)

    async def closed(self) -> tuple[int | None, str]:
        """Read until the service closes: code and reason of its close frame. Frames before are dropped."""
        async with asyncio.timeout(SECONDS):
            try:
                while True:
                    await self.socket.recv()
            except ConnectionClosed:
                return self.socket.close_code, self.socket.close_reason or ""

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self.socket.close(code, reason)


class _ProtocolClient(Client):
    """Requests with ack ids; acks and messages in two queues, since their order is not defined."""

    def __init__(self, socket: ClientConnection) -> None:
        super().__init__(socket)
        self._ack_id = 0
        self._acks: deque[Any] = deque()
        self._messages: deque[Any] = deque()
        self.connection_id = ""
        self.user_id: str | None = None

    async def ack(self) -> Any:
        while not self._acks:
            await self._read()
        return self._acks.popleft()

    async def message(self) -> Any:
        """The next frame that is no ack."""
        while not self._messages:
            await self._read()
        return self._messages.popleft()

    async def _read(self) -> None:
        raise NotImplementedError

    def next_ack_id(self) -> int:
        self._ack_id += 1
        return self._ack_id


class JsonClient(_ProtocolClient):
    """json.webpubsub.azure.v1"""

    async def _read(self) -> None:
        frame = json.loads(await self.frame())
        (self._acks if frame["type"] == "ack" else self._messages).append(frame)

    async def greeted(self) -> Self:
        self.greeting = await self.message()
        assert (self.greeting["type"], self.greeting["event"]) == ("system", "connected"), self.greeting
        self.connection_id, self.user_id = self.greeting["connectionId"], self.greeting["userId"]
        return self

    async def send(self, **message: Any) -> None:
        await self.send_frame(json.dumps(message))

    async def request(self, type: str, **members: Any) -> dict[str, Any]:
        """Send with an ack id (the next one, unless given) and return the ack."""
        await self.send(type=type, **{"ackId": self.next_ack_id(), **members})
        return dict(await self.ack())

    async def join(self, *groups: str) -> None:
        for group in groups:
            assert (await self.request("joinGroup", group=group))["success"] is True

    async def publish(self, group: str, data: Any, data_type: str = "json", **members: Any) -> None:
        ack = await self.request("sendToGroup", group=group, data=data, dataType=data_type, **members)
        assert ack["success"] is True, ack

    async def data(self) -> Any:
        """The data of the next message."""
        message = await self.message()
        assert message["type"] == "message", message
        return message["data"]


class ProtobufClient(_ProtocolClient):
    """protobuf.webpubsub.azure.v1, encoded and decoded by the official protobuf library."""

    async def _read(self) -> None:
        frame = await self.frame()
        assert isinstance(frame, bytes), frame
        message = DownstreamMessage.FromString(frame)
        if message.WhichOneof("message") == "ack_message":
            self._acks.append(message.ack_message)
        else:
            self._messages.append(message)

    async def greeted(self) -> Self:
        connected = (await self.message()).system_message.connected_message
        self.connection_id, self.user_id = connected.connection_id, connected.user_id or None
        return self

    async def send(self, **message: Any) -> None:
        await self.send_frame(UpstreamMessage(**message).SerializeToString())

    async def request(self, member: str, **fields: Any) -> Any:
        """Send with an ack id and return the ack."""
        await self.send(**{member: {"ack_id": self.next_ack_id(), **fields}})
        return await self.ack()

    async def join(self, *groups: str) -> None:
        for group in groups:
            assert (await self.request("join_group_message", group=group)).success

    async def data(self) -> Any:
        """The MessageData of the next message."""
        message = await self.message()
        assert message.WhichOneof("message") == "data_message", message
        return message.data_message.data


AnyClient = TypeVar("AnyClient", bound=Client)


class Rest:
    """Raw REST calls to a hub, signed like the SDKs sign theirs."""

    def __init__(self, topology: Topology, hub: str) -> None:
        self._topology, self._hub = topology, hub
        self._session: aiohttp.ClientSession | None = None

    async def __call__(
        self,
        method: str,
        path: str,
        query: Iterable[tuple[str, str]] = (),
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        authorization: str | None = None,
        **more: Any,
    ) -> Answer:
        """`path` below the hub, or a whole one when it begins with /api."""
        path = path if path.startswith("/api/") else f"/api/hubs/{self._hub}{path}"
        bare = yarl.URL(f"{self._topology.control_plane()}{path}", encoded=True)
        url = bare.with_query([*query, ("api-version", API_VERSION)])
        if authorization is None:
            authorization = self._signature(url, key)
        signed = {"Authorization": authorization} if authorization else {}
        return await self._ask(method, url, {**signed, **(headers or {})}, **more)

    async def follow(self, link: str) -> Answer:
        """GET a link of an answer, as it is, signed for itself."""
        url = yarl.URL(link, encoded=True)
        return await self._ask("GET", url, {"Authorization": self._signature(url)})

    def _signature(self, url: yarl.URL, key: str | None = None) -> str:
        claims = {"aud": str(url), "exp": int(time.time()) + 60}
        return f"Bearer {jwt.encode(claims, key or self._topology.key)}"

    async def _ask(self, method: str, url: yarl.URL, headers: Mapping[str, str], **more: Any) -> Answer:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(SECONDS))
        async with self._session.request(method, url, headers=headers, **more) as answer:
            return answer.status, answer.headers, await answer.read()

    async def get(self, url: str) -> Answer:
        """A plain GET of any URL, signed by nobody."""
        return await self._ask("GET", yarl.URL(url, encoded=True), {})

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class World:
    """`hub` belongs to the test alone. Clients opened here are closed at the end."""

    def __init__(self, topology: Topology, hub: str) -> None:
        self.topology = topology
        self.hub = hub
        self.rest = Rest(topology, hub)
        self._clients: list[Client] = []

    def client_url(
        self,
        *,
        user_id: str | None = None,
        roles: Iterable[str] = EVERYTHING,
        groups: Iterable[str] = (),
        hub: str | None = None,
        key: str | None = None,
        gateway: str | None = None,
    ) -> str:
        """A client access URL by the vendor's service client; for the next gateway unless one is given."""
        endpoint = gateway or self.topology.gateway()
        credential = AzureKeyCredential(key or self.topology.key)
        with WebPubSubServiceClient(endpoint, hub or self.hub, credential) as service:
            token = service.get_client_access_token(user_id=user_id, roles=list(roles), groups=list(groups))
        return str(token["url"])

    async def open(
        self, url: str, subprotocols: list[str] | None = None, headers: Mapping[str, str] | None = None
    ) -> ClientConnection:
        """A WebSocket. Frames may be a little over 1 MiB (client-protocols.md 1.13)."""
        return await connect(
            url,
            subprotocols=subprotocols,  # type: ignore[arg-type]
            additional_headers=headers,
            max_size=4 * 1024 * 1024,
            open_timeout=SECONDS,
            close_timeout=2,
        )

    async def json(self, user_id: str | None = None, **token: Any) -> JsonClient:
        """A client of json.webpubsub.azure.v1, greeted. It may do everything unless told otherwise."""
        socket = await self.open(self.client_url(user_id=user_id, **token), [JSON_V1])
        return await self._keep(JsonClient(socket)).greeted()

    async def json_by_url(self, url: str) -> JsonClient:
        """As `json`, with a client access URL that somebody else made."""
        return await self._keep(JsonClient(await self.open(url, [JSON_V1]))).greeted()

    async def protobuf(self, user_id: str | None = None, **token: Any) -> ProtobufClient:
        socket = await self.open(self.client_url(user_id=user_id, **token), [PROTOBUF_V1])
        return await self._keep(ProtobufClient(socket)).greeted()

    async def simple(
        self,
        user_id: str | None = None,
        query: str = "",
        subprotocols: list[str] | None = None,
        **token: Any,
    ) -> Client:
        """A client without a subprotocol of ours; `query` is added to its URL."""
        url = self.client_url(user_id=user_id, **token) + query
        return self._keep(Client(await self.open(url, subprotocols)))

    async def several(self, count: int, user_id: str | None = None, **token: Any) -> list[JsonClient]:
        """JSON clients, on every gateway in turn."""
        return [await self.json(user_id, **token) for _ in range(count)]

    async def gone(self, path: str) -> None:
        """Wait until REST answers 404: a client's own close reaches the service in its own time."""
        await self._until(path, 404)

    async def present(self, path: str) -> None:
        """Wait until there is such a group, user or connection."""
        await self._until(path, 200)

    async def at_once(self, count: int, user_id: str | None = None, **token: Any) -> list[JsonClient]:
        """As `several`, all connecting at the same time."""
        return await asyncio.gather(*(self.json(user_id, **token) for _ in range(count)))

    async def _until(self, path: str, status: int) -> None:
        async with asyncio.timeout(SECONDS):
            while (await self.rest("HEAD", path))[0] != status:  # noqa: ASYNC110 - another process knows
                await asyncio.sleep(0.02)

    def _keep(self, client: AnyClient) -> AnyClient:
        self._clients.append(client)
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(client.close() for client in self._clients), return_exceptions=True)
        await self.rest.close()
