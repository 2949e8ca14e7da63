// @azure/web-pubsub, unmodified: each public method of a group.

import assert from "node:assert/strict";
import { Peer, covers, method, newHub, serviceOf } from "./support.mjs";

const Group = Object.getPrototypeOf(serviceOf("Chat").group("room")).constructor;

method("WebPubSubGroup.sendToAll", async () => {
  const hub = newHub();
  const group = serviceOf(hub).group("a b");
  const peers = await Promise.all(["u0", "u1", "u2"].map((userId) => Peer.connect(hub, { userId, groups: ["a b"] })));
  await group.sendToAll({ n: 1 });
  await group.sendToAll("text", { contentType: "text/plain", excludedConnections: [peers[0].connectionId] });
  await group.sendToAll("only u0", { filter: "userId eq 'u0'", messageTtlSeconds: 10 });
  await group.sendToAll(new Uint8Array([7]).buffer);
  for (const [index, peer] of peers.entries()) {
    const first = await peer.inbox.take();
    assert.deepEqual([first.kind, first.group, first.data], ["groupData", "a b", { n: 1 }]);
    assert.equal(await peer.data(), index === 0 ? "only u0" : "text");
    assert.deepEqual([...new Uint8Array(await peer.data())], [7]);
  }
});

method("WebPubSubGroup.addConnection", async () => {
  const hub = newHub();
  const peer = await Peer.connect(hub, { roles: [] });
  const group = serviceOf(hub).group("room");
  await group.addConnection(peer.connectionId);
  await group.sendToAll("hi");
  assert.equal(await peer.data(), "hi");
  await assert.rejects(
    group.addConnection("gone"),
    (error) => error.statusCode === 404 && error.code === "Error.Connection.NotExisted",
  );
});

method("WebPubSubGroup.removeConnection", async () => {
  const hub = newHub();
  const [first, second] = await Peer.several(2, hub, { groups: ["room"] });
  const group = serviceOf(hub).group("room");
  await group.removeConnection(first.connectionId);
  await group.sendToAll("hi");
  await serviceOf(hub).sendToAll("end");
  assert.equal(await second.data(), "hi");
  assert.equal(await first.data(), "end");
});

method("WebPubSubGroup.addUser", async () => {
  const hub = newHub();
  const alices = await Peer.several(3, hub, { userId: "alice" });
  const group = serviceOf(hub).group("room");
  await group.addUser("alice");
  await group.sendToAll("hi");
  for (const alice of alices) assert.equal(await alice.data(), "hi");
  await assert.rejects(
    group.addUser("nobody"),
    (error) => error.statusCode === 404 && error.code === "Warning.User.NotExisted",
  );
});

method("WebPubSubGroup.removeUser", async () => {
  const hub = newHub();
  const alices = await Peer.several(3, hub, { userId: "alice", groups: ["room"] });
  await serviceOf(hub).group("room").removeUser("alice");
  assert.equal(await serviceOf(hub).groupExists("room"), false);
  await serviceOf(hub).sendToAll("end");
  for (const alice of alices) assert.equal(await alice.data(), "end");
});

method("WebPubSubGroup.closeAllConnections", async () => {
  const hub = newHub();
  const members = await Peer.several(3, hub, { groups: ["room"] });
  const other = await Peer.connect(hub);
  await serviceOf(hub).group("room").closeAllConnections({ reason: "over" });
  for (const member of members) {
    assert.equal(await member.toldToGo(), "Application server closed the connection. Reason: over");
  }
  await serviceOf(hub).sendToAll("end");
  assert.equal(await other.data(), "end");
});

method("WebPubSubGroup.listConnections", async () => {
  const hub = newHub();
  const members = await Peer.several(7, hub, { userId: "alice", groups: ["room"] });
  const group = serviceOf(hub).group("room");
  const ids = members.map((member) => member.connectionId).sort();
  const found = [];
  for await (const one of await group.listConnections({ maxPageSize: 3 })) {
    assert.equal(one.userId, "alice");
    found.push(one.connectionId);
  }
  assert.deepEqual(found.sort(), ids);
  const sizes = [];
  for await (const page of (await group.listConnections({ maxPageSize: 2, top: 5 })).byPage()) sizes.push(page.length);
  assert.deepEqual(sizes, [2, 2, 1]);
  for await (const one of await serviceOf(hub).group("empty").listConnections()) assert.fail(one);
});

covers("every public method of WebPubSubGroup is exercised", Group);
