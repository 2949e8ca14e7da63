"""The control plane on a real socket over a cluster in memory, and a client that sends what it is told.

Targets go on the wire as they are written here, escapes and all. Every exchange is held against the
OpenAPI document of its api-version.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, web
from multidict import CIMultiDictProxy
from support.memory_cluster import MemoryCluster, MemorySettings
from support.openapi_check import check_exchange
from yarl import URL

from controlplane.app import create_app
from controlplane.http import RestRunner
from controlplane.oidc.tokens import Issuers
from controlplane.settings import ControlPlaneConfig
from hubwire.model.tokens import sign_rest_token

VERSION = "api-version=2024-12-01"


class Answer:
    def __init__(self, status: int, headers: CIMultiDictProxy[str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.body[:200]!r}>"


class Rig:
    """`call` signs like an SDK, with the primary key and the whole URL as audience, unless told otherwise."""

    def __init__(
        self, base: str, session: ClientSession, cluster: MemoryCluster, settings: MemorySettings
    ) -> None:
        self.base = base
        self.session = session
        self.cluster = cluster
        self.settings = settings
        self.seen: set[str] = set()

    async def call(
        self,
        method: str,
        target: str,
        body: bytes | str | None = None,
        content_type: str | None = None,
        *,
        token: str | None = "",
        headers: dict[str, str] | None = None,
        check: bool = True,
    ) -> Answer:
        """`token`: None for no Authorization header, empty for one that is made here."""
        sent = dict(headers or {})
        if token == "":
            token = sign_rest_token(self.settings.keys.primary, self.base + target, time.time())
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if content_type is not None:
            sent["Content-Type"] = content_type
        data = body.encode() if isinstance(body, str) else body
        skip = () if content_type is not None else ("Content-Type",)
        async with self.session.request(
            method,
            URL(self.base + target, encoded=True),
            data=io.BytesIO(data) if data is not None else None,  # aiohttp warns of large bytes
            headers=sent,
            skip_auto_headers=skip,
            allow_redirects=False,
        ) as response:
            answer = Answer(response.status, response.headers, await response.read())
        if check and method != "OPTIONS":
            operation = check_exchange(
                method, target, sent, data or b"", answer.status, dict(answer.headers), answer.body
            )
            if operation is not None:
                self.seen.add(operation)
        return answer


@asynccontextmanager
async def rest_rig(
    config: ControlPlaneConfig | None = None, issuers: Issuers | None = None
) -> AsyncIterator[Rig]:
    cluster, settings = MemoryCluster(), MemorySettings()
    runner = RestRunner(create_app(cluster, settings, config, issuers=issuers))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        async with ClientSession(auto_decompress=False) as session:
            yield Rig(f"http://{host}:{port}", session, cluster, settings)
    finally:
        await runner.cleanup()
