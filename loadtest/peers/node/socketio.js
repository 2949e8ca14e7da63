// A peer of the benchmarks: Socket.IO with rooms, WebSocket only. A client's "m" goes to everyone in its room,
// the sender included; POST /publish?group=NAME sends the body to a room.
//
// usage: node socketio.js PORT PING_SECONDS; clients come to /socket.io/?EIO=4&transport=websocket&group=NAME
"use strict";

const http = require("http");
const { Server } = require("socket.io");

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const group = new URL(request.url, "http://peer").searchParams.get("group");
    io.to(group).emit("m", Buffer.concat(chunks).toString());
    response.end();
  });
});
const ping = Number(process.argv[3]) * 1000;
const io = new Server(server, {
  transports: ["websocket"],
  pingInterval: ping,
  pingTimeout: ping,
  perMessageDeflate: false,
  serveClient: false,
});

io.on("connection", (socket) => {
  const group = socket.handshake.query.group;
  socket.join(group);
  socket.on("m", (text) => io.to(group).emit("m", text));
  socket.emit("joined");
});

server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
