"""The settings of one process: read once from flags, environment and a file, refused as a whole.

Every setting is one field of `ProcessConfig`, with its parser, its sentence of help and the roles that
have it. From that one table come the command line flags (`--lease-seconds`), the environment variables
(`HUBWIRE_LEASE_SECONDS`) and the docs. What belongs to the cluster rather than to a process (keys, public
endpoints, limits, hubs) can also stand in the file that `--config` names (`hubwire.runtime.config_file`).
Precedence: flag, environment, file, default. Nothing else in the project reads the environment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from hubwire.model.errors import InvalidRequest
from hubwire.model.settings import AccessKeys, HubSettings
from hubwire.runtime import parsers as p
from hubwire.runtime.setting_checks import contradictions, credentials_out_of_urls

if TYPE_CHECKING:
    from hubwire.runtime.config_file import ClusterConfig  # which imports a YAML parser

Role = Literal["gateway", "router", "controlplane"]
Durability = Literal["memory", "local", "replicated"]
LogFormat = Literal["auto", "json", "text"]
UpstreamAddresses = Literal["public", "any"]

EVERY_ROLE: frozenset[Role] = frozenset(("gateway", "router", "controlplane"))
EDGE: frozenset[Role] = frozenset(("gateway", "controlplane"))
GATEWAY: frozenset[Role] = frozenset(("gateway",))
ENV_PREFIX = "HUBWIRE_"


class BadConfig(InvalidRequest):
    """Settings that cannot be used. `faults` has one sentence for each; all are found before it is raised."""

    code = "bad_config"

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Setting(NamedTuple):
    """How one setting is read. `parse` takes the text and raises ValueError with the rest of a sentence."""

    name: str
    parse: Callable[[str], object]
    help: str
    default: object
    roles: frozenset[Role]
    secret: bool
    in_up: bool

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


def _setting(
    default: object,
    parse: Callable[[str], object],
    help: str,
    *,
    roles: frozenset[Role] = EVERY_ROLE,
    secret: bool = False,
    in_up: bool = True,
) -> Any:
    metadata = {"parse": parse, "help": help, "roles": roles, "secret": secret, "in_up": in_up}
    return field(default=default, repr=not secret, metadata=metadata)


def _own(parse: Callable[[str], object], default: object, help: str, **more: Any) -> Any:
    """A setting that `hubwire up` decides itself."""
    return _setting(default, parse, help, in_up=False, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessConfig:
    """Everything that a gateway, router or control plane process is told. Secrets are not in its repr."""

    role: Role = "gateway"

    # The bus.
    nats_servers: tuple[str, ...] = _own(
        p.nats_urls,
        ("nats://127.0.0.1:4222",),
        "NATS servers, comma separated: nats://host:port or tls://host:port",
    )
    nats_user: str = _own(str, "", "user name for NATS; needs nats_password too")
    nats_password: str = _own(str, "", "password for NATS", secret=True)
    nats_token: str = _own(str, "", "token for NATS, instead of user and password", secret=True)
    nats_creds_file: str = _own(p.readable_file, "", "NATS credentials file (.creds: JWT and nkey seed)")
    nats_nkey_file: str = _own(p.readable_file, "", "file with an nkey seed for NATS")
    nats_tls_ca: str = _own(
        p.readable_file, "", "PEM file with the CA that signed the NATS servers' certificates"
    )
    nats_tls_cert: str = _own(p.readable_file, "", "PEM file with the client certificate for NATS")
    nats_tls_key: str = _own(p.readable_file, "", "PEM file with the key of nats_tls_cert")
    nats_tls_hostname: str = _own(str, "", "name to expect in the NATS servers' certificates")
    durability: Durability = _own(  # noqa: RUF009 - makes a field
        p.choice("memory", "local", "replicated"),
        "local",
        "what JetStream keeps: memory (one copy, lost with the server), local (one copy in a file), "
        "replicated (three copies in files)",
    )

    # This process.
    name: str = _own(str, "", "name for logs and metrics; default: the role")
    worker: int = 0  # number among the gateway workers of one supervisor
    ready_fd: int | None = None  # where a byte is written once this process serves
    sole_router: bool = False  # no other router exists: what the table says of others is of the past
    log_level: str = _setting(
        "info", p.choice("debug", "info", "warning", "error"), "debug, info, warning or error"
    )
    log_format: LogFormat = _setting(  # noqa: RUF009 - makes a field
        "auto", p.choice("auto", "json", "text"), "json, text, or auto: text on a terminal, else json"
    )
    lease_seconds: float = _setting(
        5.0, p.number(1, 120), "how long a process that says nothing still counts as alive, 1 to 120"
    )
    drain_seconds: float = _setting(
        30.0, p.number(0, 3600), "how long a stopping process takes to let its clients go, 0 to 3600"
    )

    # For operators.
    admin_host: str = _setting(
        "127.0.0.1",
        p.host,
        "address of the admin listener: /metrics, /livez, /readyz, /startupz; 0.0.0.0 for all",
    )
    admin_port: int = _setting(
        9464,
        p.port,
        "port of the admin listener; 0 picks a free one. Each process has its own: with `up` the workers "
        "have this one and those that follow, the router the next",
    )
    metrics_hubs: int = _setting(
        50,
        p.integer(0, 1000),
        "how many hubs have numbers of their own in the metrics, 0 to 1000; the rest are counted together",
    )
    trace_sample: float = _setting(
        0.0,
        p.number(0, 1),
        "which part of requests and messages that no caller traces is traced, 0 to 1; spans are pushed to "
        "OTEL_EXPORTER_OTLP_ENDPOINT, and without that nothing is",
    )
    admin_held: bool = False  # the supervisor holds the port, so it is shared with that

    # The edge.
    host: str = _setting("127.0.0.1", p.host, "address to listen on; 0.0.0.0 for all", roles=EDGE)
    port: int = _setting(8080, p.port, "port to listen on; 0 picks a free one", roles=EDGE)
    public_endpoints: tuple[str, ...] = _setting(
        (),
        p.http_urls,
        "endpoints by which clients know the service, comma separated: http(s)://host[:port][/prefix]; "
        "tokens for them are accepted beside those for the request's own host",
        roles=EDGE,
    )
    tls_cert: str = _setting(
        "",
        p.readable_file,
        "PEM file with the certificate for clients and REST, and the chain behind it; with it `port` speaks "
        "TLS alone. Read again when it changes",
        roles=EDGE,
    )
    tls_key: str = _setting("", p.readable_file, "PEM file with the key of tls_cert", roles=EDGE)

    oidc_issuers: tuple[str, ...] = _setting(
        (),
        p.issuers,
        "OpenID Connect issuers whose tokens REST takes beside access keys, comma separated; what they sign "
        "is trusted for all of oidc_owners and oidc_readers",
        roles=EDGE,
    )
    oidc_audiences: tuple[str, ...] = _setting(
        ("https://webpubsub.azure.com",),
        p.words,
        "audiences that such a token may have, comma separated",
        roles=EDGE,
    )
    oidc_owners: tuple[str, ...] = _setting(
        ("roles=Web PubSub Service Owner",),
        p.claims,
        "who may call all of the REST data plane, comma separated: CLAIM=VALUE, as roles=NAME, groups=ID, "
        "scp=NAME, appid=ID, sub=ID",
        roles=EDGE,
    )
    oidc_readers: tuple[str, ...] = _setting(
        ("roles=Web PubSub Service Reader",),
        p.claims,
        "who may only look (whether connections, groups, users and permissions exist; members of groups)",
        roles=EDGE,
    )
    oidc_admins: tuple[str, ...] = _setting(
        (), p.claims, "who may call the management API: settings of hubs, and the keys", roles=EDGE
    )
    oidc_ca_file: str = _setting(
        "",
        p.readable_file,
        "PEM file with the CAs that the issuers' certificates are verified with; default: the system's",
        roles=EDGE,
    )

    rest: bool = _own(
        p.boolean, False, "serve REST on the port of the gateway too, as `up` does", roles=GATEWAY
    )

    # Event handlers (server-events.md 1.5, 2.1, 4.8, 4.10).
    public_host: str = _setting(
        "",
        p.authority,
        "host name by which event handlers know the service (WebHook-Request-Origin); default: that of the "
        "first public endpoint, else the one that each client connected to",
        roles=GATEWAY,
    )
    upstream_addresses: UpstreamAddresses = _setting(  # noqa: RUF009 - makes a field
        "public",
        p.choice("public", "any"),
        "which addresses event handlers may have: public, or any, also private and loopback ones",
        roles=GATEWAY,
    )
    upstream_allow: tuple[str, ...] = _setting(
        (), p.networks, "networks that event handlers may be in all the same, comma separated", roles=GATEWAY
    )
    upstream_deny: tuple[str, ...] = _setting(
        (),
        p.networks,
        "networks that are never called, comma separated; wins over what is allowed",
        roles=GATEWAY,
    )
    upstream_seconds: float = _setting(
        100.0,
        p.number(1, 110),
        "how long an event handler may take to answer, repeats included, 1 to 110",
        roles=GATEWAY,
    )
    upstream_ca_file: str = _setting(
        "",
        p.readable_file,
        "PEM file with the CAs that event handlers' certificates are verified with; default: the system's",
        roles=GATEWAY,
    )
    upstream_token_url: str = _setting(
        "",
        p.https_url,
        "token endpoint of an OAuth2 server (client credentials), for handlers with auth ManagedIdentity",
        roles=GATEWAY,
    )
    upstream_client_id: str = _setting("", str, "client id at upstream_token_url", roles=GATEWAY)
    upstream_client_secret: str = _setting(
        "", str, "client secret at upstream_token_url", roles=GATEWAY, secret=True
    )
    upstream_scope_suffix: str = _setting(
        "", str, "put behind a handler's resource to make the scope; Entra ID wants /.default", roles=GATEWAY
    )
    upstream_token_file: str = _setting(
        "",
        str,
        "file with a token that somebody else renews, instead of upstream_token_url; {resource} in the path "
        "stands for the handler's resource",
        roles=GATEWAY,
    )

    # Seeds: what the cluster's settings begin with when they do not exist yet.
    access_key: str = _setting(
        "", p.access_key, "primary access key; default: made on first start", secret=True
    )
    secondary_access_key: str = _setting("", p.access_key, "secondary access key", secret=True)
    access_key_salt: str = field(default="", repr=False)
    access_key_is_order: bool = False  # the keys above replace those that the cluster has
    keys_file: str = ""  # rewritten by one worker when keys are regenerated; only under `hubwire up`
    hubs: Mapping[str, HubSettings] = field(default_factory=dict, repr=False)
    file: ClusterConfig | None = field(default=None, repr=False)
    """All that the file of --config says, also what only some of the rooms read (limits, management)."""

    @property
    def in_memory(self) -> bool:
        """Whether JetStream keeps everything in memory, lost with the server."""
        return self.durability == "memory"

    @property
    def replicas(self) -> int:
        """How many copies JetStream keeps."""
        return 3 if self.durability == "replicated" else 1

    @property
    def seed_keys(self) -> AccessKeys | None:
        """The keys to begin with when the cluster has none, or None when none were given."""
        if not self.access_key:
            return None
        return AccessKeys(self.access_key, self.secondary_access_key, self.access_key_salt)

    def replace(self, **changes: Any) -> ProcessConfig:
        """The same settings with some changed (by the supervisor, for one child)."""
        return dataclasses.replace(self, **changes)


def settings_of(role: Role | Literal["up"]) -> list[Setting]:
    """The settings of a role, or those that an operator may give to `hubwire up`."""
    found = []
    for one in dataclasses.fields(ProcessConfig):
        about = one.metadata
        if "parse" not in about or (not about["in_up"] if role == "up" else role not in about["roles"]):
            continue
        found.append(
            Setting(
                one.name,
                about["parse"],
                about["help"],
                one.default,
                about["roles"],
                about["secret"],
                about["in_up"],
            )
        )
    return found


def read_config(
    role: Role,
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    file: ClusterConfig | None = None,
) -> ProcessConfig:
    """The configuration of one process, or `BadConfig` with every fault found. `flags` are by setting
    name, None for those not given."""
    return read_settings(role, settings_of(role), flags, environ, file)[0]


def read_settings(
    role: Role,
    settings: Sequence[Setting],
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    file: ClusterConfig | None = None,
) -> tuple[ProcessConfig, dict[str, object]]:
    """As `read_config`, for a list of settings; those that are no field of `ProcessConfig` come beside it."""
    faults: list[str] = []
    values: dict[str, object] = {}
    in_file = _values_of(file)
    for setting in settings:
        source, text = _text_of(setting, flags, environ)
        try:
            if text is not None:
                values[setting.name] = setting.parse(text)
            else:
                values[setting.name] = in_file.get(setting.name, setting.default)
        except ValueError as fault:
            shown = "" if setting.secret else f" is {text!r}, which"
            faults.append(f"{source}{shown} {fault}.")
    fields = {one.name for one in dataclasses.fields(ProcessConfig)}
    others = {
        setting.name: values.pop(setting.name, setting.default)
        for setting in settings
        if setting.name not in fields
    }
    hubs = file.hubs if file else {}
    config = ProcessConfig(role=role, file=file, hubs=hubs, **cast(dict[str, Any], values))
    config = credentials_out_of_urls(config)
    faults.extend(contradictions(config))
    if faults:
        raise BadConfig(tuple(faults))
    return config, others


def _text_of(
    setting: Setting, flags: Mapping[str, str | None], environ: Mapping[str, str]
) -> tuple[str, str | None]:
    given = flags.get(setting.name)
    if given is not None:
        return setting.flag, given
    given = environ.get(setting.env)
    # Kubernetes puts HUBWIRE_PORT=tcp://10.0.0.1:80 into every pod beside a Service called "hubwire".
    if given and not given.startswith("tcp://"):
        return setting.env, given
    return setting.flag, None


def _values_of(file: ClusterConfig | None) -> dict[str, object]:
    """The settings of a process that the cluster's file can give too."""
    if file is None:
        return {}
    found: dict[str, object] = {}
    if file.public_endpoints:
        found["public_endpoints"] = tuple(endpoint.rstrip("/") for endpoint in file.public_endpoints)
    keys = file.seed_keys()
    if keys is not None:
        found["access_key"] = keys.primary
        found["secondary_access_key"] = keys.secondary
    return found
