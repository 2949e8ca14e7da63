// An application server as people write them with @azure/web-pubsub-express: `node server.mjs 4|5`.
// Prints its port, and shows at /seen what its handlers were called with. It ends when stdin ends.

import { createRequire } from "node:module";

const { WebPubSubEventHandler } = createRequire(import.meta.url)("@azure/web-pubsub-express");
const express = (await import(process.argv[2] === "4" ? "express4" : "express5")).default;

const seen = [];
// A copy: the middleware changes the states of a request while it is handled.
const remember = (what, request) => seen.push(JSON.parse(JSON.stringify({ what, ...request })));
const shown = (data) => (data instanceof ArrayBuffer || ArrayBuffer.isView(data) ? { bytes: [...new Uint8Array(data)] } : data);

const options = {
  handleConnect(request, response) {
    remember("connect", request);
    switch (request.query?.case?.[0]) {
      case "deny": return response.fail(401, "nope");
      case "broken": return response.fail(500, "boom");
      case "details": return response.failWith({ code: 400, detail: "no such room" });
      case "state":
        response.setState("cart", 3);
        return response.success({ userId: "bob", groups: ["g2"], roles: ["r2"], subprotocol: "mine" });
      default: return response.success();
    }
  },
  handleUserEvent(request, response) {
    remember("user", { ...request, data: shown(request.data) });
    switch (request.context.eventName) {
      case "nothing": return response.success();
      case "add":
        response.setState("cart", request.context.states.cart + 1);
        return response.success(JSON.stringify(request.context.states), "json");
      case "fail": return response.fail(500, "boom");
      case "unauthorized": return response.fail(401, "nope");
      case "binary": return response.success(Buffer.from([0, 255]), "binary");
      default:
        return response.success(
          request.dataType === "json" ? JSON.stringify(request.data) : request.data, request.dataType);
    }
  },
  onConnected: (request) => remember("connected", request),
  onDisconnected: (request) => remember("disconnected", request),
  onGroupJoined: (request) => remember("joined", request),
  onGroupLeft: (request) => remember("left", request),
};

const app = express();
app.use(new WebPubSubEventHandler("orders", options).getMiddleware());
app.use(
  new WebPubSubEventHandler("orders", {
    ...options,
    path: "/allowed/",
    allowedEndpoints: ["https://other.example", "https://awps.example:8080"],
  }).getMiddleware(),
);
app.use(
  new WebPubSubEventHandler("orders", {
    ...options, path: "/foreign/", allowedEndpoints: ["https://other.example", "https://third.example"],
  }).getMiddleware(),
);
app.get("/seen", (_, response) => response.json(seen.splice(0)));

const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.resume().on("end", () => process.exit(0));
