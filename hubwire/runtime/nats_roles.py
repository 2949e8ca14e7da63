"""What each role may do on NATS: the users of one account, in the language of nats-server's configuration.

The lists name what the code of a role uses, and nothing else: a gateway cannot write settings, a router can
neither read nor write them, a control plane cannot write for a gateway or a router. Streams have names of one
token, which permissions cannot match by their beginning; where a role makes or deletes streams whose names
are not known before (inboxes, those of event listeners) it may do so with all but those that are denied.

This keeps a mistake and a stolen password small. It is no wall against someone who has a gateway's
password and knows JetStream: docs/threat-model.md says why.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hubwire.bus.dead_letters import STREAM as DEAD_LETTERS
from hubwire.bus.event_log import STREAM as EVENTS
from hubwire.bus.settings import BUCKET as SETTINGS_BUCKET
from hubwire.bus.subjects import (
    LEASES_BUCKET,
    LEASES_CENSUS,
    OWNERS_ASKED,
    OWNERS_BUCKET,
    OWNERS_CHANGED,
    SESSIONS_STREAM,
    STATUS_ASKED,
    inbox_prefix,
)
from hubwire.model.errors import InvalidRequest

ROLES: Final = ("gateway", "router", "controlplane")
OPERATOR: Final = "operator"
"""May do everything in the account: `hubwire keys show`, `doctor`, backups."""

_SETTINGS, _OWNERS, _LEASES = (f"KV_{name}" for name in (SETTINGS_BUCKET, OWNERS_BUCKET, LEASES_BUCKET))
_EVENT_LOG = ("hw.event.>", "hw.outbox.*")


class Rights(NamedTuple):
    """Subjects that a user may publish to, all but `not_publish`, and those that it may subscribe to."""

    publish: tuple[str, ...]
    not_publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def _api(*operations: str) -> tuple[str, ...]:
    return tuple(f"$JS.API.{operation}" for operation in operations)


def _writes(stream: str, *verbs: str) -> tuple[str, ...]:
    """Everything, or the named operations, that makes, changes, empties or removes a stream."""
    verbs = verbs or ("CREATE", "UPDATE", "DELETE", "PURGE", "RESTORE", "MSG.DELETE")
    return _api(*(f"STREAM.{verb}.{stream}" for verb in verbs))


def _reads(stream: str) -> tuple[str, ...]:
    """Everything that tells what is in a stream."""
    consumers = (
        f"CONSUMER.{verb}.{stream}{rest}"
        for verb in ("CREATE", "DURABLE.CREATE", "MSG.NEXT")
        for rest in ("", ".>")
    )
    whole = (f"STREAM.MSG.GET.{stream}", f"STREAM.SNAPSHOT.{stream}")
    return _api(*whole, *consumers, f"DIRECT.GET.{stream}", f"DIRECT.GET.{stream}.>")


def _everyone(role: str) -> Rights:
    """Answers and questions, the health of the store, who is there."""
    # Whoever is first makes them; one that is there is not changed by that.
    buckets = (f"STREAM.CREATE.{stream}" for stream in (_OWNERS, _LEASES))
    return Rights(
        ("_INBOX.>", LEASES_CENSUS, f"$KV.{LEASES_BUCKET}.check.*", *_api("INFO", "STREAM.INFO.*", *buckets)),
        (),
        (f"{inbox_prefix(role)}.>", STATUS_ASKED, OWNERS_CHANGED),
    )


def _gateway(listener_prefix: str) -> Rights:
    streams = ("STREAM.CREATE.*", "STREAM.UPDATE.*", "STREAM.DELETE.*", "STREAM.PURGE.*", "STREAM.NAMES")
    consumers = ("CONSUMER.CREATE.>", "CONSUMER.DELETE.*.*", "CONSUMER.MSG.NEXT.*.*", "CONSUMER.INFO.*.*")
    return Rights(
        (
            "hw.router.*",
            "hw.peer.*",
            "hw.here.gateway.*",
            "hw.inbox.*",
            "hw.session.*",
            "hw.dead",
            *_EVENT_LOG,
            f"$KV.{LEASES_BUCKET}.gateway.*",
            f"{listener_prefix}.>",
            "$JS.FC.>",
            *_api("STREAM.MSG.GET.*", *streams, *consumers),
        ),
        (
            *_writes(_SETTINGS),
            *_writes(_OWNERS, "UPDATE", "DELETE", "PURGE"),
            *_writes(_LEASES, "UPDATE", "DELETE", "PURGE"),
        ),
        ("hw.gw.*", "hw.peer.*", LEASES_CENSUS),
    )


def _router() -> Rights:
    events = (f"STREAM.CREATE.{EVENTS}", f"STREAM.PURGE.{EVENTS}")
    reads = (f"STREAM.MSG.GET.{stream}" for stream in (_OWNERS, _LEASES, EVENTS, SESSIONS_STREAM))
    kept = (_SETTINGS, _OWNERS, _LEASES, EVENTS, SESSIONS_STREAM, DEAD_LETTERS)
    return Rights(
        (
            "hw.gw.*",
            "hw.inbox.*",
            OWNERS_CHANGED,
            OWNERS_ASKED,
            "hw.owners.told.*",
            "hw.here.router.*",
            *_EVENT_LOG,
            f"$KV.{OWNERS_BUCKET}.>",
            f"$KV.{LEASES_BUCKET}.*.*",
            *_api("STREAM.NAMES", "STREAM.DELETE.*", *events, *reads),
        ),
        tuple(f"$JS.API.STREAM.DELETE.{stream}" for stream in kept),
        (
            "hw.router.*",
            LEASES_CENSUS,
            OWNERS_ASKED,
            "hw.owners.told.*",
            f"$KV.{LEASES_BUCKET}.*.*",
            "hw.here.*.*",
        ),
    )


def _controlplane() -> Rights:
    made = (
        f"STREAM.CREATE.{stream}" for stream in (_SETTINGS, _OWNERS, EVENTS, DEAD_LETTERS, SESSIONS_STREAM)
    )
    read = (_SETTINGS, _OWNERS, _LEASES, EVENTS, DEAD_LETTERS, SESSIONS_STREAM)
    reads = (f"STREAM.MSG.GET.{stream}" for stream in read)
    consumers = (f"CONSUMER.{verb}.{_SETTINGS}{end}" for verb in ("CREATE", "DELETE") for end in ("", ".>"))
    return Rights(
        (
            "hw.gw.*",
            "hw.router.*",
            "hw.session.*",
            "hw.dead",
            *_EVENT_LOG,
            f"$KV.{SETTINGS_BUCKET}.>",
            *_api(*made, *reads, *consumers, f"STREAM.MSG.DELETE.{DEAD_LETTERS}", f"STREAM.PURGE.{EVENTS}"),
        ),
        (),
        (f"$KV.{LEASES_BUCKET}.gateway.*", "hw.here.gateway.*"),
    )


def rights_of(role: str, listener_prefix: str = "awps") -> Rights:
    """What a role's user may do. `listener_prefix`: where event listeners may send to."""
    own = {
        "gateway": lambda: _gateway(listener_prefix),
        "router": _router,
        "controlplane": _controlplane,
    }[role]()
    common = _everyone(role)
    denied = own.not_publish if role != "router" else (*own.not_publish, *_reads(_SETTINGS))
    return Rights(common.publish + own.publish, denied, common.subscribe + own.subscribe)


