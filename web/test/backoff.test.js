import assert from "node:assert/strict";
import { test } from "node:test";
import { Backoff } from "../backoff.js";

const policy = { base_ms: 100, max_ms: 1_000, factor: 2, jitter: 0.5 };
const delays = (random, ...ended) => {
  const backoff = new Backoff(() => random);
  return ended.map((it) => backoff.next(it, policy, 4_000));
};
const now = { retry: "now" };
const later = { retry: "later" };

test("the first reconnect is spread over the window, later ones back off up to the most", () => {
  assert.deepEqual(delays(0.5, now, now, now, now, now, now), [2_000, 75, 150, 300, 600, 750]);
  assert.deepEqual(delays(0, now, now), [0, 50]);
});

test("later waits from the first time on, never before what the node said", () => {
  assert.deepEqual(delays(0, later, later), [50, 100]);
  assert.deepEqual(delays(0, { retry: "later", retryAfterMs: 5_000 }), [5_050]);
  assert.deepEqual(delays(0, { retry: "now", retryAfterMs: 5_000 }), [5_000]);
});

test("a session that lasted makes the next loss a first one", () => {
  const lasted = { retry: "now", onlineMs: 20_000 };
  const short = { retry: "now", onlineMs: 1_000 };
  assert.deepEqual(delays(1, now, short, lasted, now), [4_000, 100, 4_000, 100]);
});
