"""The NATS servers of the chart, with the configuration that it renders, as processes of this machine."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from support.certificate_authority import CertificateAuthority, Pair
from support.rendered_chart import CHART, VALUES, needs_helm, one, pods_of, rendered

from hubwire.bus.client import BusClient
from hubwire.runtime.nats_options import nats_options
from hubwire.runtime.nats_roles import ROLES, password_variable, user_of
from hubwire.runtime.nats_server import find_nats_server, hold_port
from hubwire.runtime.process import ProcessConfig

SECONDS = 60.0
SERVERS = 3

pytestmark = [needs_helm, pytest.mark.timeout(300)]


class ChartServers:
    """All servers of a release. Where pods have names and addresses, these have ports and folders."""

    def __init__(self, folder: Path, objects: list[dict[str, Any]], pair: Pair, ca: Path) -> None:
        self._folder = folder
        self._text = one(objects, "ConfigMap", "t-hubwire-nats")["data"]["nats.conf"]
        secret = one(objects, "Secret", "t-hubwire-nats")["data"]
        self.passwords = {role: base64.b64decode(secret[f"{role}-password"]).decode() for role in ROLES}
        self._environment = {**os.environ, "NATS_USER": "hubwire", "NATS_PASSWORD": "poperator"}
        self._environment |= {password_variable(role): self.passwords[role] for role in ROLES}
        self.tls = Pair(folder / "tls" / "tls.crt", folder / "tls" / "tls.key")
        (folder / "tls").mkdir()
        self.tls.replace_by(pair)
        (folder / "tls" / "ca.crt").write_bytes(ca.read_bytes())
        self._held = [[hold_port() for _ in range(3)] for _ in range(SERVERS)]
        self.processes: list[subprocess.Popen[bytes]] = []

    def port(self, number: int, which: int = 0) -> int:
        """Of a server: 0 for clients, 1 for servers, 2 for monitoring."""
        return self._held[number][which][1]

    def pid_file(self, number: int) -> Path:
        return self._folder / f"run{number}" / "nats.pid"

    def start(self) -> None:
        for number in range(SERVERS):
            self.processes.append(self._start(number))
        for number in range(SERVERS):
            self._wait_until_healthy(number)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        changed = {
            f"0.0.0.0:{p}": f"127.0.0.1:{self.port(number, i)}" for i, p in enumerate((4222, 6222, 8222))
        }
        changed |= {
            "/etc/nats-tls": str(self._folder / "tls"),
            "/run/nats": str(self.pid_file(number).parent),
        }
        changed |= {'"/data"': f'"{self._folder / f"data{number}"}"', "$POD_NAME": f"nats-{number}"}
        for n in range(SERVERS):
            name = f"t-hubwire-nats-{n}.t-hubwire-nats-peers.ns.svc.cluster.local:6222"
            changed[name] = f"localhost:{self.port(n, 1)}"
        text = self._text
        for old, new in changed.items():
            assert old in text, old
            text = text.replace(old, new)
        self.pid_file(number).parent.mkdir()
        config = self._folder / f"{number}.conf"
        config.write_text(text)
        log = (self._folder / f"{number}.log").open("wb")
        command = [find_nats_server(), "--config", str(config)]
        return subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)

    def _wait_until_healthy(self, number: int) -> None:
        """As the startup probe: JetStream has its leader, so the servers have found each other."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port(number, 2)}/healthz", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                if time.monotonic() > deadline or self.processes[number].poll() is not None:
                    pytest.fail((self._folder / f"{number}.log").read_text()[-3000:])
                time.sleep(0.1)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for held in self._held:
            for holder, _ in held:
                holder.close()


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path / "authority")


@pytest.fixture
def servers(tmp_path: Path, authority: CertificateAuthority) -> Iterator[ChartServers]:
    objects = rendered(VALUES["TLS on NATS"])
    found = ChartServers(tmp_path, objects, authority.issue("localhost"), authority.file)
    try:
        found.start()
        yield found
    finally:
        found.close()


