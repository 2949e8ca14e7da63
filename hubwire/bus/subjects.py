"""The NATS subjects and buckets (DESIGN.md section 4): pure."""

from __future__ import annotations

OWNERS_BUCKET = "hw_owners"
OWNERS_KEY = "table"
OWNERS_CHANGED = "hw.owners"
"""A router that has written the ownership table says so here, with the table itself."""

OWNERS_ASKED = "hw.owners.asked"
"""A router that finds no table, or an older one than it knows, asks the others here for theirs."""

LEASES_BUCKET = "hw_leases"
LEASES_CENSUS = "hw.census"
"""Every lease holder says that it is here when it hears this, and renews."""


def router_subject(router: str) -> str:
    return f"hw.router.{router}"


def owners_told_subject(router: str) -> str:
    """Where the others answer what they are asked at OWNERS_ASKED."""
    return f"hw.owners.told.{router}"


def gateway_subject(gateway: str) -> str:
    return f"hw.gw.{gateway}"


def peer_subject(gateway: str) -> str:
    """Where other gateways ask it. They may not send to `hw.gw`, where messages for clients come in."""
    return f"hw.peer.{gateway}"


def inbox_prefix(role: str) -> str:
    """Where a role is answered; NATS can keep others from listening there (hubwire.runtime.nats_roles)."""
    return f"_INBOX.{role}"


STATUS_ASKED = "hw.status"
"""Asked by operators, answered by every process."""

INBOX_SUBJECTS = "hw.inbox.*"
INBOX_STREAM_PREFIX = "hw_inbox_"

SESSIONS_STREAM = "hw_sessions"
SESSION_SUBJECTS = "hw.session.*"


def inbox_subject(gateway: str) -> str:
    """Where entries for the reliable sessions of a gateway's run are written."""
    return f"hw.inbox.{gateway}"


def inbox_stream(gateway: str) -> str:
    return f"{INBOX_STREAM_PREFIX}{gateway}"


def session_subject(connection_id: str) -> str:
    """The record of a reliable session: who holds it."""
    return f"hw.session.{connection_id}"


def lease_key(role: str, name: str) -> str:
    return f"{role}.{name}"


def lease_subject(role: str, name: str) -> str:
    """Where a renewal of the lease is stored, and heard by core subscribers at the same time."""
    return f"$KV.{LEASES_BUCKET}.{role}.{name}"


def store_check_subject(who: str) -> str:
    """Where it is tried whether JetStream stores: in the bucket of the leases, under nobody's lease."""
    return f"$KV.{LEASES_BUCKET}.check.{who}"


def presence_subject(role: str, name: str) -> str:
    """Where a lease holder answers the census. Nothing is stored: it is heard also without JetStream."""
    return f"hw.here.{role}.{name}"
