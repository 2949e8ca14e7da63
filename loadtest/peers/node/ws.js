// A peer of the benchmarks: the smallest group server on the package ws. What a client sends goes to everyone
// in its group, the sender included.
//
// usage: node ws.js PORT; clients come to /?group=NAME
"use strict";

const { WebSocketServer } = require("ws");

const groups = new Map();
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 4096 });

server.on("connection", (socket, request) => {
  const name = new URL(request.url, "http://peer").searchParams.get("group");
  const members = groups.get(name) ?? groups.set(name, new Set()).get(name);
  members.add(socket);
  socket.on("close", () => members.delete(socket));
  socket.on("error", () => socket.terminate());
  socket.on("message", (data) => {
    for (const member of members) member.send(data, { binary: false });
  });
});
