// @azure/web-pubsub-client, unmodified: each public method of the client.

import assert from "node:assert/strict";
import { WebPubSubClient } from "@azure/web-pubsub-client";
import { Inbox, Peer, bytes, clientUrl, covers, handledHub, method, newClient, newHub, scenario, serviceOf } from "./support.mjs";

method("WebPubSubClient.start", async () => {
  const hub = newHub();
  const peer = await Peer.connect(hub, { userId: "alice" });
  assert.equal(peer.userId, "alice");
  assert.equal(await serviceOf(hub).connectionExists(peer.connectionId), true);
  await assert.rejects(peer.client.start(), /stopped/i);
});

method("WebPubSubClient.stop", async () => {
  const hub = newHub();
  const client = newClient(await clientUrl(hub, { groups: ["room"] }));
  const stopped = new Inbox();
  client.on("stopped", (e) => stopped.put(e));
  await client.start();
  client.stop();
  await stopped.take();
  while (await serviceOf(hub).groupExists("room")) await new Promise((resolve) => setTimeout(resolve, 20));
});

method("WebPubSubClient.on", async () => {
  const hub = newHub();
  const peer = await Peer.connect(hub, { userId: "alice" });
  await serviceOf(hub).sendToUser("alice", { n: 1 });
  const message = await peer.inbox.take();
  assert.deepEqual([message.kind, message.dataType, message.data], ["serverData", "json", { n: 1 }]);
  await serviceOf(hub).closeConnection(peer.connectionId);
  assert.equal(await peer.toldToGo(), "Application server closed the connection.");
});

method("WebPubSubClient.off", async () => {
  const hub = newHub();
  const peer = await Peer.connect(hub, { groups: ["room"] });
  const heard = [];
  const listener = (e) => heard.push(e.message.data);
  peer.client.on("group-message", listener);
  await serviceOf(hub).group("room").sendToAll("first");
  assert.equal(await peer.data(), "first");
  peer.client.off("group-message", listener);
  await serviceOf(hub).group("room").sendToAll("second");
  assert.equal(await peer.data(), "second");
  assert.deepEqual(heard, ["first"]);
});

method("WebPubSubClient.joinGroup", async () => {
  const hub = newHub();
  const [member, sender] = await Peer.several(2, hub, { userId: "alice" });
  const joined = await member.client.joinGroup("room", { ackId: 5 });
  assert.deepEqual([joined.ackId, joined.isDuplicated], [5, false]);
  assert.equal((await member.client.joinGroup("room", { ackId: 5 })).isDuplicated, true);
  await sender.client.sendToGroup("room", { n: 1 }, "json");
  const message = await member.inbox.take();
  assert.deepEqual([message.group, message.fromUserId, message.data], ["room", "alice", { n: 1 }]);
});

method("WebPubSubClient.leaveGroup", async () => {
  const hub = newHub();
  const peer = await Peer.connect(hub, { groups: ["a", "b"] });
  await peer.client.leaveGroup("a");
  for (const group of ["a", "b"]) await serviceOf(hub).group(group).sendToAll(group);
  assert.equal(await peer.data(), "b");
});

method("WebPubSubClient.sendToGroup", async () => {
  const hub = newHub();
  const [sender, member] = await Peer.several(2, hub, { groups: ["room"] });
  await sender.client.sendToGroup("room", "quiet", "text", { noEcho: true });
  await sender.client.sendToGroup("room", "text é", "text");
  await sender.client.sendToGroup("room", { a: [1] }, "json");
  await sender.client.sendToGroup("room", new Uint8Array([0, 1]).buffer, "binary");
  await sender.client.sendToGroup("room", new Uint8Array([10, 1, 97]).buffer, "protobuf");
  await sender.client.sendToGroup("room", "forgotten", "text", { fireAndForget: true });
  assert.equal(await member.data(), "quiet");
  for (const peer of [sender, member]) {
    assert.equal(await peer.data(), "text é");
    assert.deepEqual(await peer.data(), { a: [1] });
    assert.deepEqual(bytes(await peer.data()), [0, 1]);
    const any = await peer.inbox.take();
    assert.equal(any.dataType, "protobuf");
    assert.deepEqual(bytes(any.data), [10, 1, 97]);
    assert.equal(await peer.data(), "forgotten");
  }
});

method("WebPubSubClient.sendEvent", async () => {
  const peer = await Peer.connect(newHub());
  // Nobody handles it: the ack fails, and the connection stays.
  await assert.rejects(
    peer.client.sendEvent("order", { id: 7 }, "json"),
    (error) => error.errorDetail?.name === "InternalServerError",
  );
  await peer.client.sendEvent("order", "text", "text", { fireAndForget: true });
  await peer.client.joinGroup("still-here");
  // In this hub an application server answers with what it is sent, before the ack.
  const handled = await Peer.connect(handledHub);
  await handled.client.sendEvent("order", { id: 7 }, "json");
  await handled.client.sendEvent("order", "text é", "text");
  assert.deepEqual([await handled.data(), await handled.data()], [{ id: 7 }, "text é"]);
  await assert.rejects(
    handled.client.sendEvent("fail", 1, "json"),
    (error) => error.errorDetail?.name === "InternalServerError",
  );
});

scenario("a client that is closed by REST comes back into its groups", async () => {
  const hub = newHub();
  const client = newClient({ getClientAccessUrl: () => clientUrl(hub, { userId: "alice" }) });
  const [connected, disconnected, messages] = [new Inbox(), new Inbox(), new Inbox()];
  client.on("connected", (e) => connected.put(e));
  client.on("disconnected", (e) => disconnected.put(e));
  client.on("group-message", (e) => messages.put(e.message.data));
  await client.start();
  const first = await connected.take();
  await client.joinGroup("room");
  await serviceOf(hub).closeConnection(first.connectionId, { reason: "try again" });
  const told = await disconnected.take();
  assert.equal(told.message.message, "Application server closed the connection. Reason: try again");
  const second = await connected.take();
  assert.notEqual(second.connectionId, first.connectionId);
  assert.equal(await serviceOf(hub).groupExists("room"), true);
  await serviceOf(hub).group("room").sendToAll("back");
  assert.equal(await messages.take(), "back");
});

scenario("a burst of 5,000 messages arrives complete and in order at a client that sends acks for its own", async () => {
  const hub = newHub();
  const [sender, member] = await Peer.several(2, hub, { groups: ["room"] });
  const count = 5000;
  const acks = Promise.all(
    Array.from({ length: count }, (_, n) => sender.client.sendToGroup("room", { n }, "json", { noEcho: true })),
  );
  for (let n = 0; n < count; n++) assert.deepEqual(await member.data(), { n });
  const ids = (await acks).map((one) => one.ackId);
  assert.deepEqual(ids, Array.from({ length: count }, (_, n) => n + 1));
  await sender.client.sendToGroup("room", "end", "text");
  assert.equal(await member.data(), "end");
});

scenario("messages of almost one mebibyte arrive whole", async () => {
  const hub = newHub();
  const [sender, member] = await Peer.several(2, hub, { groups: ["room"] });
  const text = "x".repeat(1_048_000);
  await sender.client.sendToGroup("room", text, "text", { noEcho: true });
  assert.equal(await member.data(), text);
});

// Preview features that this version does not have (tests/support/inventory.py says the same).
covers("every public method of WebPubSubClient is exercised", WebPubSubClient, [
  "invokeEvent",
  "onGroupStream",
  "openGroupStream",
]);
