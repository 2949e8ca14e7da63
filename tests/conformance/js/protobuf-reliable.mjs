// protobuf.reliable.webpubsub.azure.v1 for @azure/web-pubsub-client, as an application can give it a protocol:
// the vendor's own add-on for it is not on npm. Only the messages are made here; everything else, recovery and
// acknowledgement among it, is the vendor's. Texts, bytes and protobuf; the fields are those of the schema that
// Microsoft's page on the protobuf subprotocol prints.

const utf8 = new TextEncoder();
const VARINT = 0;
const BYTES = 2;

function varint(value) {
  const bytes = [];
  let left = BigInt(value);
  for (; left > 127n; left >>= 7n) bytes.push(Number(left & 127n) | 128);
  return [...bytes, Number(left)];
}

/** A field with a number or a truth in it. One that is not given is left out; 0 is not. */
function number(field, value) {
  return value === undefined ? [] : [...varint((field << 3) | VARINT), ...varint(value)];
}

/** A field with a string, bytes or a message in it. */
function block(field, value) {
  const bytes = typeof value === "string" ? utf8.encode(value) : new Uint8Array(value);
  return [...varint((field << 3) | BYTES), ...varint(bytes.length), ...bytes];
}

function payload(data, dataType) {
  const field = { text: 1, binary: 2, protobuf: 3 }[dataType];
  if (field === undefined) throw new TypeError(`There is no ${dataType} here.`);
  return block(field, data);
}

const written = {
  joinGroup: (m) => block(6, [...block(1, m.group), ...number(2, m.ackId)]),
  leaveGroup: (m) => block(7, [...block(1, m.group), ...number(2, m.ackId)]),
  sendToGroup: (m) =>
    block(1, [
      ...block(1, m.group),
      ...number(2, m.ackId),
      ...block(3, payload(m.data, m.dataType)),
      ...number(4, m.noEcho),
    ]),
  sendEvent: (m) => block(5, [...block(1, m.event), ...block(2, payload(m.data, m.dataType)), ...number(3, m.ackId)]),
  sequenceAck: (m) => block(8, number(1, m.sequenceId)),
  ping: () => block(9, []),
};

/** The fields of a message by number; the last one of a number counts. */
function fields(bytes) {
  const found = {};
  let at = 0;
  const next = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      if (at >= bytes.length || shift > 63n) throw new Error("This is not protobuf.");
      value |= BigInt(bytes[at] & 127) << shift;
      if (bytes[at++] < 128) return Number(value);
    }
  };
  while (at < bytes.length) {
    const key = next();
    if ((key & 7) === VARINT) found[key >> 3] = next();
    else if ((key & 7) === BYTES) {
      const length = next();
      if (at + length > bytes.length) throw new Error("This ends too early.");
      found[key >> 3] = bytes.subarray(at, (at += length));
    } else throw new Error(`The schema has no field of type ${key & 7}.`);
  }
  return found;
}

const text = (bytes) => (bytes === undefined ? undefined : new TextDecoder("utf-8", { fatal: true }).decode(bytes));

function ack({ 1: ackId = 0, 2: success = 0, 3: error }) {
  const said = error && fields(error);
  const told = said && { name: text(said[1]) ?? "", message: text(said[2]) ?? "" };
  return { kind: "ack", ackId, success: success === 1, error: told };
}

function data({ 1: from, 2: group, 3: content, 4: sequenceId }) {
  const { 1: words, 2: bytes, 3: any, 4: json } = fields(content);
  const shown =
    words !== undefined ? ["text", text(words)]
    : json !== undefined ? ["json", JSON.parse(text(json))]
    : any !== undefined ? ["protobuf", any.slice().buffer]
    : ["binary", bytes.slice().buffer];
  const message = { dataType: shown[0], data: shown[1], sequenceId };
  return text(from) === "group"
    ? { kind: "groupData", group: text(group), ...message }
    : { kind: "serverData", ...message };
}

function system({ 1: connected, 2: disconnected }) {
  if (connected === undefined) return { kind: "disconnected", message: text(fields(disconnected)[2]) ?? "" };
  const { 1: connectionId, 2: userId, 3: reconnectionToken } = fields(connected);
  return {
    kind: "connected",
    connectionId: text(connectionId),
    userId: text(userId),
    reconnectionToken: text(reconnectionToken),
  };
}

const read = { 1: ack, 2: data, 3: system, 4: () => ({ kind: "pong" }) };

/** What the client's option `protocol` takes. */
export const protobufReliable = {
  name: "protobuf.reliable.webpubsub.azure.v1",
  isReliableSubProtocol: true,
  writeMessage: (message) => new Uint8Array(written[message.kind](message)).buffer,
  parseMessages(input) {
    if (!(input instanceof ArrayBuffer)) throw new TypeError("Frames of this protocol are binary.");
    const [[field, body]] = Object.entries(fields(new Uint8Array(input)));
    return read[field](fields(body));
  },
};
