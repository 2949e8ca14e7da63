"""The command line without a service: help, targets, tokens, output."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hubwire.cli.client import Client
from hubwire.cli.commands import COMMANDS
from hubwire.cli.hubs import parse_handler
from hubwire.cli.main import main
from hubwire.cli.output import Output, table, wants_colour
from hubwire.cli.target import ServiceTarget, find_target, parse_connection_string
from hubwire.cli.token import minutes_of, roles_of
from hubwire.model.errors import InvalidRequest, NotFound, PermissionDenied
from hubwire.model.tokens import AudiencePolicy, verify_client_token

KEY = "a-key-which-is-long-enough-for-this-123456"
STRING = f"Endpoint=http://127.0.0.1:8080;AccessKey={KEY};Version=1.0;"


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CONNECTION_STRING", "ENDPOINT", "ACCESS_KEY", "DATA", "CONFIG"):
        monkeypatch.delenv(f"HUBWIRE_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: hubwire {command}" in capsys.readouterr().out


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    printed = " ".join(capsys.readouterr().out.split())
    assert all(f"{command.name} {command.help}" in printed for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        (["publish", "chat", "x", "--nope"], "usage: hubwire publish "),
        (["hubs", "list", "--nope"], "usage: hubwire hubs list "),
    ],
)
def test_an_unknown_option_is_told_with_the_usage_of_its_command(
    arguments: list[str], usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(usage)
    assert told.endswith("error: unrecognized arguments: --nope\n")


@pytest.mark.parametrize(
    "module", ["hubwire.cli.commands", "hubwire.cli.output", "argparse", "hubwire.cli.up", "asyncio"]
)
def test_an_interruption_while_modules_are_imported_is_quiet(module: str) -> None:
    code = f"""
import os, signal, sys
from hubwire.cli.main import main

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.modules.pop({module!r}, None)
sys.meta_path.insert(0, Interrupt())
sys.exit(main(["up", "--help"]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "")


def test_an_interruption_that_is_ignored_stays_so() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert main(["token", "chat", "--connection-string", "bad"]) == 2
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_token_is_made_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from hubwire.cli.main import main; "
        f"main(['token', 'chat', '--connection-string', {STRING!r}]); "
        "print([m for m in ('aiohttp', 'nats', 'asyncio', 'structlog') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_the_token_says_what_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--user", "bob", "--role", "sendToGroup.a", "--group", "g", "--expires", "2h", "--json"]
    assert main(["token", "Chat", "--connection-string", STRING, *options]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["url"] == f"ws://127.0.0.1:8080/client/hubs/Chat?access_token={facts['token']}"
    assert facts["expiresInSeconds"] == 7200
    claims = verify_client_token(
        facts["token"],
        keys=[KEY],
        hub="chat",
        audiences=AudiencePolicy.of(["http://127.0.0.1:8080"]),
        now=time.time(),
    )
    assert claims.user_id == "bob"
    assert claims.roles == ("webpubsub.sendToGroup.a",)
    assert claims.groups == ("g",)


@pytest.mark.parametrize(
    "arguments",
    [
        ["1chat"],
        ["chat", "--role", "king"],
        ["chat", "--role", "joinLeaveGroups"],
        ["chat", "--expires", "soon"],
        ["chat", "--expires", "0"],
        ["chat", "--group", " "],
    ],
)
def test_a_token_that_cannot_work_is_refused_in_one_sentence(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["token", *arguments, "--connection-string", STRING]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("hubwire: ")
    assert printed.err.count("\n") == 1


def test_faults_are_json_when_json_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "1chat", "--json"]) == 2
    assert len(json.loads(capsys.readouterr().err)["error"]) == 1


def test_times_and_roles_are_read_as_people_write_them() -> None:
    assert [minutes_of(text) for text in ("90s", "60m", "12h", "7d", "5")] == [1.5, 60, 720, 10080, 5]
    assert roles_of(["all", "webpubsub.sendToGroup", "sendToGroups.a.**"]) == [
        "webpubsub.joinLeaveGroup",
        "webpubsub.sendToGroup",
        "webpubsub.sendToGroups.a.**",
    ]


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("Endpoint=http://h:1/;AccessKey=k=;Version=1.0;", "http://h:1"),
        ("accesskey=k=;ENDPOINT=https://h", "https://h"),
        ("Endpoint=h;AccessKey=k=", "https://h"),
        ("Endpoint=http://h;AccessKey=k=;Port=81", "http://h:81"),
        ("Endpoint=https://h/base;AccessKey=k=", "https://h/base"),
    ],
)
def test_connection_strings_are_read_as_the_sdks_do(text: str, endpoint: str) -> None:
    target = parse_connection_string(text, "it")
    assert (target.endpoint, target.access_key) == (endpoint, "k=")


