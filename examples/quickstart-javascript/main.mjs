// A client joins a group and sends to it; then a server speaks to everybody. Both in one program.
import { EventEmitter, once } from "node:events";
import { WebPubSubServiceClient } from "@azure/web-pubsub";
import { WebPubSubClient, WebPubSubJsonProtocol } from "@azure/web-pubsub-client";

const group = "news";

// The server. It holds the connection string, and makes a URL for each client: it says who the client is
// and what it may do. The SDK wants to be told that http:// is meant.
const service = new WebPubSubServiceClient(process.env.HUBWIRE_CONNECTION_STRING, "quickstart", {
  allowInsecureConnection: true,
});
const getClientAccessUrl = async () => {
  const access = await service.getClientAccessToken({
    userId: "ada",
    roles: [`webpubsub.joinLeaveGroup.${group}`, `webpubsub.sendToGroup.${group}`],
    expirationTimeInMinutes: 10,
  });
  return access.url;
};

// The client. It asks for a URL whenever it connects.
const client = new WebPubSubClient({ getClientAccessUrl }, { protocol: WebPubSubJsonProtocol() });
const messages = new EventEmitter();
client.on("connected", (told) => console.log(`connected as ${told.userId}`));
client.on("group-message", ({ message }) =>
  messages.emit("message", `${message.fromUserId} to ${message.group}: ${message.data}`),
);
client.on("server-message", ({ message }) => messages.emit("message", `server to all: ${message.data}`));

// Begin to wait before sending: the message may be here before the answer is.
const next = () => once(messages, "message", { signal: AbortSignal.timeout(10_000) });

await client.start();
await client.joinGroup(group);

let message = next();
await client.sendToGroup(group, "Hello, group", "text");
console.log(...(await message));

message = next();
await service.sendToAll("Hello, everybody", { contentType: "text/plain" });
console.log(...(await message));

client.stop();
process.exit(); // a timer of the SDK would keep Node waiting for half a minute
