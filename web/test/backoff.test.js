import assert from "node:assert/strict";
import { test } from "node:test";
import { Backoff } from "../backoff.js";

const policy = { base_ms: 100, max_ms: 1_000, factor: 2, jitter: 0.5 };
const delays = (random, ...ended) => {
  const backoff = new Backoff(() => random);
  return ended.map((it) => backoff.next(it, policy, 4_000));
};
const failed = { retry: "now" };
const later = { retry: "later" };
const short = { retry: "now", onlineMs: 1_000 };
const lasted = { retry: "now", onlineMs: 30_000 };

test("failures back off up to the most, with jitter downwards", () => {
  assert.deepEqual(delays(0, failed, failed, failed, failed, failed), [100, 200, 400, 800, 1_000]);
  assert.deepEqual(delays(1, failed, failed), [50, 100]);
});

test("the first return after a good session is spread over the window, once", () => {
  assert.deepEqual(delays(0.5, lasted, failed, short, failed), [2_000, 75, 150, 300]);
  assert.deepEqual(delays(0.5, short, short, lasted, failed), [2_000, 75, 2_000, 75]);
});

test("later waits at least the second delay, and never less than the node said", () => {
  assert.deepEqual(delays(0, later, later), [200, 400]);
  assert.deepEqual(delays(1, { retry: "later", retryAfterMs: 5_000 }, failed), [7_500, 100]);
  assert.deepEqual(delays(0, { ...lasted, retryAfterMs: 5_000 }), [5_000]);
});

test("a new token is fetched at once, and the second time in a row after a wait", () => {
  const token = { retry: "new token" };
  assert.deepEqual(delays(0, token, token, token, { ...token, onlineMs: 40_000 }), [0, 100, 200, 0]);
});
