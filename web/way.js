// @ts-check
/**
 * The way to a connection: control's answer while it is good, which of its addresses to dial next, and
 * how long to wait before.
 */
import { callAccess, urlOf, webSocketPoints } from "./access.js";
import { Backoff, DELAY_MS_MAX } from "./backoff.js";
import { HawserError } from "./codes.js";

/** A node that sent its devices elsewhere comes last for this long. */
const AVOID_MS = 60_000;
const AVOIDED_MAX = 64;
/** What is taken of a node's alternatives. */
const NAMED_MAX = 10;
const HOST = /^[A-Za-z0-9._:-]{1,253}$/;

/** Where to dial, and what to show there. @typedef {{ url: string, node: string, token: string }} Step */

export class Way {
  #options;
  #sdk;
  #backoff;
  /** @type {import("./access.js").AccessAnswer | null} */
  #answer = null;
  #askedAt = 0;
  #tokenExpiresAt = 0;
  /** Which address is next: the one that worked last, until it fails. */
  #turn = 0;
  /** Dials that failed since the last answer or session. */
  #failures = 0;
  /** What was dialled last, and how many others there were. @type {{ url: string, node: string, others: number } | null} */
  #dialled = null;
  /** Nodes to come last, and until when; the one that said so last is the last. @type {Map<string, number>} */
  #avoided = new Map();
  /** What a node named in its CLOSE: it comes first. @type {import("./access.js").AccessPoint[]} */
  #named = [];
  /** What the node of the last login said of the window; 0: as control said. */
  #windowMs = 0;

  #renewed;

