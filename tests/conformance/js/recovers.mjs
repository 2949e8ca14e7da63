// @azure/web-pubsub-client, unmodified, driven over pipes by a test that breaks what it is connected to:
// argv: the client access URL, then `protobuf` for protobuf.reliable or `plain` for
// json.webpubsub.azure.v1 instead of the default, json.reliable.
// Lines in: {"join": group} or {"publish": text, "group": group}.
// Lines out: what happened, in order.

import { createInterface } from "node:readline";
import { WebPubSubClient, WebPubSubJsonProtocol } from "@azure/web-pubsub-client";
import { protobufReliable } from "./protobuf-reliable.mjs";

const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");
const protocols = { protobuf: protobufReliable, plain: WebPubSubJsonProtocol() };
const options = process.argv[3] in protocols ? { protocol: protocols[process.argv[3]] } : {};
const client = new WebPubSubClient(process.argv[2], options);

client.on("connected", (e) => say({ connected: e.connectionId }));
client.on("disconnected", (e) => say({ disconnected: e.connectionId ?? "" }));
client.on("group-message", (e) => say({ message: e.message.data, sequenceId: e.message.sequenceId }));
client.on("rejoin-group-failed", (e) => say({ rejoinFailed: e.group }));
client.on("stopped", () => say({ stopped: true }));

await client.start();
for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  if (asked.join) await client.joinGroup(asked.join);
  else await client.sendToGroup(asked.group, asked.publish, "text");
  say({ done: asked });
}
client.stop();
