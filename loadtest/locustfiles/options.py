"""Options of the load tests, beside locust's own; the web UI shows them too."""

from __future__ import annotations

import os
from typing import Any

from locust import events
from locust.argument_parser import LocustArgumentParser

from loadtest.locustfiles.scenarios import AZURE_BYTES, PROTOCOLS, Scenario


@events.init_command_line_parser.add_listener
def add(parser: LocustArgumentParser) -> None:
    parser.add_argument(
        "--connection-string",
        default=os.environ.get("HUBWIRE_CONNECTION_STRING", ""),
        is_secret=True,
        help="endpoint and access key; default: HUBWIRE_CONNECTION_STRING",
    )
    parser.add_argument("--hub", default="load", help="hub of the clients")
    parser.add_argument("--protocol", default="json", choices=list(PROTOCOLS), help="what clients speak")
    parser.add_argument("--connections", type=int, default=0, help="clients; default: as Azure's one unit")
    parser.add_argument("--rate", type=float, default=0.0, help="messages a second sent, all together")
    parser.add_argument("--bytes", type=int, default=AZURE_BYTES, help="size of a message")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long is sent")
    parser.add_argument("--publishers", type=int, default=4, help="REST publishers")
    parser.add_argument("--connect-rate", type=float, default=100.0, help="new clients a second")
    parser.add_argument(
        "--connect-deadline", type=float, default=180.0, help="seconds until all are connected"
    )
    parser.add_argument(
        "--drain", type=float, default=15.0, help="seconds to wait for what is missing at the end"
    )
    parser.add_argument("--out", default="", help="folder for the report, as JSON and HTML")


def ready(options: Any, scenario: Scenario) -> None:
    """Puts the scenario's figures where none were given, and takes the connection string apart. A distributed
    worker needs neither: it gets the options of the process that leads.
    """
    if options.worker:
        return
    parts = dict(part.split("=", 1) for part in options.connection_string.split(";") if "=" in part)
    options.endpoint, options.access_key = parts.get("Endpoint", "").rstrip("/"), parts.get("AccessKey", "")
    if not options.endpoint.startswith("http") or not options.access_key:
        raise SystemExit(
            "No connection string: --connection-string 'Endpoint=http://...;AccessKey=...;Version=1.0;', "
            "or HUBWIRE_CONNECTION_STRING"
        )
    options.connections = options.connections or scenario.connections
    options.rate = options.rate or scenario.rate