def user_of(role: str) -> str:
    return f"hubwire-{role}"


def password_variable(role: str) -> str:
    """The environment variable of nats-server that has the password."""
    return f"HUBWIRE_NATS_{role.upper()}_PASSWORD"


def role_users(listener_prefix: str = "awps") -> list[str]:
    """The entries of `users` for the roles, without the operator. The Helm chart has them in a file."""
    return [_user(role, rights_of(role, listener_prefix)) for role in ROLES]


def nats_users(account: str = "HUBWIRE", listener_prefix: str = "awps") -> str:
    """The `accounts` block for nats-server's configuration. It holds no secret: the passwords are in the
    server's environment, under `password_variable`. Raises InvalidRequest for names that do not fit."""
    if not account.isidentifier() or not listener_prefix.replace(".", "").replace("-", "").isidentifier():
        raise InvalidRequest("An account and a prefix are letters, digits and _ (a prefix also - and dots).")
    users = role_users(listener_prefix)
    users.append(f"      {{ user: {user_of(OPERATOR)}, password: ${password_variable(OPERATOR)} }}")
    return "\n".join(
        [
            "accounts {",
            f"  {account} {{",
            "    jetstream: enabled",
            "    users: [",
            *users,
            "    ]",
            "  }",
            "}",
        ]
    )


def _user(role: str, rights: Rights) -> str:
    lines = [
        f"      {{ user: {user_of(role)}, password: ${password_variable(role)}",
        "        permissions: {",
    ]
    denied = f", deny: [{_quoted(rights.not_publish)}]" if rights.not_publish else ""
    lines.append(f"          publish: {{ allow: [{_quoted(rights.publish)}]{denied} }}")
    lines.append(f"          subscribe: {{ allow: [{_quoted(rights.subscribe)}] }}")
    return "\n".join([*lines, "        }", "      }"])


def _quoted(subjects: tuple[str, ...]) -> str:
    return ", ".join(f'"{subject}"' for subject in subjects)
