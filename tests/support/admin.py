"""Asks the admin listeners of real processes, and reads what they export.

status, text = ask(url, "/readyz")
page = scrape(url)
page.value("webpubsub_server_active_connections", hub="chat")
"""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from support.processes import Service, eventually

SECONDS = 30.0
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def ask(url: str, path: str, *, method: str = "GET", accept: str = "") -> tuple[int, str]:
    """Status and text. Raises OSError when nobody listens."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=SECONDS)
    try:
        connection.request(method, path, headers={"Accept": accept} if accept else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def admin_url(service: Service) -> str:
    """Where a process of a `Fleet` listens, as soon as it says so."""

    def told() -> list[str]:
        return [line for line in service.lines() if '"admin_listening"' in line]

    eventually(told, SECONDS, f"{service.role} tells its admin port")
    return f"http://127.0.0.1:{json.loads(told()[-1])['port']}"


class Page:
    """One scrape, parsed as OpenMetrics, which is strict about names and types."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}

    @property
    def samples(self) -> list[Sample]:
        return [sample for family in self.families.values() for sample in family.samples]

    @property
    def names(self) -> set[str]:
        return {sample.name for sample in self.samples}

    def found(self, name: str, **labels: str) -> list[Sample]:
        return [
            one
            for one in self.samples
            if one.name == name and all(one.labels.get(key) == value for key, value in labels.items())
        ]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the series that have these labels; 0 without any."""
        return sum(one.value for one in self.found(name, **labels))


def scrape(url: str) -> Page:
    status, text = ask(url, "/metrics", accept=OPENMETRICS)
    assert status == 200, text
    return Page(text)