def shown(port: int, trusted: ssl.SSLContext) -> int:
    """The serial number of the certificate that a client is shown. NATS greets first, in clear."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as plain:
        greeting = b""
        while not greeting.endswith(b"\r\n"):
            greeting += plain.recv(1)
        assert json.loads(greeting.removeprefix(b"INFO "))["tls_required"] is True
        with trusted.wrap_socket(plain, server_hostname="localhost") as encrypted:
            der = encrypted.getpeercert(binary_form=True)
            assert der is not None
            return x509.load_der_x509_certificate(der).serial_number


def serial(pair: Pair) -> int:
    return x509.load_pem_x509_certificate(pair.cert.read_bytes()).serial_number


async def test_roles_sign_in_over_tls_and_a_new_certificate_is_used_without_a_restart(
    servers: ChartServers, authority: CertificateAuthority, tmp_path: Path
) -> None:
    urls = tuple(f"tls://localhost:{servers.port(n)}" for n in range(SERVERS))
    connections = []
    for role in ROLES:
        config = ProcessConfig(role=role, nats_servers=urls, nats_tls_ca=str(authority.file))
        config = config.replace(nats_user=user_of(role), nats_password=servers.passwords[role])
        connections.append(await BusClient.connect(nats_options(config, name=role)))
    with pytest.raises(ssl.SSLCertVerificationError):
        shown(servers.port(0), CertificateAuthority(tmp_path / "other").trusted)
    command = [sys.executable, "-u", str(CHART / "files" / "reload.py"), str(servers.tls.cert.parent)]
    command += [str(servers.pid_file(0)), "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reloader:
        try:
            assert reloader.stdout is not None
            assert "read its certificate" in reloader.stdout.readline()
            before = shown(servers.port(0), authority.trusted)
            renewed = authority.issue("localhost")
            assert before == serial(servers.tls) != serial(renewed)
            servers.tls.replace_by(renewed)
            assert "read its certificate" in reloader.stdout.readline()
            deadline = time.monotonic() + SECONDS
            while shown(servers.port(0), authority.trusted) != serial(renewed):
                assert time.monotonic() < deadline, "the server shows its old certificate"
                time.sleep(0.05)
        finally:
            reloader.terminate()
    assert reloader.returncode == 0
    for bus in connections:  # they were not disturbed
        await bus.synchronize()
        assert bus.refusals.count == 0
        await bus.close()
    assert all(process.poll() is None for process in servers.processes)


def test_the_certificate_is_for_the_names_by_which_servers_are_called() -> None:
    objects = rendered(VALUES["TLS on NATS by cert-manager"] | {"gateway": {"replicas": 2}})
    certificate = one(objects, "Certificate", "t-hubwire-nats")["spec"]
    env = {v["name"]: v.get("value") for v in pods_of(objects)["gateway"]["spec"]["containers"][0]["env"]}
    called = [
        url.removeprefix("tls://").removesuffix(":4222") for url in env["HUBWIRE_NATS_SERVERS"].split(",")
    ]
    assert certificate["dnsNames"] == called
    assert certificate["issuerRef"] == {"name": "ca", "kind": "ClusterIssuer"}
    assert {"server auth", "client auth"} <= set(certificate["usages"])
    (volume,) = (v for v in pods_of(objects)["nats"]["spec"]["volumes"] if v["name"] == "tls")
    assert volume["secret"]["secretName"] == certificate["secretName"]


def test_only_the_servers_have_their_key() -> None:
    for component, pod in pods_of(rendered(VALUES["TLS on NATS"])).items():
        secrets = [v["secret"] for v in pod["spec"]["volumes"] if "secret" in v]
        mounted = [s for s in secrets if s["secretName"] == "nats-certificate"]
        if component == "nats":
            assert mounted == [{"secretName": "nats-certificate"}]
            assert pod["spec"]["shareProcessNamespace"] is True
        else:
            assert [s["items"] for s in mounted] == [[{"key": "ca.crt", "path": "ca.crt"}]], component
            (env,) = [c["env"] for c in pod["spec"]["containers"]]
            assert {"name": "HUBWIRE_NATS_TLS_CA", "value": "/etc/hubwire/nats-tls/ca.crt"} in env
