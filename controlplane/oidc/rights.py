"""What a caller with a token of an issuer may do: pure.

Azure has two roles for the data plane: *Web PubSub Service Owner* (`Microsoft.SignalRService/WebPubSub/*`)
and *Web PubSub Service Reader* (`.../*/read`). Which claims make somebody one of them is for the operator to
say: Azure keeps that in its own directory, and no token has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from controlplane.operations import Operation

OWNER = "Web PubSub Service Owner"
READER = "Web PubSub Service Reader"
_SPACED = ("scp", "scope")  # RFC 8693, 4.2: one text with spaces between its words


class Claim(NamedTuple):
    name: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Claim:
        """From `name=value`; the value may hold more equals signs."""
        name, _, value = text.partition("=")
        return cls(name.strip(), value.strip())

    def is_in(self, claims: Mapping[str, Any]) -> bool:
        """Exactly, with case; in a list when one of its texts is it."""
        found = claims.get(self.name)
        if isinstance(found, str):
            return found == self.value or (self.name in _SPACED and self.value in found.split())
        return isinstance(found, list) and self.value in found


class Rights(NamedTuple):
    """Who is what. Owners are readers too."""

    owners: tuple[Claim, ...] = ()
    readers: tuple[Claim, ...] = ()
    admins: tuple[Claim, ...] = ()

    @classmethod
    def of(cls, owners: Sequence[str], readers: Sequence[str], admins: Sequence[str]) -> Rights:
        """From texts like `roles=Web PubSub Service Owner`."""
        return cls(*(tuple(map(Claim.parse, texts)) for texts in (owners, readers, admins)))

    def may_call(self, claims: Mapping[str, Any], operation: Operation | None) -> bool:
        """Whether the claims allow an operation of the data plane; None is one that only owners may."""
        if _one_of(self.owners, claims):
            return True
        return is_read(operation) and _one_of(self.readers, claims)

    def may_manage(self, claims: Mapping[str, Any]) -> bool:
        return _one_of(self.admins, claims)


def is_read(operation: Operation | None) -> bool:
    """Whether an operation only looks: whether something exists, who is in a group."""
    return operation is not None and operation.method in ("GET", "HEAD")


def _one_of(wanted: tuple[Claim, ...], claims: Mapping[str, Any]) -> bool:
    return any(claim.is_in(claims) for claim in wanted)