  /**
   * @param {import("./hawser.js").Options} options @param {string} sdk
   * @param {() => void} renewed control gave a new token: what was got for the one before is worth nothing
   */
  constructor(options, sdk, renewed) {
    this.#options = options;
    this.#sdk = sdk;
    this.#renewed = renewed;
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
    const points = this.#usable([...this.#named, ...answer.access_points]);
    if (points.length === 0) {
      this.#answer = null;
      throw HawserError.fromStatus(27, "control gave no WebSocket address");
    }
    const until = (/** @type {import("./access.js").AccessPoint} */ point) => this.#avoidedUntil(point);
    const ordered = points.sort((a, b) => until(a) - until(b));
    const point = ordered[this.#turn % ordered.length];
    this.#dialled = { url: urlOf(point), node: nodeOf(point), others: points.length - 1 };
    const startAfterMs = asked ? Math.min(answer.start_after_ms ?? 0, DELAY_MS_MAX) : 0;
    return { url: urlOf(point), token: answer.token, startAfterMs };
  }

  /**
   * A round over where else to go: what the node named, then control's answer, then a new answer.
   * @param {import("./access.js").AccessPoint[]} named @param {AbortSignal} stop
   * @returns {AsyncGenerator<Step>}
   */
  async *others(named, stop) {
    const here = this.#dialled;
    const tried = new Set([here?.url]);
    for (const asksAnew of [false, true]) {
      if (asksAnew) this.#askedAt = -Infinity;
      const asked = await this.#ask(stop).catch(() => null);
      if (asked === null || stop.aborted) return;
      const points = this.#usable([...named, ...(this.#answer?.access_points ?? [])]);
      for (const point of points) {
        const [url, node] = [urlOf(point), nodeOf(point)];
        if (this.#answer === null) break; // its token was refused meanwhile
        if (tried.has(url) || node === here?.node || stop.aborted) continue;
        tried.add(url);
        yield { url, node, token: this.#answer.token };
      }
    }
  }

  /**
   * The device has moved there, and the node before is going.
   * @param {Step} step @param {number} onlineMs how long it was there
   */
  moved({ url, node }, onlineMs) {
    this.#backoff.lasted(onlineMs);
    if (this.#dialled) this.#avoid(this.#dialled.node);
    this.#dialled = { url, node, others: this.#dialled?.others ?? 0 };
    this.#turn = 0;
  }

  /** The word of LOGIN_OK. @param {number} windowMs */
  window(windowMs) {
    this.#windowMs = windowMs;
  }

  /** The token was refused: control is asked for another one. */
  refused() {
    this.#answer = null;
  }

  /** Each once, in order, as far as this page may dial them. @param {import("./access.js").AccessPoint[]} points */
  #usable(points) {
    const sane = points.filter(({ host, port }) => HOST.test(host) && port > 0 && port < 65_536);
    const usable = webSocketPoints(sane, globalThis.location?.protocol);
    return usable.filter((point, at) => usable.findIndex((it) => urlOf(it) === urlOf(point)) === at);
  }

  /** @param {string} node */
  #avoid(node) {
    const now = Date.now();
    this.#avoided.delete(node);
    this.#avoided.set(node, now + AVOID_MS);
    for (const [oldest, until] of this.#avoided) {
      if (until <= now || this.#avoided.size > AVOIDED_MAX) this.#avoided.delete(oldest);
    }
  }

  /** 0: it is not. @param {import("./access.js").AccessPoint} point */
  #avoidedUntil(point) {
    const until = this.#avoided.get(nodeOf(point)) ?? 0;
    return until > Date.now() ? until : 0;
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
    this.#renewed();
    this.#askedAt = Date.now();
    // Only differences of the server's times are used: this device's clock may be wrong.
    this.#tokenExpiresAt = this.#askedAt + this.#answer.expires_at_ms - this.#answer.issued_at_ms;
    this.#turn = 0;
    this.#failures = 0;
    this.#named = [];
    this.#windowMs = 0;
    return true;
  }

  /** A new token came on the live connection. @param {string} token @param {number} livesMs */
  refreshed(token, livesMs) {
    if (this.#answer) this.#answer = { ...this.#answer, token };
    this.#tokenExpiresAt = Date.now() + livesMs;
  }

  /**
   * A connection or a try has ended: how long to wait, in milliseconds.
   * @param {{ retry: import("./codes.js").Retry, retryAfterMs: number, onlineMs: number,
   *   alternatives?: import("./access.js").AccessPoint[] }} ended
   */
  ended(ended) {
    const { backoff, reconnect_window_ms: controlsWindowMs } = this.#answer ?? {};
    const windowMs = this.#windowMs || controlsWindowMs;
    const dialled = this.#dialled;
    this.#dialled = null;
    if (ended.onlineMs > 0) this.#failures = 0;
    else if (dialled) {
      this.#failures += 1;
      this.#turn += 1;
    }
    if (ended.retry === "new token") this.#answer = null;
    if (ended.retry === "elsewhere" && dialled) {
      this.#turn = 0;
      this.#avoid(dialled.node);
      if (dialled.others === 0 && !ended.alternatives?.length) this.#askedAt = -Infinity;
    }
    if (ended.alternatives?.length) {
      this.#named = ended.alternatives.slice(0, NAMED_MAX);
      this.#turn = 0;
    }
    if ((ended.retry === "now" || ended.retry === "elsewhere") && ended.onlineMs === 0 && dialled) {
      // A dial that failed, or a node that is full, goes on with the next address at once. After a whole
      // round control is asked again: nodes have come and gone since.
      if (this.#failures % (dialled.others + 1) !== 0) return 0;
      this.#askedAt = -Infinity;
    }
    if (ended.retry === "elsewhere" && dialled) {
      // Another node does not count the time that this one told.
      const isKnown = dialled.others > 0 || (ended.alternatives ?? []).length > 0;
      ended = isKnown ? { ...ended, retryAfterMs: 0 } : { ...ended, retry: /** @type {const} */ ("later") };
    }
    return this.#backoff.next(ended, backoff, windowMs);
  }
}

/** @param {import("./access.js").AccessPoint} point */
function nodeOf(point) {
  return point.node ?? urlOf(point);
}
