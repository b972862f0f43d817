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

test("the return after a session, however short, is spread over the window", () => {
  assert.deepEqual(delays(0.5, lasted, failed, short, failed), [2_000, 75, 2_000, 300]);
  assert.deepEqual(delays(0.5, short, short, lasted, failed), [2_000, 2_000, 2_000, 75]);
  assert.deepEqual(delays(0.01, ...Array(5).fill(short)), [40, 100, 199, 398, 796], "and no shorter than failures say");
  assert.deepEqual(delays(0.5, { ...later, onlineMs: 1_000 }), [2_000]);
  assert.deepEqual(delays(0.5, { ...later, onlineMs: 1_000, retryAfterMs: 1_000 }), [1_250], "but for a time that is told");
});

test("devices of a node that dies ten seconds after they came are spread", () => {
  const quarters = [0, 0, 0, 0];
  for (let device = 0; device < 20_000; device++) {
    const backoff = new Backoff();
    backoff.next(lasted, policy, 4_000);
    const ms = backoff.next({ retry: "now", onlineMs: 10_000 }, policy, 4_000);
    quarters[Math.min(3, Math.floor(ms / 1_000))]++;
  }
  assert.ok(quarters.every((devices) => devices > 4_500 && devices < 5_500), quarters.join());
});

test("a session that a move has ended counts as any other", () => {
  const backoff = new Backoff(() => 0);
  for (let i = 0; i < 5; i++) backoff.next(failed, policy, 4_000);
  backoff.lasted(30_000);
  assert.equal(backoff.next(short, policy, 4_000), 0, "no failures before it");
});

test("nonsense is no busy loop, and no sleep without end", () => {
  const backoff = new Backoff(() => 0.5);
  const odd = { base_ms: 0, max_ms: NaN, factor: undefined, jitter: 7 };
  assert.equal(backoff.next(lasted, odd, 0), 500, "a second, where no window is known");
  for (let i = 0; i < 100; i++) {
    const ms = backoff.next(failed, odd, NaN);
    assert.ok(ms >= 0 && ms <= 3_600_000, `${ms}`);
  }
  assert.equal(backoff.next({ ...failed, retryAfterMs: 2 ** 32 - 1 }, policy) >= 3_600_000, true);
  assert.ok(backoff.next({ ...later, retryAfterMs: 2 ** 32 - 1 }, policy) < 2 ** 31 - 1, "a timer takes it");
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
