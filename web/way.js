// @ts-check
/**
 * The way to a connection: control's answer while it is good, which of its addresses to dial next, and
 * how long to wait before.
 */
import { callAccess, webSocketUrls } from "./access.js";
import { Backoff } from "./backoff.js";
import { HawserError } from "./codes.js";

/** Addresses that may fail before control is asked for new ones. */
const FAILURES_BEFORE_ASKING = 3;

export class Way {
  #options;
  #sdk;
  #backoff;
  /** @type {import("./access.js").AccessAnswer | null} */
  #answer = null;
  #askedAt = 0;
  #tokenExpiresAt = 0;
  #failures = 0;

  /** @param {import("./hawser.js").Options} options @param {string} sdk */
  constructor(options, sdk) {
    this.#options = options;
    this.#sdk = sdk;
    this.#backoff = new Backoff(options.random);
  }

  /**
   * What to dial, and the token to show there. Throws a HawserError.
   * @param {AbortSignal} stop
   * @returns {Promise<{ url: string, token: string, startAfterMs: number }>}
   */
  async next(stop) {
    const asked = await this.#ask(stop);
    const answer = /** @type {import("./access.js").AccessAnswer} */ (this.#answer);
    const urls = webSocketUrls(answer.access_points, globalThis.location?.protocol === "https:");
    if (urls.length === 0) {
      this.#answer = null;
      throw HawserError.fromStatus(27, "control gave no WebSocket address");
    }
    return {
      url: urls[this.#failures % urls.length],
      token: answer.token,
      startAfterMs: asked ? (answer.start_after_ms ?? 0) : 0,
    };
  }

  /**
   * Asks control unless the answer we have is good. When control is away, an answer whose token still
   * lives will do. True: there is a new answer.
   * @param {AbortSignal} stop
   */
  async #ask(stop) {
    const now = Date.now();
    const alive = this.#answer !== null && now < this.#tokenExpiresAt;
    const fresh = now - this.#askedAt < (this.#answer?.refresh_after_ms ?? Infinity);
    if (alive && fresh) return false;
    const { control, app, device, businesses, proof, appVersion } = this.#options;
    try {
      const shown = typeof proof === "function" ? await proof() : (proof ?? { type: "open" });
      const request = { app, device, platform: "web", sdk: this.#sdk, proof: shown };
      if (businesses?.length) Object.assign(request, { businesses });
      if (appVersion) Object.assign(request, { app_version: appVersion });
      const call = this.#options.fetch ?? globalThis.fetch.bind(globalThis);
      this.#answer = await callAccess(call, control, request, stop);
    } catch (failure) {
      const final = failure instanceof HawserError && failure.final;
      if (alive && !final) return false;
      throw failure instanceof HawserError ? failure : new HawserError("proof_failed", String(failure));
    }
    this.#askedAt = Date.now();
    // Only differences of the server's times are used: this device's clock may be wrong.
    this.#tokenExpiresAt = this.#askedAt + this.#answer.expires_at_ms - this.#answer.issued_at_ms;
    this.#failures = 0;
    return true;
  }

  /** A new token came on the live connection. @param {string} token @param {number} livesMs */
  refreshed(token, livesMs) {
    if (this.#answer) this.#answer = { ...this.#answer, token };
    this.#tokenExpiresAt = Date.now() + livesMs;
  }

  /**
   * A connection or a try has ended: how long to wait, in milliseconds.
   * @param {{ retry: import("./codes.js").Retry, retryAfterMs: number, onlineMs: number }} ended
   */
  ended(ended) {
    if (ended.retry === "new token") this.#answer = null;
    // Another address, when this one did not lead to a session or the node asked for it.
    if (ended.retry === "elsewhere" || ended.onlineMs === 0) this.#failures += 1;
    // Nodes have come and gone since: ask control again, and go on with what we have if it is away.
    if (ended.retry === "elsewhere" || this.#failures >= FAILURES_BEFORE_ASKING) this.#askedAt = -Infinity;
    const { backoff, reconnect_window_ms: windowMs } = this.#answer ?? {};
    return this.#backoff.next(ended, backoff, windowMs);
  }
}