@pytest.mark.parametrize(
    "text", ["", "Endpoint=http://h", "AccessKey=k", "nonsense", "Endpoint=http://h;AccessKey=k;Port=x"]
)
def test_a_connection_string_that_cannot_be_used_is_refused_without_showing_the_key(text: str) -> None:
    with pytest.raises(InvalidRequest, match="it"):
        parse_connection_string(text, "it")


def arguments(**given: Any) -> Namespace:
    return Namespace(
        **{"connection_string": None, "endpoint": None, "access_key": None, "data": None, **given}
    )


def running(folder: Path, pid: int) -> None:
    folder.mkdir()
    (folder / "endpoint.json").write_text(json.dumps({"pid": pid, "connectionString": STRING}))


def test_a_service_that_runs_in_this_folder_is_found(tmp_path: Path) -> None:
    import os

    running(tmp_path / ".hubwire", os.getpid())
    target = find_target(arguments())
    assert target.endpoint == "http://127.0.0.1:8080"
    assert target.access_key == KEY
    assert target.client_endpoint == "ws://127.0.0.1:8080"


def test_one_that_was_killed_is_not(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    running(tmp_path / ".hubwire", gone.pid)
    with pytest.raises(NotFound, match="start `hubwire up`"):
        find_target(arguments())


def test_what_is_given_wins_over_what_is_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = (f"key-{number}-{'0' * 32}" for number in (1, 2, 3))
    running(tmp_path / ".hubwire", os.getpid())
    monkeypatch.setenv("HUBWIRE_CONNECTION_STRING", f"Endpoint=http://env;AccessKey={one}")
    assert find_target(arguments()).endpoint == "http://env"
    given = arguments(connection_string=f"Endpoint=http://flag;AccessKey={two}")
    assert find_target(given).endpoint == "http://flag"
    assert find_target(arguments(endpoint="http://e", access_key=three)).access_key == three
    assert find_target(arguments(data=str(tmp_path / ".hubwire"))).access_key == KEY
    assert find_target(arguments(endpoint="http://other")) == ServiceTarget(
        "http://other", one, "HUBWIRE_CONNECTION_STRING"
    )


def test_event_handlers_are_read_in_our_words_and_in_those_of_az() -> None:
    assert parse_handler(["url=http://a/{event}", "events=*", "system=connect,connected"]) == {
        "urlTemplate": "http://a/{event}",
        "userEventPattern": "*",
        "systemEvents": ["connect", "connected"],
    }
    az = [
        "url-template=https://a",
        "user-event-pattern=x",
        "system-event=connect",
        "system-event=disconnected",
    ]
    assert parse_handler([*az, "auth-type=ManagedIdentity", "auth-resource=r"]) == {
        "urlTemplate": "https://a",
        "userEventPattern": "x",
        "systemEvents": ["connect", "disconnected"],
        "auth": {"type": "ManagedIdentity", "managedIdentity": {"resource": "r"}},
    }


@pytest.mark.parametrize("words", [["events=*"], ["url=ftp://a"], ["url"], ["url=http://a", "system=born"]])
def test_an_event_handler_that_cannot_work_is_refused(words: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="--event-handler"):
        parse_handler(words)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour(Terminal())


def test_a_fault_of_our_own_is_one_red_sentence_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    Output().fail(["No."])
    assert terminal.getvalue() == "\x1b[31;1mhubwire:\x1b[0m No.\n"


def test_tables_are_aligned_without_blanks_at_the_end() -> None:
    assert table([("a", "b"), ("ccc", "")], ("X", "Y")) == "X    Y\na    b\nccc"


def test_an_unreachable_service_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # held and not listening: refused for certain
        endpoint = f"http://127.0.0.1:{held.getsockname()[1]}"
        assert main(["publish", "chat", "hi", "--endpoint", endpoint, "--access-key", KEY]) == 1
    assert "is the service running?" in capsys.readouterr().err


def test_a_message_that_is_not_the_json_it_should_be_is_refused_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["publish", "chat", "{", "--type", "json", "--connection-string", STRING]) == 2
    assert "not JSON" in capsys.readouterr().err


