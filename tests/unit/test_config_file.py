"""The cluster's configuration file: what it can say, and how each mistake is told with its line."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from hubwire.model.cluster_settings import (
    ClusterSettings,
    ManagementSettings,
    RestLimits,
    hash_of_token,
)
from hubwire.model.settings import AccessKeys, EventHandler, HubLimits, HubSettings
from hubwire.runtime.config_file import (
    ClusterConfig,
    InvalidConfigFile,
    config_schema,
    config_schema_text,
    load_config,
    parse_config,
)

KEY = "k" * 40
FULL = f"""\
accessKeys:
  primary: {KEY}1
  secondary: {KEY}2
publicEndpoints:
  - https://pubsub.example.com/base
corsOrigins: ["https://page.example.com"]
limits:
  maxBodyBytes: 1000
  requestSeconds: 2
hubLimits:
  messagesPerSecond: 100
management:
  adminToken: {KEY}
  resourceName: mine
hubs:
  myHub:
    anonymousConnectPolicy: allow
    webSocketKeepAliveIntervalInSeconds: 60
    closeOnEventFailure: true
    limits: {{maxMessageBytes: 2000, messagesPerSecond: 5}}
    eventHandlers:
      - urlTemplate: https://app.example.com/{{event}}
        userEventPattern: "*"
        systemEvents: [connect, disconnected]
  bare:
