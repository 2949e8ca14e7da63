"""The settings of a process: where they come from, which win, what is said of those that cannot be used."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from controlplane.service import rest_config
from controlplane.settings import ControlPlaneConfig
from gateway.settings import upstream_config
from gateway.upstream.config import ClientCredentials, TokenFile, UpstreamConfig
from hubwire.cli.up import up_settings
from hubwire.model.cluster_settings import ClusterSettings, ManagementSettings
from hubwire.runtime.config_file import parse_config
from hubwire.runtime.process import BadConfig, ProcessConfig, Role, read_config, settings_of

ROLES: tuple[Role, ...] = ("gateway", "router", "controlplane")
KEY = "a-key-which-is-long-enough-for-this-123456"


def test_a_flag_wins_over_the_environment_that_over_the_file_and_that_over_the_default() -> None:
    environ = {"HUBWIRE_PORT": "2", "HUBWIRE_LEASE_SECONDS": "2", "HUBWIRE_SECONDARY_ACCESS_KEY": KEY + "2"}
    text = f"accessKeys: {{primary: {KEY}3, secondary: {KEY}3}}\npublicEndpoints: [https://a/]\n"
    config = read_config("gateway", {"port": "1"}, environ, parse_config(text))
    assert (config.port, config.lease_seconds, config.host) == (1, 2, "127.0.0.1")
    assert (config.access_key, config.secondary_access_key) == (KEY + "3", KEY + "2")
    assert config.public_endpoints == ("https://a",)


def test_all_faults_are_told_at_once_each_with_its_source() -> None:
    with pytest.raises(BadConfig) as caught:
        read_config(
            "gateway",
            {"port": "many"},
            {"HUBWIRE_DRAIN_SECONDS": "-1", "HUBWIRE_NATS_USER": "me"},
        )
    assert sorted(fault.split()[0] for fault in caught.value.faults) == [
        "--port",
        "HUBWIRE_DRAIN_SECONDS",
        "nats_user",
    ]


def test_secrets_are_neither_in_the_repr_nor_in_faults() -> None:
    config = read_config(
        "gateway",
        {},
        {
            "HUBWIRE_ACCESS_KEY": KEY,
            "HUBWIRE_NATS_SERVERS": "nats://me:secret-1@a:1,b",
        },
    )
    assert config.seed_keys is not None
    assert config.seed_keys.primary == KEY
    assert (config.nats_user, config.nats_password) == ("me", "secret-1")
    assert config.nats_servers == ("nats://a:1", "nats://b")
    assert KEY not in repr(config)
    assert "secret-1" not in repr(config)
    with pytest.raises(BadConfig) as caught:
        read_config("gateway", {}, {"HUBWIRE_ACCESS_KEY": "short-secret"})
    assert "short-secret" not in str(caught.value)


def test_what_kubernetes_puts_there_for_a_service_is_no_port() -> None:
    assert read_config("gateway", {}, {"HUBWIRE_PORT": "tcp://10.0.0.1:80"}).port == 8080


@pytest.mark.parametrize(
    "environ",
    [
        {"HUBWIRE_NATS_USER": "a", "HUBWIRE_NATS_PASSWORD": "b", "HUBWIRE_NATS_TOKEN": "c"},
        {"HUBWIRE_NATS_PASSWORD": "b"},
        {"HUBWIRE_NATS_TLS_CERT": __file__},
        {"HUBWIRE_NATS_TLS_CA": "/no/such/file"},
        {"HUBWIRE_NATS_SERVERS": "http://a"},
        {"HUBWIRE_NATS_SERVERS": "nats://a:70000"},
        {"HUBWIRE_PUBLIC_ENDPOINTS": "wss://a"},
        {"HUBWIRE_PUBLIC_ENDPOINTS": "https://a?b=c"},
        {"HUBWIRE_HOST": "http://localhost"},
        {"HUBWIRE_PORT": "65536"},
        {"HUBWIRE_LEASE_SECONDS": "nan"},
        {"HUBWIRE_DURABILITY": "eternal"},
        {"HUBWIRE_SECONDARY_ACCESS_KEY": KEY},
        {"HUBWIRE_ACCESS_KEY": KEY + ";x"},
    ],
)
def test_what_cannot_work_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(BadConfig):
        read_config("gateway", {}, environ)


def test_what_the_file_says_of_hubs_and_of_the_cluster_is_passed_on_and_no_process_goes_by_it_itself() -> (
    None
):
    text = "hubs: {Chat: {anonymousConnectPolicy: allow}}\nlimits: {maxBodyBytes: 9}\n"
    config = read_config("gateway", {}, {}, parse_config(text))
    assert config.hubs["Chat"].anonymous_connect_policy == "allow"
    assert config.file is not None
    given = config.file.cluster_settings()
    assert given.limits.max_body_bytes == 9
    assert rest_config(config) == ControlPlaneConfig()
    assert rest_config(config).under(given).max_body_bytes == 9


def test_a_process_with_credentials_for_handlers_knows_of_them_and_another_one_is_told_by_the_cluster() -> (
    None
):
    told = ClusterSettings(management=ManagementSettings(upstream_identity=True))
    untold = ClusterSettings(management=ManagementSettings(upstream_identity=False))
    for config, cluster, known in (
        (ProcessConfig(), untold, False),
        (ProcessConfig(), told, True),
        (ProcessConfig(upstream_token_file="/run/token"), untold, True),
    ):
        assert rest_config(config).under(cluster).management.upstream_identity is known


@pytest.mark.parametrize("role", [*ROLES, "up"])
def test_every_setting_has_help_and_a_default_that_is_the_configs(role: str) -> None:
    fields = {field.name: field for field in dataclasses.fields(ProcessConfig)}
    for setting in settings_of(role):  # type: ignore[arg-type]
        assert setting.help
        assert setting.default == fields[setting.name].default


def test_up_decides_itself_how_its_nats_is_reached() -> None:
    assert not [setting.name for setting in up_settings() if setting.name.startswith("nats_")]
    assert {"host", "port", "workers", "data", "memory", "access_key"} <= {s.name for s in up_settings()}


def test_files_are_named_absolutely_since_the_process_may_change_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_text("")
    monkeypatch.chdir(tmp_path)
    assert read_config("router", {}, {"HUBWIRE_NATS_TLS_CA": "ca.pem"}).nats_tls_ca == str(
        tmp_path / "ca.pem"
    )


def test_where_event_handlers_may_be_is_safe_in_a_cluster_and_open_on_ones_own_machine() -> None:
    assert read_config("gateway", {}, {}).upstream_addresses == "public"
    up = {setting.name: setting.default for setting in up_settings()}
    assert up["upstream_addresses"] == "any"


def test_how_event_handlers_are_called() -> None:
    environ = {
        "HUBWIRE_PUBLIC_ENDPOINTS": "https://pubsub.example.com:8443/x,https://other.example",
        "HUBWIRE_UPSTREAM_ALLOW": "10.1.2.3/16, fd00::/8",
        "HUBWIRE_UPSTREAM_DENY": "10.1.9.0/24",
        "HUBWIRE_UPSTREAM_SECONDS": "5",
        "HUBWIRE_UPSTREAM_TOKEN_URL": "https://login.example.com/token",
        "HUBWIRE_UPSTREAM_CLIENT_ID": "me",
        "HUBWIRE_UPSTREAM_CLIENT_SECRET": "s3cr3t",
        "HUBWIRE_UPSTREAM_SCOPE_SUFFIX": "/.default",
    }
    config = read_config("gateway", {}, environ)
    assert "s3cr3t" not in repr(config)
    assert upstream_config(config) == UpstreamConfig(
        public_host="pubsub.example.com:8443",
        event_seconds=5,
        allow=("10.1.0.0/16", "fd00::/8"),
        deny=("10.1.9.0/24",),
        identity=ClientCredentials("https://login.example.com/token", "me", "s3cr3t", "/.default"),
    )
    named = read_config("gateway", {"public_host": "wps.example", "upstream_token_file": "/a/{resource}"}, {})
    assert upstream_config(named) == UpstreamConfig(
        public_host="wps.example", identity=TokenFile("/a/{resource}")
    )
    assert upstream_config(read_config("gateway", {"upstream_addresses": "any"}, {})).allow_private


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("public_host", "https://a"),
        ("public_host", "a b"),
        ("public_host", "me@a"),
        ("upstream_allow", "10.0.0.0/33"),
        ("upstream_deny", "localhost"),
        ("upstream_addresses", "private"),
        ("upstream_seconds", "0"),
        ("upstream_token_url", "http://login.example.com/token"),
        ("upstream_token_url", "https://me@login.example.com/token"),
    ],
)
def test_unusable_settings_of_event_handlers_are_refused(name: str, text: str) -> None:
    with pytest.raises(BadConfig) as caught:
        read_config("gateway", {name: text}, {"HUBWIRE_UPSTREAM_CLIENT_ID": ""})
    assert caught.value.faults[0].startswith(f"--{name.replace('_', '-')} ")


def test_half_a_credential_for_event_handlers_is_no_credential() -> None:
    with pytest.raises(BadConfig) as caught:
        read_config("gateway", {"upstream_token_file": "/t", "upstream_client_id": "me"}, {})
    assert len(caught.value.faults) == 2
