"""What settings of one process mean together: which contradict each other, and secrets put in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubwire.runtime.parsers import has_module, split_credentials

if TYPE_CHECKING:
    from hubwire.runtime.process import ProcessConfig


def contradictions(config: ProcessConfig) -> list[str]:
    """One sentence for each fault, none when the settings are good together."""
    faults = []
    if bool(config.nats_user) != bool(config.nats_password):
        faults.append("nats_user and nats_password belong together; give both or neither.")
    kinds = {
        "nats_user": config.nats_user,
        "nats_token": config.nats_token,
        "nats_creds_file": config.nats_creds_file,
        "nats_nkey_file": config.nats_nkey_file,
    }
    given = [name for name, value in kinds.items() if value]
    if len(given) > 1:
        faults.append(f"{' and '.join(given)} are different ways to sign in to NATS; give one of them.")
    if (config.nats_creds_file or config.nats_nkey_file) and not has_module("nkeys"):
        faults.append(
            "Credentials files and nkeys need the package nkeys; install it with: pip install nkeys."
        )
    if bool(config.nats_tls_cert) != bool(config.nats_tls_key):
        faults.append("nats_tls_cert and nats_tls_key belong together; give both or neither.")
    if bool(config.tls_cert) != bool(config.tls_key):
        faults.append("tls_cert and tls_key belong together; give both or neither.")
    if not config.oidc_issuers and (config.oidc_admins or config.oidc_ca_file):
        faults.append("oidc_admins and oidc_ca_file are nothing without oidc_issuers; give those too.")
    credentials = (config.upstream_token_url, config.upstream_client_id, config.upstream_client_secret)
    if any(credentials) and not all(credentials):
        faults.append(
            "upstream_token_url, upstream_client_id and upstream_client_secret belong together; give all or "
            "none of them."
        )
    if any(credentials) and config.upstream_token_file:
        faults.append(
            "upstream_token_url and upstream_token_file are different sources of tokens; give one of them."
        )
    if config.secondary_access_key and not config.access_key:
        faults.append("secondary_access_key is given without access_key; give the primary key too.")
    return faults


def credentials_out_of_urls(config: ProcessConfig) -> ProcessConfig:
    """nats://user:password@host is accepted; the secret moves to where it is never shown."""
    bare = []
    for url in config.nats_servers:
        plain, user, password = split_credentials(url)
        bare.append(plain)
        if user and password and not config.nats_user:
            config = config.replace(nats_user=user, nats_password=password)
        elif user and not password and not config.nats_token:
            config = config.replace(nats_token=user)
    return config.replace(nats_servers=tuple(bare))