"""


def faults_of(text: str) -> list[str]:
    with pytest.raises(InvalidConfigFile) as caught:
        parse_config(text, "hubwire.yaml")
    assert str(caught.value).splitlines() == [str(fault) for fault in caught.value.faults]
    return [str(fault) for fault in caught.value.faults]


def test_a_file_becomes_typed_settings(tmp_path: Path) -> None:
    path = tmp_path / "hubwire.yaml"
    path.write_text(FULL)
    config = load_config(path)
    assert config.seed_keys() == AccessKeys(KEY + "1", KEY + "2")
    assert config.public_endpoints == ("https://pubsub.example.com/base",)
    assert config.limits.max_body_bytes == 1000
    assert config.limits.request_seconds == 2.0
    assert config.management.resource_name == "mine"
    assert config.hubs == {
        "myHub": HubSettings(
            event_handlers=(
                EventHandler(
                    url_template="https://app.example.com/{event}",
                    user_event_pattern="*",
                    system_events=("connect", "disconnected"),
                ),
            ),
            anonymous_connect_policy="allow",
            web_socket_keep_alive_interval_in_seconds=60,
            limits=HubLimits(max_message_bytes=2000, messages_per_second=5),
            close_on_event_failure=True,
        ),
        "bare": HubSettings(),
    }


def test_what_it_says_for_all_processes_becomes_one_record_with_the_hash_of_the_token() -> None:
    assert parse_config(FULL).cluster_settings() == ClusterSettings(
        cors_origins=("https://page.example.com",),
        limits=RestLimits(max_body_bytes=1000, request_seconds=2.0),
        hub_limits=HubLimits(messages_per_second=100),
        management=ManagementSettings(admin_token_sha256=hash_of_token(KEY), resource_name="mine"),
    )
    assert parse_config("").cluster_settings() == ClusterSettings()


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "hubs:\n", "null"])
def test_an_empty_file_is_all_defaults(text: str) -> None:
    assert parse_config(text) == ClusterConfig()


def test_no_secret_is_shown() -> None:
    assert KEY not in repr(parse_config(FULL))
    for text in (f"accessKeys: {{primary: 'a {KEY}'}}", f"management: {{adminToken: [{KEY}]}}"):
        assert KEY not in "".join(faults_of(text))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("hubs:\n  chat: {}\nhub:\n  x: 1\n", 3, "hub is not a setting; did you mean 'hubs'?"),
        ("hubs:\n  chat:\n    colour: red\n", 3, "hubs.chat.colour is not a setting: known are"),
        (
            "hubs:\n  chat:\n\n    webSocketKeepAliveIntervalInSeconds: 0\n",
            4,
            "hubs.chat.webSocketKeepAliveIntervalInSeconds is 0: it must be a whole number from 1 to 120.",
        ),
        (
            "hubs:\n  chat:\n    anonymousConnectPolicy: yes\n",
            3,
            "hubs.chat.anonymousConnectPolicy is True: it must be one of allow, deny.",
        ),
        ("hubs:\n  chat:\n    eventHandlers:\n      urlTemplate: http://x\n", 3, "must be a list"),
        (
            "hubs:\n  chat:\n    eventHandlers:\n    - userEventPattern: '*'\n",
            4,
            "hubs.chat.eventHandlers[0].urlTemplate is missing: it must be text.",
        ),
        (
            "hubs:\n  chat:\n    eventHandlers:\n    - urlTemplate: ftp://x\n",
            4,
            "hubs.chat.eventHandlers[0].urlTemplate: The URL must begin with http:// or https://",
        ),
        (
            "hubs:\n  chat:\n    eventHandlers:\n    - urlTemplate: http://x\n      userEventPattern: 7\n",
            5,
            "it must be text. Put it in quotes.",
        ),
        (
            "hubs:\n  c:\n    eventHandlers:\n    - urlTemplate: http://a\n      systemEvents: [connect,x]\n",
            5,
            "systemEvents[1] is 'x': it must be one of connect, connected, disconnected.",
        ),
        (
            "hubs:\n  chat:\n    eventHandlers:\n    - urlTemplate: http://x\n      auth: {type: Basic}\n",
            5,
            "hubs.chat.eventHandlers[0].auth.type is 'Basic'",
        ),
        ("hubs:\n  9chat: {}\n", 2, "'9chat' is not legal"),
        ("hubs:\n  chat: {}\n  CHAT: {}\n", 3, "Hubs have no case, and 'chat' is above already"),
        ("hubs:\n  chat: {}\n  chat: {}\n", 3, "hubs.chat stands here for the second time"),
        ("hubs: [chat]\n", 1, "hubs must be a table"),
        ("hubs:\n  chat: 7\n", 2, "hubs.chat must be a table with some of: eventHandlers"),
        (
            "publicEndpoints:\n- https://a\n- pubsub.example.com\n",
            3,
            "publicEndpoints[1] is 'pubsub.example.com'",
        ),
        ("publicEndpoints: https://a\n", 1, "publicEndpoints must be a list"),
        ("accessKeys:\n  primary: short\n", 2, "accessKeys.primary must have at least 32 bytes"),
        ("accessKeys:\n  secondary: x\n", 1, "accessKeys.primary is missing"),
        ("limits:\n  maxBodyBytes: 0\n", 2, "limits.maxBodyBytes is 0: it must be a whole number from 1."),
        ("limits:\n  requestSeconds: 0\n", 2, "it must be a number above 0."),
        (
            "hubLimits:\n  messagesPerSecond: fast\n",
            2,
            "hubLimits.messagesPerSecond is 'fast': it must be a whole number from 1.",
        ),
        (
            "hubs:\n  chat:\n    limits:\n      maxMessageBytes: 2000000\n",
            4,
            "hubs.chat.limits.maxMessageBytes is 2000000: it must be a whole number from 1 to 1048576.",
        ),
        (
            "hubs:\n  chat:\n    limits:\n\n      maxMessages: 1\n",
            5,
            "hubs.chat.limits.maxMessages is not a setting",
        ),
        ("management:\n  adminToken: short\n", 2, "management.adminToken must be text of 16 characters"),
        ("a: [1\nb: 2\n", 2, "This is not valid YAML"),
        ("- x\n", 1, "The file must be a table"),
        ("just text", 1, "The file must be a table"),
        ("a: !!python/object:os.system x\n", 1, "a is not a setting"),
    ],
)
def test_each_mistake_is_told_with_its_line(text: str, line: int, said: str) -> None:
    faults = faults_of(text)
    assert any(fault.startswith(f"hubwire.yaml:{line}: ") and said in fault for fault in faults), faults


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = (
        "publicEndpoints: [x]\n"
        "limit: {}\n"
        "hubs:\n"
        "  a-b: {}\n"
        "  chat:\n"
        "    anonymousConnectPolicy: maybe\n"
        "    eventHandlers:\n"
        "    - urlTemplate: 'http://{hub}.x/'\n"
        "      urlTemplat: x\n"
    )
    assert [fault.split(":")[1] for fault in faults_of(text)] == ["1", "2", "4", "6", "8", "9"]


def test_anchors_and_merges_work() -> None:
    text = (
        "hubs:\n"
        "  a: &defaults\n"
        "    anonymousConnectPolicy: allow\n"
        "  b:\n"
        "    <<: *defaults\n"
        "    webSocketKeepAliveIntervalInSeconds: 5\n"
        "  c: *defaults\n"
    )
    hubs = parse_config(text).hubs
    assert hubs["b"] == HubSettings(
        anonymous_connect_policy="allow", web_socket_keep_alive_interval_in_seconds=5
    )
    assert hubs["c"] == hubs["a"]


def test_words_are_read_in_any_case() -> None:
    config = parse_config("hubs:\n  chat:\n    anonymousConnectPolicy: Allow\n")
    assert config.hubs["chat"].anonymous_connect_policy == "allow"


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigFile, match=r"none\.yaml: The file cannot be read"):
        load_config(tmp_path / "none.yaml")
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(InvalidConfigFile, match="UTF-8"):
        load_config(path)


def test_the_schema_in_the_docs_is_in_step() -> None:
    path = Path(__file__).parents[2] / "docs" / "config.schema.json"
    assert path.read_text(encoding="utf-8") == config_schema_text(), (
        "run: python -m hubwire.runtime.config_file"
    )


def test_the_schema_says_what_the_reader_says() -> None:
    schema = config_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    content = yaml.safe_load(FULL)
    content["hubs"]["bare"] = {}
    validator.validate(json.loads(json.dumps(content)))
    for wrong in ({"hub": {}}, {"hubs": {"a": {"colour": 1}}}, {"limits": {"maxBodyBytes": 0}}):
        assert list(validator.iter_errors(wrong))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("hubs:\n  chat: " + "[" * 5000, 2),
        ("hubs:\n  chat:\n    limits: " + "{a: " * 5000 + "}" * 5000, 3),
        ("- " * 5000 + "a", 1),
        ("hubs:\n  chat:\n    anonymousConnectPolicy: &a [*a]", 3),
        ("hubs:\n  chat:\n    <<: 5", 3),
        (
            "cors: "
            + "".join(f"\n- &a{n} [[[[[[[[[[*a{n - 1}]]]]]]]]]]" if n else "\n- &a0 x" for n in range(200))
            + "\nhubs: {chat: {anonymousConnectPolicy: *a199}}",
            201,
        ),
    ],
)
def test_a_file_that_is_nested_without_end_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(InvalidConfigFile) as fault:
        parse_config(text, "h.yaml")
    assert line in [one.line for one in fault.value.faults]


def test_what_anchors_in_anchors_stand_for_is_not_written_out() -> None:
    levels = "".join(f"- &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" if n else "- &a0 x\n" for n in range(12))
    with pytest.raises(InvalidConfigFile) as fault:
        parse_config(f"x:\n{levels}hubs: {{chat: {{anonymousConnectPolicy: *a11}}}}\n", "h.yaml")
    assert len(str(fault.value)) < 2000
