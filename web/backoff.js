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

/** A session that lasted this long proves that the way is good again. */
const STABLE_MS = 30_000;

export class Backoff {
  #failures = 0;
  /** The one quick return after a good session was used up. */
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
   * @param {number} [windowMs] the first returns of many devices are spread over this time
   */
  next({ retry, retryAfterMs = 0, onlineMs = 0 }, policy = DEFAULT_POLICY, windowMs = DEFAULT_WINDOW_MS) {
    if (onlineMs >= STABLE_MS) {
      this.#failures = 0;
      this.#returned = false;
      this.#newToken = false;
    }
    if (retry === "later" && retryAfterMs > 0) {
      this.#failures += 1;
      return Math.round(retryAfterMs * (1 + this.#random() / 2));
    }
    return Math.max(retryAfterMs, this.#delay(retry, onlineMs > 0, policy, windowMs));
  }

  /** @param {import("./codes.js").Retry} retry @param {boolean} wasOnline @param {Policy} policy @param {number} windowMs */
  #delay(retry, wasOnline, policy, windowMs) {
    if (retry === "new token" && !this.#newToken) {
      this.#newToken = true;
      return 0;
    }
    if ((retry === "now" || retry === "elsewhere") && wasOnline && !this.#returned) {
      this.#returned = true;
      return Math.round(this.#random() * windowMs);
    }
    const failures = retry === "later" ? Math.max(1, this.#failures) : this.#failures;
    this.#failures = failures + 1;
    const whole = Math.min(policy.max_ms, policy.base_ms * policy.factor ** failures);
    return Math.round(whole * (1 - policy.jitter * this.#random()));
  }
}
