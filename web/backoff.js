// @ts-check
/**
 * How long to wait before the next try. Pure: what happened comes in, a delay comes out; chance comes
 * in as a function.
 *
 * @typedef {object} Policy
 * @property {number} base_ms first delay after a failure
 * @property {number} max_ms longest delay
 * @property {number} factor growth from one failure to the next
 * @property {number} jitter share of a delay that is left to chance, 0 to 1
 */

/** Used until control has said otherwise. @type {Policy} */
export const DEFAULT_POLICY = Object.freeze({ base_ms: 500, max_ms: 30_000, factor: 2, jitter: 0.5 });
export const DEFAULT_WINDOW_MS = 1_000;

/** A session that lasted this long proves that the way is good again. */
const STABLE_MS = 10_000;

export class Backoff {
  #failures = 0;
  #random;

  /** @param {() => number} [random] 0 to 1 */
  constructor(random = Math.random) {
    this.#random = random;
  }

  /**
   * The delay after a connection or a try has ended.
   * @param {object} ended
   * @param {import("./codes.js").Retry} ended.retry
   * @param {number} [ended.retryAfterMs] earliest time, as the server said
   * @param {number} [ended.onlineMs] how long the session lasted; 0: there was none
   * @param {Policy} [policy]
   * @param {number} [windowMs] the first reconnects of many devices are spread over this time
   */
  next(ended, policy = DEFAULT_POLICY, windowMs = DEFAULT_WINDOW_MS) {
    if ((ended.onlineMs ?? 0) >= STABLE_MS) this.#failures = 0;
    const failures = this.#failures++;
    const told = ended.retryAfterMs ?? 0;
    // The first try after a good session is only spread; "later" always waits.
    if (failures === 0 && ended.retry !== "later") {
      return Math.max(told, Math.round(this.#random() * windowMs));
    }
    const exponent = ended.retry === "later" ? failures : failures - 1;
    const whole = Math.min(policy.max_ms, policy.base_ms * policy.factor ** exponent);
    const delay = whole * (1 - policy.jitter) + whole * policy.jitter * this.#random();
    // What the server said is the earliest time: jitter is added to it, so that not all come at once.
    return Math.round(told + delay);
  }
}
