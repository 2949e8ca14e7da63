"""A page in a real headless Chromium: the browser's own WebSocket, and the vendor's client in the page."""

from __future__ import annotations

import json

import pytest
from support.chromium import Chromium, PageServer, find_chromium
from support.inventory import CHROMIUM, JS_CLIENT, JS_FOLDER

pytestmark = pytest.mark.timeout(600)  # the first may have to install the browser

# In the page: a socket whose messages can be taken one by one.
SOCKET = """
window.open_socket = (url, protocols) => new Promise((resolve, reject) => {
  const socket = new WebSocket(url, protocols);
  socket.binaryType = "arraybuffer";
  const waiting = [], frames = [];
  const closed = new Promise((done) => { socket.onclose = (e) => done([e.code, e.reason]); });
  socket.onmessage = ({ data }) => (waiting.length ? waiting.shift()(data) : frames.push(data));
  socket.onerror = () => reject(new Error("the handshake failed"));
  const arrival = () => new Promise((done) => waiting.push(done));
  const take = async () => (frames.length ? frames.shift() : arrival());
  const json = async () => JSON.parse(await take());
  const send = (message) => socket.send(JSON.stringify(message));
  socket.onopen = () => resolve({ socket, take, json, send, closed });
});
0
"""


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    command = find_chromium()
    if command is None:
        pytest.skip("no Chromium is installed, and none could be (Debian's package chromium, as root)")
    with Chromium(command, tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(scope="session")
def pages(javascript_packages):
    with PageServer() as server:
        yield server


@pytest.fixture
async def page(browser, pages):
    async with browser.page(pages.url) as one:
        await one.run(SOCKET)
        yield one


def literal(value):
    return json.dumps(value)


@pytest.mark.compat(CHROMIUM, "WebSocket of the page")
async def test_a_page_connects_joins_sends_and_receives(world, page):
    urls = [world.client_url(user_id=user) for user in ("alice", "bob")]
    told = await page.run(
        f"""(async () => {{
          const [alice, bob] = await Promise.all({literal(urls)}.map((url) =>
            open_socket(url, ["json.webpubsub.azure.v1"])));
          window.alice = alice;
          const seen = [alice.socket.protocol, (await alice.json()).userId, (await bob.json()).userId];
          alice.send({{ type: "joinGroup", group: "room", ackId: 1 }});
          seen.push(await alice.json());
          bob.send({{ type: "sendToGroup", group: "room", dataType: "text", data: "hi é", ackId: 1 }});
          seen.push(await bob.json(), await alice.json());
          return seen;
        }})()"""
    )
    assert told == [
        "json.webpubsub.azure.v1",
        "alice",
        "bob",
        {"type": "ack", "ackId": 1, "success": True},
        {"type": "ack", "ackId": 1, "success": True},
        {
            "type": "message",
            "from": "group",
            "fromUserId": "bob",
            "group": "room",
            "dataType": "text",
            "data": "hi é",
        },
    ]
    # And from elsewhere: a client outside of the browser, REST, and a close.
    await (await world.json("carol")).publish("room", {"n": 1})
    assert (await page.run("alice.json()"))["data"] == {"n": 1}
    await world.rest("POST", "/users/alice/:closeConnections", [("reason", "bye")])
    assert await page.run("alice.json()") == {
        "type": "system",
        "event": "disconnected",
        "message": "Application server closed the connection. Reason: bye",
    }
    assert await page.run("alice.closed") == [1000, ""]


@pytest.mark.compat(CHROMIUM, "WebSocket of the page")
async def test_a_page_speaks_protobuf_and_bare_frames(world, page):
    protobuf, simple = (world.client_url(groups=["room-1"]) for _ in range(2))
    told = await page.run(
        f"""(async () => {{
          const digits = (byte) => byte.toString(16).padStart(2, "0");
          const hex = (data) => [...new Uint8Array(data)].map(digits).join("");
          const from = (text) => new Uint8Array(text.match(/../g).map((pair) => parseInt(pair, 16)));
          const protobuf = await open_socket({literal(protobuf)}, ["protobuf.webpubsub.azure.v1"]);
          await protobuf.take();
          const simple = await open_socket({literal(simple)});
          protobuf.socket.send(from("0a0e0a06726f6f6d2d311a040a026869"));
          const seen = [hex(await protobuf.take()), await simple.take(), simple.socket.protocol];
          protobuf.socket.send(from("0a0e0a06726f6f6d2d311a0412020102"));
          return [...seen, hex(await protobuf.take()), hex(await simple.take())];
        }})()"""
    )
    assert told == [
        "12150a0567726f75701206726f6f6d2d311a040a026869",
        "hi",
        "",
        "12150a0567726f75701206726f6f6d2d311a0412020102",
        "0102",
    ]


@pytest.mark.compat(CHROMIUM, "WebSocket of the page")
async def test_a_page_sends_and_gets_a_message_of_almost_a_mebibyte(world, page):
    size = 1_000_000
    url = world.client_url(groups=["room"])
    length = await page.run(
        f"""(async () => {{
          const one = await open_socket({literal(url)}, ["json.webpubsub.azure.v1"]);
          await one.take();
          one.send({{ type: "sendToGroup", group: "room", dataType: "text", data: "x".repeat({size}) }});
          return (await one.json()).data.length;
        }})()"""
    )
    assert length == size


@pytest.mark.compat(CHROMIUM, "WebSocket of the page")
async def test_a_page_whose_token_is_bad_gets_no_socket(world, page):
    bad = world.client_url(key="k" * 44)
    with pytest.raises(AssertionError, match="the handshake failed"):
        await page.run(f"open_socket({literal(bad)}, ['json.webpubsub.azure.v1'])")


@pytest.mark.compat(CHROMIUM, f"{JS_CLIENT} in the page")
async def test_the_vendors_client_works_in_a_page(world, page):
    urls = [world.client_url(user_id=user) for user in ("alice", "bob")]
    told = await page.run(
        f"""(async () => {{
          const {{ WebPubSubClient, WebPubSubJsonProtocol }} = await import("@azure/web-pubsub-client");
          const [alice, bob] = {literal(urls)}.map((url) =>
            new WebPubSubClient(url, {{ protocol: WebPubSubJsonProtocol() }}));
          const messages = [];
          const both = new Promise((done) => alice.on("group-message", (e) => {{
            messages.push([e.message.fromUserId, e.message.dataType, e.message.data]);
            if (messages.length === 2) done();
          }}));
          await Promise.all([alice.start(), bob.start()]);
          await alice.joinGroup("room");
          await bob.sendToGroup("room", {{ n: 1 }}, "json");
          await bob.sendToGroup("room", "hi", "text");
          await both;
          alice.stop();
          bob.stop();
          return messages;
        }})()"""
    )
    assert told == [["bob", "json", {"n": 1}], ["bob", "text", "hi"]]


def test_the_vendors_packages_are_installed(javascript_packages):
    assert (JS_FOLDER / "node_modules" / JS_CLIENT).is_dir()
