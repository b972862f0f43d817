import assert from "node:assert/strict";
import { test } from "node:test";
import { ProtobufError, decode, encode } from "../protobuf.js";
import { FrameError, Kind, decodeFrame, encodeFrame, messages } from "../wire.js";

const hexOf = (bytes) => Buffer.from(bytes).toString("hex");
const unhex = (text) => new Uint8Array(Buffer.from(text.replace(/\s+/g, ""), "hex"));

test("a request is these bytes", () => {
  const params = { requestId: 7, business: 1, method: "say", metadata: { room: "lobby" }, deadlineMs: 300 };
  const frame = encodeFrame(Kind.REQUEST, params, new TextEncoder().encode("hi"));
  assert.equal(
    hexOf(frame),
    hexOf(unhex(`6877 01 10 0000 001b 00000002
      08 07  10 01  1a 03 736179  22 0d 0a 04 726f6f6d 12 05 6c6f626279  30 ac02
      6869`)),
  );
});

test("what is written is read again, for every kind", () => {
  const samples = {
    LOGIN: {
      app: "demo", device: "d", token: "t", instance: new Uint8Array(16).fill(9), attempt: 2 ** 40,
      businesses: ["chat", ""], client: { sdk: "s", platform: "web", network: "", appVersion: "" }, abilities: 3,
      resumeTicket: new Uint8Array([1]), cursors: [{ business: "chat", term: 2 ** 52, seq: 1 }, { business: "", term: 0, seq: 18446744073709551615n }],
    },
    LOGIN_OK: {
      connection: "c", epoch: 1_700_000_000_000, businesses: [{ name: "chat", number: 1, status: 0 }],
      heartbeatMs: 25_000, idleTimeoutMs: 35_000, serverTimeMs: 18446744073709551615n, frameBytesMax: 65536,
      groupsMax: 100, requestsInFlightMax: 64, tokenRefreshAtMs: 1, tokenExpiresAtMs: 2, abilities: 4294967295,
      resumeTicket: new Uint8Array([9, 9]),
      inboxes: [{ business: 1, tailTerm: 9, tailSeq: 8, floorTerm: 7, floorSeq: 6, state: 2 }],
      reconnectWindowMs: 15_000,
    },
    GO_AWAY: {
      deadlineMs: 30_000, reason: "", alternatives: [{ protocol: "ws", host: "h", port: 80, serverName: "" }],
    },
    REFRESHED: {
      requestId: 1, status: 0, message: "", token: "t2", tokenRefreshAtMs: 5, tokenExpiresAtMs: 6,
      resumeTicket: new Uint8Array([1, 2]),
    },
    LEFT: { requestId: 0, group: "g\u0301", status: 0, message: "", reason: 3 },
    PUSH: {
      pushId: new Uint8Array([1, 0, 2]), business: 1, metadata: { a: "", "": "b" }, traceparent: "",
      term: 5, seq: 4, prevTerm: 3, prevSeq: 2, redelivered: true, expiresAtMs: 1,
    },
  };
  for (const [kind, params] of Object.entries(samples)) {
    const read = decodeFrame(encodeFrame(Kind[kind], params, new Uint8Array([1, 2])));
    assert.equal(read.kind, Kind[kind]);
    assert.deepEqual(Object.keys(read.params), Object.keys(params));
    assert.deepEqual(hexOf(encodeFrame(Kind[kind], read.params)), hexOf(encodeFrame(Kind[kind], params)));
    assert.deepEqual([...read.body], [1, 2]);
  }
});

test("unknown fields are skipped, defaults are not written, the byte order mark stays", () => {
  const bytes = unhex("08 05  f8 07 01  c2 3e 02 6869  c5 3e 01020304  c1 3e 0102030405060708");
  assert.deepEqual(decode(messages.Ping, bytes), { nonce: 5 });
  assert.equal(encode(messages.Close, { code: 0, reason: "", retryAfterMs: 0 }).length, 0);
  const group = { requestId: 0, group: "\ufeffg" };
  assert.deepEqual(decode(messages.Leave, encode(messages.Leave, group)), group);
});

test("a key cannot reach an object's prototype", () => {
  const entry = { key: [1, "string"], value: [2, "string"] };
  const inner = encode(entry, { key: "__proto__", value: "x" });
  const { metadata } = decode(messages.Push, new Uint8Array([0x1a, inner.length, ...inner]));
  assert.deepEqual(Object.keys(metadata), ["__proto__"]);
});

test("bad frames are refused", () => {
  const good = encodeFrame(Kind.PONG, { nonce: 300 });
  const changed = (at, ...bytes) => good.map((byte, i) => bytes[i - at] ?? byte);
  const cases = {
    "cut header": good.subarray(0, 11),
    "cut frame": good.subarray(0, good.length - 1),
    "one byte more": new Uint8Array([...good, 0]),
    magic: changed(0, 0x78),
    version: changed(2, 2),
    "unknown kind": changed(3, 0x91),
    "required flag": changed(4, 1),
    "a length of 4 GiB": changed(8, 0xff, 0xff, 0xff, 0xff),
    "a number without an end": changed(12, 0xff, 0xff, 0xff),
  };
  for (const [name, bytes] of Object.entries(cases)) assert.throws(() => decodeFrame(bytes), FrameError, name);
  assert.throws(() => decode(messages.Join, unhex("12 01 ff")), ProtobufError, "not UTF-8");
  assert.throws(() => decode(messages.Join, unhex("12 ffffffffffffffffff01")), ProtobufError, "a huge length");
  assert.equal(decodeFrame(changed(3, 0xe5)).params, null, "a later kind that may be skipped");
  assert.equal(decodeFrame(changed(4, 0, 1)).kind, Kind.PONG, "an unknown optional flag");
});

test("any bytes are a frame or an error of ours", () => {
  let seed = 1;
  const random = (below) => (seed = (seed * 48271) % 2147483647) % below;
  const good = encodeFrame(Kind.LOGIN_OK, { connection: "c", businesses: [{ name: "b", number: 1 }] });
  for (let i = 0; i < 5_000; i++) {
    const bytes = Uint8Array.from(good);
    for (let n = random(3) + 1; n > 0; n--) bytes[random(bytes.length)] = random(256);
    try {
      decodeFrame(bytes);
    } catch (failure) {
      assert.ok(failure instanceof FrameError, String(failure));
    }
  }
});
