// A chat as people write it with @azure/web-pubsub-express: `node chat.mjs 4|5`.
// Who has a name is let in, to the lobby; what is said is answered, and counted in the state.
// Prints its port. It ends when stdin ends.

import { createRequire } from "node:module";

const { WebPubSubEventHandler } = createRequire(import.meta.url)("@azure/web-pubsub-express");
const express = (await import(process.argv[2] === "4" ? "express4" : "express5")).default;

const handler = new WebPubSubEventHandler("handled", {
  handleConnect(request, response) {
    const name = request.queries?.name?.[0];
    if (!name) return response.fail(401, "Say who you are.");
    if (name === "mallory") return response.failWith({ code: 403, detail: "not you" });
    response.setState("said", 0);
    return response.success({
      userId: name,
      groups: ["lobby"],
      roles: ["webpubsub.sendToGroup.lobby"],
    });
  },
  handleUserEvent(request, response) {
    if (request.context.eventName === "crash") return response.fail(400, "boom");
    const said = request.context.states.said + 1;
    response.setState("said", said);
    return response.success(JSON.stringify({ from: request.context.userId, text: request.data, said }), "json");
  },
});

const app = express();
app.use(handler.getMiddleware());
const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.resume().on("end", () => process.exit(0));
