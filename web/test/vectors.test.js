// The golden vectors of the wire: proto/tests/vectors, explained in WIRE.md, "Vectors".
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { FrameError, HEADER_BYTES, Kind, decodeFrame, encodeFrame } from "../wire.js";

const folder = new URL("../../proto/tests/vectors/", import.meta.url);
const names = Object.fromEntries(Object.entries(Kind).map(([name, kind]) => [kind, name]));

const vectors = readdirSync(folder)
  .filter((name) => name.endsWith(".hex"))
  .map((name) => {
    const text = readFileSync(new URL(name, folder), "utf8");
    const says = Object.fromEntries([...text.matchAll(/^# (\w+): (.*)$/gm)].map(([, key, value]) => [key, value]));
    const hex = text.replace(/#.*$/gm, "").replace(/\s+/g, "");
    return { name, bytes: new Uint8Array(Buffer.from(hex, "hex")), ...says };
  });

/** Cuts a stream into its frames. */
function frames(bytes) {
  const found = [];
  for (let at = 0; at < bytes.length; ) {
    const header = new DataView(bytes.buffer, bytes.byteOffset + at);
    const end = at + HEADER_BYTES + header.getUint16(6) + header.getUint32(8);
    found.push(bytes.slice(at, end));
    at = end;
  }
  return found;
}

test("there are vectors", () => assert.ok(vectors.length > 50));

for (const { name, bytes, from, expect, abilities = "" } of vectors) {
  if (abilities.includes("ZSTD") && bytes[4] & 1) {
    // This client does not show the ability, so a node that sends such a body has made a mistake.
    test(`${name} is refused without the ability`, () => {
      assert.throws(() => decodeFrame(bytes, { from: "node" }), FrameError);
    });
    continue;
  }
  const good = !/^(close|more)/.test(expect);
  if (good) {
    test(`${name} is ${expect}`, () => {
      const read = frames(bytes).map(decodeFrame);
      assert.equal(read.map(({ kind }) => names[kind] ?? "skipped").join(", "), expect);
    });
  }
  // What a device sends must be these very bytes. Maps have no order, and some vectors are odd on purpose.
  if (good && from === "device" && expect !== "skipped" && !/^(fields|flags)_/.test(name)) {
    test(`${name} is written as it is read`, () => {
      for (const frame of frames(bytes)) {
        const { kind, params, body } = decodeFrame(frame);
        assert.deepEqual(Buffer.from(encodeFrame(kind, params, body)), Buffer.from(frame));
      }
    });
  }
  if (!good && from === "node") {
    test(`${name} is refused`, () => {
      assert.throws(() => decodeFrame(bytes, { from: "node" }), FrameError);
    });
  }
}
