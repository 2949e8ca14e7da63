// A chat that the server rules: it lets people in, passes on what they say, and tells who came and who left.
import { readFile } from "node:fs/promises";
import { WebPubSubServiceClient } from "@azure/web-pubsub";
import { WebPubSubEventHandler } from "@azure/web-pubsub-express";
import { buildSync } from "esbuild";
import express from "express";

const HUB = "chat";
const service = new WebPubSubServiceClient(process.env.HUBWIRE_CONNECTION_STRING, HUB, {
  allowInsecureConnection: true, // http:// is meant
});
const lobby = service.group("lobby");

// Who is here: how many connections each user has. One server process; several would share a store.
const present = new Map();
const tell = (message) => lobby.sendToAll({ ...message, present: [...present.keys()].sort() });

const handler = new WebPubSubEventHandler(HUB, {
  // The service asks before it lets a client in. Nobody is in the lobby who was not put there here.
  handleConnect({ context }, response) {
    const user = context.userId;
    if (!user) return response.fail(401, "Sign in first.");
    if (user.toLowerCase() === "admin") return response.fail(403, "That name is taken.");
    response.setState("since", new Date().toISOString());
    response.success({ groups: ["lobby"] });
  },

  async onConnected({ context }) {
    const count = (present.get(context.userId) ?? 0) + 1;
    present.set(context.userId, count);
    await tell(count === 1 ? { kind: "joined", who: context.userId } : { kind: "present" });
  },

  // Comes for every connection that was announced, also when a tab or a gateway just dies.
  async onDisconnected({ context }) {
    const count = (present.get(context.userId) ?? 1) - 1;
    if (count > 0) {
      present.set(context.userId, count);
    } else {
      present.delete(context.userId);
      await tell({ kind: "left", who: context.userId });
    }
  },

  async handleUserEvent({ context, data }, response) {
    const text = context.eventName === "say" && typeof data?.text === "string" ? data.text.trim() : "";
    if (!text || text.length > 500) return response.fail(400, "There is nothing to say.");
    await lobby.sendToAll({ kind: "said", who: context.userId, text });
    response.success(JSON.stringify({ kind: "note", text: `Here since ${context.states.since}.` }), "json");
  },
});

const app = express();
app.use(handler.getMiddleware()); // before any body parser, or it never sees a body

const here = new URL(".", import.meta.url);
const page = await readFile(new URL("index.html", here));
const script = buildSync({
  entryPoints: [new URL("page.mjs", here).pathname],
  bundle: true,
  format: "esm",
  platform: "browser",
  write: false,
}).outputFiles[0].contents;

app.get("/", (_, response) => response.type("html").send(page));
app.get("/page.js", (_, response) => response.type("js").send(Buffer.from(script)));

// A real server knows its user from a session. This one believes the page.
app.post("/sign-in", async (request, response) => {
  const user = String(request.query.user ?? "").trim();
  if (!user || user.length > 40) return response.status(400).send("A name has 1 to 40 characters.");
  response.send((await service.getClientAccessToken({ userId: user, expirationTimeInMinutes: 5 })).url);
});

const server = app.listen(Number(process.env.PORT ?? 3000), "127.0.0.1", () => {
  const { port } = server.address();
  console.log(`The chat is on http://127.0.0.1:${port}/, its event handler on ${handler.path}`);
});
