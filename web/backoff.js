// @ts-check
/**
 * How long to wait before the next try: "Coming back" of proto/WIRE.md. Pure: what happened comes in, a
 * delay comes out; chance comes in as a function.
 *
 * @typedef {object} Policy
 * @property {number} base_ms first delay after a failure
 * @property {number} max_ms longest delay
 * @property {number} factor growth from one failure to the next
 * @property {number} jitter share of a delay that is left to chance, 0 to 1
 */

/** Used until control has said otherwise. @type {Policy} */
export const DEFAULT_POLICY = Object.freeze({ base_ms: 500, max_ms: 60_000, factor: 2, jitter: 0.5 });
export const DEFAULT_WINDOW_MS = 1_000;

/** The longest delay anyone can talk a device into; a browser's timer takes no more than some weeks. */
export const DELAY_MS_MAX = 3_600_000;
/** A session that lasted this long proves that the way is good again. */
const STABLE_MS = 30_000;

export class Backoff {
  #failures = 0;
  /** A session was lost since the last good one: from now on failures count beside the window. */
  #returned = false;
  #newToken = false;
  #random;

  /** @param {() => number} [random] 0 to 1 */
  constructor(random = Math.random) {
    this.#random = random;
  }

  /**
   * The delay after a connection or a try has ended, in milliseconds.
   * @param {object} ended
   * @param {import("./codes.js").Retry} ended.retry
   * @param {number} [ended.retryAfterMs] earliest time, as the server said
   * @param {number} [ended.onlineMs] how long the session lasted; 0: there was none
   * @param {Policy} [policy]
   * @param {number} [windowMs] the first returns of many devices are spread over this time; 0: it is not known
   */
  next({ retry, retryAfterMs = 0, onlineMs = 0 }, policy = DEFAULT_POLICY, windowMs = DEFAULT_WINDOW_MS) {
    this.lasted(onlineMs);
    const toldMs = within(retryAfterMs, 0, DELAY_MS_MAX, 0);
    if (retry === "later" && toldMs > 0) {
      this.#failures += 1;
      return Math.round(toldMs * (1 + this.#random() / 2));
    }
    const spreadMs = within(windowMs || DEFAULT_WINDOW_MS, 0, DELAY_MS_MAX, DEFAULT_WINDOW_MS);
    return toldMs + this.#delay(retry, onlineMs > 0, sane(policy), spreadMs);
  }

  /** A session has ended, or another one took its place. @param {number} onlineMs how long it lasted */
  lasted(onlineMs) {
    if (onlineMs < STABLE_MS) return;
    this.#failures = 0;
    this.#returned = false;
    this.#newToken = false;
  }

  /** @param {import("./codes.js").Retry} retry @param {boolean} wasOnline @param {Policy} policy @param {number} windowMs */
  #delay(retry, wasOnline, policy, windowMs) {
    if (retry === "new token" && !this.#newToken) {
      this.#newToken = true;
      return 0;
    }
    // After a session, however short it was, the window counts: a node that took thousands in and dies has
    // them all come back.
    const spread = wasOnline && retry !== "new token" ? this.#random() * windowMs : 0;
    if ((retry === "now" || retry === "elsewhere") && wasOnline && !this.#returned) {
      this.#returned = true;
      return Math.round(spread);
    }
    const failures = retry === "later" ? Math.max(1, this.#failures) : this.#failures;
    this.#failures = failures + 1;
    const whole = Math.min(policy.max_ms, policy.base_ms * policy.factor ** failures);
    return Math.round(Math.max(spread, whole * (1 - policy.jitter * this.#random())));
  }
}

/** The nearest policy that makes sense. @param {Policy} policy @returns {Policy} */
function sane({ base_ms, max_ms, factor, jitter }) {
  const base = within(base_ms, 10, DELAY_MS_MAX, DEFAULT_POLICY.base_ms);
  return {
    base_ms: base,
    max_ms: within(max_ms, base, DELAY_MS_MAX, Math.max(base, DEFAULT_POLICY.max_ms)),
    factor: within(factor, 1, 10, DEFAULT_POLICY.factor),
    jitter: within(jitter, 0, 1, DEFAULT_POLICY.jitter),
  };
}

/** @param {number} value @param {number} min @param {number} max @param {number} otherwise where it is no number */
function within(value, min, max, otherwise) {
  return Number.isFinite(value) ? Math.min(Math.max(value, min), max) : otherwise;
}
