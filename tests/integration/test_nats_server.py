"""The nats-server we start: it serves, keeps its port and its store, and says why it ended."""

from __future__ import annotations

import asyncio
import stat
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import nats
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from nats.errors import Error as NatsError
from nats.js.api import StreamConfig
from support.nats import NatsCluster, NatsServer

from hubwire.runtime.nats_options import nats_options
from hubwire.runtime.process import ProcessConfig


async def test_messages_stored_before_a_kill_are_there_after_a_restart_on_the_same_port(
    tmp_path: Path,
) -> None:
    with NatsServer(tmp_path) as server:
        port = server.port
        back = asyncio.Event()

        async def reconnected() -> None:
            back.set()

        options = nats_options(ProcessConfig(nats_servers=(server.url,)))
        client = await nats.connect(**options, reconnected_cb=reconnected)
        js = client.jetstream()
        await js.add_stream(StreamConfig(name="kept", subjects=["kept"]))
        await js.publish("kept", b"one")
        server.kill()
        server.start()
        assert server.port == port
        async with asyncio.timeout(20):
            await back.wait()
            message = await js.get_msg("kept", 1)
        assert message.data == b"one"
        await client.close()


async def test_a_client_without_the_password_is_turned_away(tmp_path: Path) -> None:
    with NatsServer(tmp_path, user="hubwire", password="right-one") as server:
        good = ProcessConfig(
            nats_servers=(f"nats://127.0.0.1:{server.port}",), nats_user="hubwire", nats_password="right-one"
        )
        client = await nats.connect(**nats_options(good))
        assert client.max_payload == 4 * 1024 * 1024
        await client.close()
        bad = nats_options(good.replace(nats_password="wrong")) | {"allow_reconnect": False}
        with pytest.raises(NatsError, match="Authorization Violation"):
            await nats.connect(**bad)


def test_the_file_with_the_password_is_the_owners_alone(tmp_path: Path) -> None:
    with NatsServer(tmp_path, user="hubwire", password="secret") as server:
        config = server.folder / "nats.conf"
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert not any("secret" in line.text for line in server.lines)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "nats-store").write_text("a file where the store's folder should be")
    server = NatsServer(tmp_path)
    with pytest.raises(RuntimeError, match=r"(?i)storage|directory|jetstream"):
        server.start()
    assert not server.running
    server.close()


async def test_a_replicated_stream_outlives_the_loss_of_one_node_of_three(tmp_path: Path) -> None:
    with NatsCluster(tmp_path) as cluster:
        client = await nats.connect(**nats_options(ProcessConfig(nats_servers=tuple(cluster.urls))))
        js = client.jetstream()
        async with asyncio.timeout(40):
            while True:
                try:
                    await js.add_stream(StreamConfig(name="safe", subjects=["safe"], num_replicas=3))
                    break
                except NatsError:
                    await asyncio.sleep(0.1)
            await js.publish("safe", b"one")
            cluster.nodes[0].kill()
            while True:
                try:
                    await js.publish("safe", b"two")
                    break
                except (NatsError, OSError):
                    await asyncio.sleep(0.1)
            cluster.nodes[0].start()
        await client.close()


async def test_nats_is_reached_by_tls_with_a_client_certificate_and_not_without(tmp_path: Path) -> None:
    certificates(tmp_path)
    files = {name: str(tmp_path / name) for name in ("ca.pem", "server.pem", "server.key", "client.pem")}
    more = f"""tls {{
        cert_file: "{files["server.pem"]}"
        key_file: "{files["server.key"]}"
        ca_file: "{files["ca.pem"]}"
        verify: true
    }}"""
    with NatsServer(tmp_path, user="u", password="p", more=more) as server:
        good = ProcessConfig(
            nats_servers=(f"tls://127.0.0.1:{server.port}",),
            nats_user="u",
            nats_password="p",
            nats_tls_ca=files["ca.pem"],
            nats_tls_cert=files["client.pem"],
            nats_tls_key=str(tmp_path / "client.key"),
        )
        client = await nats.connect(**nats_options(good))
        assert await client.rtt() < 5
        await client.close()
        for bad in (
            good.replace(nats_tls_cert="", nats_tls_key=""),
            good.replace(nats_tls_ca=files["client.pem"]),
            good.replace(nats_tls_hostname="somebody.else"),
        ):
            with pytest.raises((OSError, NatsError)):
                await nats.connect(**nats_options(bad) | {"allow_reconnect": False})


async def test_renewed_certificates_are_taken_when_nats_is_reached_again(tmp_path: Path) -> None:
    """Also those of another authority, by both sides."""
    certificates(tmp_path)
    more = f"""tls {{
        cert_file: "{tmp_path}/server.pem"
        key_file: "{tmp_path}/server.key"
        ca_file: "{tmp_path}/ca.pem"
        verify: true
    }}"""
    with NatsServer(tmp_path, user="u", password="p", more=more) as server:
        config = ProcessConfig(
            nats_servers=(f"tls://127.0.0.1:{server.port}",),
            nats_user="u",
            nats_password="p",
            nats_tls_ca=str(tmp_path / "ca.pem"),
            nats_tls_cert=str(tmp_path / "client.pem"),
            nats_tls_key=str(tmp_path / "client.key"),
        )
        again = asyncio.Event()

        async def reconnected() -> None:
            again.set()

        client = await nats.connect(**nats_options(config), reconnected_cb=reconnected)
        try:
            server.stop()
            certificates(tmp_path)
            server.start()
            async with asyncio.timeout(30):
                await again.wait()
            assert await client.rtt() < 5
        finally:
            await client.close()


def certificates(folder: Path) -> None:
    """ca.pem, and server and client certificates that it signed, with their keys."""
    now = datetime.now(UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    for name in ("ca", "server", "client"):
        key = ca_key if name == "ca" else ec.generate_private_key(ec.SECP256R1())
        address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(address, critical=False)
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .sign(ca_key, hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
