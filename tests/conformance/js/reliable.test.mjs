// @azure/web-pubsub-client, unmodified, in its default protocol, the reliable one: it recovers by itself.

import assert from "node:assert/strict";
import { WebPubSubClient } from "@azure/web-pubsub-client";
import { Detour, Inbox, clientUrl, keepForStop, newHub, scenario, serviceOf } from "./support.mjs";

/** A started client of a detour's, with what it is told. */
async function connect(hub, detour, token = {}) {
  const getClientAccessUrl = () => clientUrl(hub, { userId: "alice", ...token }, detour.endpoint);
  const client = keepForStop(new WebPubSubClient({ getClientAccessUrl }, { reconnectRetryOptions: { retryDelayInMs: 50 } }));
  const told = { client, messages: new Inbox(), events: new Inbox() };
  const message = (e) => told.messages.put([e.message.sequenceId, e.message.data]);
  client.on("group-message", message);
  client.on("server-message", message);
  for (const event of ["connected", "disconnected", "rejoin-group-failed"])
    client.on(event, (e) => told.events.put([event, e]));
  await client.start();
  told.connectionId = (await next(told, "connected")).connectionId;
  return told;
}

/** The next event that is no message, which must be this one. */
async function next(told, event) {
  const [found, e] = await told.events.take();
  assert.equal(found, event);
  return e;
}

async function got(told, first, last) {
  for (let n = first; n <= last; n++) assert.deepEqual(await told.messages.take(), [n, `m${n}`]);
}

scenario("a reliable client joins, sends and receives with numbers", async () => {
  const [hub, detour] = [newHub(), await Detour.open()];
  const told = await connect(hub, detour);
  await told.client.joinGroup("room");
  await told.client.sendToGroup("room", "m1", "text");
  await told.client.sendToGroup("room", "quiet", "text", { noEcho: true });
  await serviceOf(hub).sendToUser("alice", "m2", { contentType: "text/plain" });
  await got(told, 1, 2);
  assert.equal((await told.client.joinGroup("other", { ackId: 77 })).isDuplicated, false);
  assert.equal((await told.client.joinGroup("other", { ackId: 77 })).isDuplicated, true);
  await told.client.leaveGroup("room");
  assert.equal(await serviceOf(hub).groupExists("room"), false);
  told.client.stop();
  while (await serviceOf(hub).connectionExists(told.connectionId)) await new Promise((go) => setTimeout(go, 20));
});

scenario("a reliable client has every message once and in order after losses, and hears of nothing", async () => {
  const [hub, detour] = [newHub(), await Detour.open()];
  const told = await connect(hub, detour);
  await told.client.joinGroup("room");
  const room = serviceOf(hub).group("room");
  const send = (n) => room.sendToAll(`m${n}`, { contentType: "text/plain" });
  let sent = 0;
  for (let round = 0; round < 3; round++) {
    const before = detour.taken;
    detour.close();
    for (let n = 0; n < 10; n++) await send(++sent);
    detour.reopen();
    for (let n = 0; n < 10; n++) await send(++sent);
    await got(told, sent - 19, sent);
    assert.ok(detour.taken > before);
  }
  await told.client.sendToGroup("room", `m${sent + 1}`, "text");
  await got(told, sent + 1, sent + 1);
  assert.equal(told.events.size, 0, "neither connected nor disconnected again");
  assert.equal(await serviceOf(hub).userExists("alice"), true);
});

scenario("a reliable client whose session was ended while it was away begins anew", async () => {
  const [hub, detour] = [newHub(), await Detour.open()];
  const told = await connect(hub, detour);
  await told.client.joinGroup("room");
  detour.close();
  await serviceOf(hub).closeConnection(told.connectionId);
  while (await serviceOf(hub).groupExists("room")) await new Promise((go) => setTimeout(go, 20));
  detour.reopen();
  assert.equal((await next(told, "disconnected")).connectionId, told.connectionId);
  assert.notEqual((await next(told, "connected")).connectionId, told.connectionId);
  assert.equal(await serviceOf(hub).groupExists("room"), true);
  await serviceOf(hub).group("room").sendToAll("m1", { contentType: "text/plain" });
  await got(told, 1, 1);
});

scenario("a reliable client that is closed by REST is told why and begins anew", async () => {
  const [hub, detour] = [newHub(), await Detour.open()];
  const told = await connect(hub, detour);
  await serviceOf(hub).closeConnection(told.connectionId, { reason: "try again" });
  const { message } = await next(told, "disconnected");
  assert.equal(message.message, "Application server closed the connection. Reason: try again");
  assert.notEqual((await next(told, "connected")).connectionId, told.connectionId);
});

// It acknowledges once a second, and at once only when a number jumps by more than 300, which numbers without gaps
// never do. So a thousand messages are what may come in a second.
scenario("5,000 messages do not end a reliable client that acknowledges once a second", async () => {
  const [hub, detour] = [newHub(), await Detour.open()];
  const told = await connect(hub, detour);
  await told.client.joinGroup("room");
  for (let n = 1; n <= 5000; n += 250) {
    const sending = Array.from({ length: 250 }, (_, i) => told.client.sendToGroup("room", `m${n + i}`, "text"));
    await got(told, n, n + 249);
    await Promise.all(sending);
    await new Promise((go) => setTimeout(go, 300));
  }
  assert.equal(told.events.size, 0);
});
