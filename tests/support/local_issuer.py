"""An OpenID Connect issuer on this machine: discovery, keys, and tokens signed with them.

async with LocalIssuer() as issuer:
    issuer.token(roles=["Web PubSub Service Owner"])
"""

from __future__ import annotations

import asyncio
import json
import time
from types import TracebackType
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa

AUDIENCE = "https://webpubsub.azure.com"
SECONDS = 30.0
_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)  # one for all: making one takes a while


class LocalIssuer:
    """It can be away (`away`), and say what it should not (`documents`, by path)."""

    def __init__(self) -> None:
        self.url = ""
        self.away = False
        self.documents: dict[str, bytes] = {}
        self.asked: list[str] = []
        """The paths that were asked for."""
        self._keys: dict[str, tuple[str, Any]] = {"rsa-1": ("RS256", _RSA)}
        self._runner: web.AppRunner | None = None
        self._fetched = asyncio.Event()

    def add_key(self, kid: str, algorithm: str = "ES256") -> None:
        self._keys[kid] = algorithm, _RSA if algorithm == "RS256" else ec.generate_private_key(ec.SECP256R1())

    def token(self, kid: str = "rsa-1", *, seconds: float = 300, **claims: Any) -> str:
        """`claims` over those of a good token; None takes one away."""
        now = time.time()
        good = {"iss": self.url, "aud": AUDIENCE, "sub": "app", "nbf": int(now), "exp": int(now + seconds)}
        content = {name: value for name, value in {**good, **claims}.items() if value is not None}
        algorithm, key = self._keys[kid]
        return jwt.encode(content, key, algorithm=algorithm, headers={"kid": kid})

    @property
    def jwks(self) -> dict[str, Any]:
        return {"keys": [_jwk(kid, *key) for kid, key in self._keys.items()]}

    async def fetched(self) -> None:
        """Until the keys have been asked for once more."""
        self._fetched.clear()
        async with asyncio.timeout(SECONDS):
            await self._fetched.wait()

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if self.away:
            return web.Response(status=503)
        discovery = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        known = {
            "/.well-known/openid-configuration": json.dumps(discovery).encode(),
            "/keys": json.dumps(self.jwks).encode(),
        } | self.documents
        if request.path == "/keys":
            self._fetched.set()
        body = known.get(request.path)
        return web.Response(status=404) if body is None else web.Response(body=body)

    async def __aenter__(self) -> LocalIssuer:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()


def _jwk(kid: str, algorithm: str, key: Any) -> dict[str, Any]:
    kinds: dict[str, Any] = {"RS256": jwt.algorithms.RSAAlgorithm, "ES256": jwt.algorithms.ECAlgorithm}
    made = json.loads(kinds[algorithm].to_jwk(key.public_key()))
    return {**made, "kid": kid, "use": "sig"}
