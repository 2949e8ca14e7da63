// Serves the page, and hands out client URLs. The access key stays here; the page never sees it.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { WebPubSubServiceClient } from "@azure/web-pubsub";
import { buildSync } from "esbuild";

const service = new WebPubSubServiceClient(process.env.HUBWIRE_CONNECTION_STRING, "chat", {
  allowInsecureConnection: true, // http:// is meant
});

const here = new URL(".", import.meta.url);
const html = await readFile(new URL("index.html", here));
const bundle = buildSync({
  entryPoints: [new URL("page.mjs", here).pathname],
  bundle: true,
  format: "esm",
  platform: "browser",
  write: false,
});
const script = bundle.outputFiles[0].contents;

// A real server knows its user from a session. This one believes the page.
const clientUrl = async (user) => {
  const access = await service.getClientAccessToken({
    userId: user,
    roles: ["webpubsub.joinLeaveGroup.lobby", "webpubsub.sendToGroup.lobby"],
    expirationTimeInMinutes: 5, // the page asks for a new URL whenever it connects
  });
  return access.url;
};

const server = createServer(async (request, response) => {
  const url = new URL(request.url, "http://localhost");
  const answer = (status, type, body) =>
    response.writeHead(status, { "content-type": type, "cache-control": "no-store" }).end(body);
  try {
    const user = (url.searchParams.get("user") ?? "").trim();
    if (request.method === "POST" && url.pathname === "/client-url" && user && user.length <= 40) {
      answer(200, "text/plain", await clientUrl(user));
    } else if (url.pathname === "/") {
      answer(200, "text/html; charset=utf-8", html);
    } else if (url.pathname === "/page.js") {
      answer(200, "text/javascript; charset=utf-8", script);
    } else {
      answer(404, "text/plain", "There is nothing here.");
    }
  } catch (error) {
    console.error(error);
    answer(500, "text/plain", "It did not work; the server's output says why.");
  }
});

server.listen(Number(process.env.PORT ?? 3000), "127.0.0.1", () =>
  console.log(`The chat is on http://127.0.0.1:${server.address().port}/`),
);