def test_a_message_has_one_kind_of_addressee() -> None:
    with pytest.raises(SystemExit) as end:
        main(["publish", "chat", "x", "--group", "a", "--user", "b"])
    assert end.value.code == 2


@pytest.mark.parametrize(
    "options", [["--exclude", "a", "--user", "b"], ["--filter", "userId eq 'b'", "--connection", "c"]]
)
def test_what_the_service_would_ignore_is_refused(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", "chat", "x", *options, "--connection-string", STRING]) == 2
    assert capsys.readouterr().err.startswith("hubwire: --")


@pytest.mark.parametrize("closed", ["0<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_reason_to_fail(closed: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m hubwire.cli.main token chat --connection-string '{STRING}' {closed}"
    run = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_with_standard_error_closed_a_fault_does_not_stand_among_the_results(tmp_path: Path) -> None:
    command = f"{sys.executable} -m hubwire.cli.main token chat --connection-string bad 2>&-"
    run = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (run.returncode, run.stdout) == (2, "")


@pytest.mark.parametrize("arguments", [["--help"], ["token", "--help"], ["token", "chat"]])
def test_a_reader_that_has_gone_is_no_traceback(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        [sys.executable, "-m", "hubwire.cli.main", *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HUBWIRE_CONNECTION_STRING": STRING},
        check=False,
    )
    os.close(writing)
    assert run.stderr == ""
    assert run.returncode in ((0, 1) if "--help" in arguments else (1,))  # argparse ends with 0 all the same


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["publish", "chat", "hi", "--group", ""], "--group"),
        (["publish", "chat", "hi", "--group", "  "], "--group"),
        (["publish", "chat", "hi", "--user", ""], "--user"),
        (["publish", "chat", "hi", "--connection", ""], "--connection"),
        (["publish", "chat", "hi", "--ttl", "-1"], "--ttl"),
        (["publish", "chat", "hi", "--ttl", "9999"], "from 0 to 300"),
        (["connect", "chat", "--join", ""], "--join"),
        (["connect", "chat", "--join", "room", "--protocol", "simple"], "--join"),
        (["connect", "chat", "--count", "0"], "--count"),
        (["connect", "chat", "--for", "-1"], "--for"),
        (["hubs", "set", "chat", "--keep-alive", "500"], "from 1 to 120"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_its_option(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--connection-string", STRING]) == 2
    assert named in capsys.readouterr().err


def test_a_folder_of_another_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "theirs"
    running(folder, os.getpid())
    (folder / "endpoint.json").chmod(0)
    if os.geteuid() == 0:  # whom no mode keeps out
        for part in (tmp_path, *tmp_path.parents):
            if part.stat().st_uid == 0 and str(part).startswith("/tmp/"):
                part.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionDenied, match="another user"):
            find_target(arguments(data=str(folder)))
    finally:
        if os.getuid() == 0:
            os.seteuid(0)


async def test_a_service_without_the_subprotocol_is_told_instead_of_misunderstood() -> None:
    async def without(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for _ in socket:
            pass
        return socket

    application = web.Application()
    application.router.add_get("/client/hubs/chat", without)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        client = Client(f"ws://{host}:{port}/client/hubs/chat", "reliable", lambda _: None)
        with pytest.raises(InvalidRequest, match=r"json\.reliable\.webpubsub\.azure\.v1.*--protocol"):
            await client.open()
    finally:
        await runner.cleanup()


def test_a_key_that_was_copied_in_part_is_told_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "chat", "--endpoint", "http://127.0.0.1:9", "--access-key", KEY[:20]]) == 2
    told = capsys.readouterr().err
    assert told.startswith("hubwire: The access key from --endpoint is too short")
    assert KEY[:20] not in told


def test_a_refused_key_is_said_to_be_from_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(tmp_path / ".hubwire", os.getpid())
    assert "hubwire up" in find_target(arguments()).source
    assert find_target(arguments(access_key=KEY)).source == "--access-key"
    monkeypatch.setenv("HUBWIRE_ACCESS_KEY", KEY)
    assert find_target(arguments()).source == "HUBWIRE_ACCESS_KEY"
