// What the tests share: the service that they talk to (told by HUBWIRE_TEST), hubs, clients, waiting.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import net from "node:net";
import { test } from "node:test";
import { AzureKeyCredential, WebPubSubServiceClient } from "@azure/web-pubsub";
import { WebPubSubClient, WebPubSubJsonProtocol } from "@azure/web-pubsub-client";

const told = JSON.parse(process.env.HUBWIRE_TEST ?? "null");
if (told === null) throw new Error("HUBWIRE_TEST is not set; these tests are run by test_javascript.py");

export const { gateways, controlPlanes, key, secondaryKey, handledHub } = told;
export const EVERYTHING = ["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"];
const SECONDS = 15;
const registered = [];
const opened = new Set();
const detours = new Set();
let turn = 0;

/** A test after which all clients are stopped: an open one would keep the process from ending. */
export function scenario(name, run) {
  test(name, { timeout: SECONDS * 2000 }, async () => {
    try {
      await run();
    } finally {
      opened.forEach((client) => client.stop());
      opened.clear();
      detours.forEach((server) => server.close());
      detours.clear();
    }
  });
}

/** The scenario of one public method, named "Class.method". */
export function method(name, exercise) {
  registered.push(name);
  scenario(name, exercise);
}

/** One more test: every public method of the class has been registered, or is in `skipped`. */
export function covers(name, Class, skipped = []) {
  test(name, () => {
    const own = Object.getOwnPropertyNames(Class.prototype).filter((one) => {
      const { value } = Object.getOwnPropertyDescriptor(Class.prototype, one);
      return one !== "constructor" && !one.startsWith("_") && typeof value === "function";
    });
    const exercised = registered.map((one) => one.split(".")[1]);
    assert.deepEqual([...exercised, ...skipped].sort(), own.sort());
  });
}

/** A name that no other test uses. */
export const newHub = () => `js_${randomBytes(6).toString("hex")}`;

const next = (endpoints) => endpoints[turn++ % endpoints.length];

/** A service client for the next control plane. Plain http must be allowed by name. */
export function serviceOf(hub, { endpoint = next(controlPlanes), accessKey = key } = {}) {
  return new WebPubSubServiceClient(endpoint, new AzureKeyCredential(accessKey), hub, {
    allowInsecureConnection: true,
  });
}

/** A client access URL, for the next gateway. */
export async function clientUrl(hub, { userId, roles = EVERYTHING, groups } = {}, endpoint = next(gateways)) {
  const service = serviceOf(hub, { endpoint });
  return (await service.getClientAccessToken({ userId, roles, groups })).url;
}

/** The same client, stopped after the test. */
export function keepForStop(client) {
  opened.add(client);
  return client;
}

/** An unopened client of the protocol that is not reliable (the default is). */
export function newClient(url, options = {}) {
  const client = new WebPubSubClient(url, {
    protocol: WebPubSubJsonProtocol(),
    messageRetryOptions: { maxRetries: 0 },
    ...options,
  });
  return keepForStop(client);
}

/** What arrives, to be taken in order, each with a deadline. */
export class Inbox {
  #items = [];
  #waiting = [];

  put(item) {
    const taker = this.#waiting.shift();
    if (taker) taker(item);
    else this.#items.push(item);
  }

  /** How many have not been taken. */
  get size() {
    return this.#items.length;
  }

  async take() {
    if (this.#items.length > 0) return this.#items.shift();
    let timer;
    try {
      return await new Promise((resolve, reject) => {
        this.#waiting.push(resolve);
        timer = setTimeout(() => reject(new Error(`Nothing came in ${SECONDS} s.`)), SECONDS * 1000);
      });
    } finally {
      clearTimeout(timer);
    }
  }
}

/** A connected client with its messages in `inbox`. */
export class Peer {
  constructor(client) {
    this.client = client;
    this.inbox = new Inbox();
    this.disconnected = new Inbox();
  }

  static async connect(hub, token = {}, options = {}) {
    const peer = new Peer(newClient(await clientUrl(hub, token), { autoReconnect: false, ...options }));
    const connected = new Inbox();
    peer.client.on("connected", (e) => connected.put(e));
    peer.client.on("disconnected", (e) => peer.disconnected.put(e));
    peer.client.on("group-message", (e) => peer.inbox.put(e.message));
    peer.client.on("server-message", (e) => peer.inbox.put(e.message));
    await peer.client.start();
    const { connectionId, userId } = await connected.take();
    return Object.assign(peer, { connectionId, userId });
  }

  static several(count, hub, token) {
    return Promise.all(Array.from({ length: count }, () => Peer.connect(hub, token)));
  }

  async data() {
    return (await this.inbox.take()).data;
  }

  /** Wait until the service has closed the connection; the text that it told before. */
  async toldToGo() {
    return (await this.disconnected.take()).message?.message;
  }
}

/** A way to the gateways that loses connections, without a close frame; each goes to the next of them. */
export class Detour {
  static async open() {
    const detour = Object.assign(new Detour(), { taken: 0, isOpen: true, sockets: new Set() });
    const server = net.createServer((socket) => detour.pass(socket));
    detours.add(server);
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    detour.endpoint = `http://127.0.0.1:${server.address().port}`;
    return detour;
  }

  pass(socket) {
    if (!this.isOpen) return socket.destroy();
    this.taken++;
    const { hostname, port } = new URL(next(gateways));
    const there = net.connect(port, hostname);
    for (const [one, other] of [[socket, there], [there, socket]]) {
      this.sockets.add(one);
      one.on("error", () => other.destroy());
      one.on("close", () => (other.destroy(), this.sockets.delete(one)));
      one.pipe(other);
    }
  }

  /** All connections are lost, and no new ones are accepted. */
  close() {
    this.isOpen = false;
    this.sockets.forEach((socket) => socket.resetAndDestroy());
  }

  reopen() {
    this.isOpen = true;
  }
}

/** What an ArrayBuffer, or what Node makes of one, holds. */
export const bytes = (data) => [...new Uint8Array(data)];
