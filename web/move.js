// @ts-check
/**
 * Make before break: a node that goes away is left when another one has taken the device in. This finds the
 * other one; what two connections mean to pushes and calls is the client's business.
 * Source: proto/WIRE.md, "Going away".
 */
import { Backoff } from "./backoff.js";

/** No node can have a device begin more than two moves within this time. */
export const TWO_MOVES_MS = 10_000;
/** A shorter deadline is taken for this, so that there is one try at least. */
const DEADLINE_MS_MIN = 1_000;
const DEADLINE_MS_MAX = 600_000;
/** Requests in flight get this long for their answers before the LOGIN is sent. */
const SETTLE_MS = 1_000;
/** New ones wait this long for the answer to it, before they take the old connection again. */
const HOLD_MS = 2_000;
const SUPERSEDED = 4408;

/**
 * @typedef {object} Use
 * @property {(named: import("./access.js").AccessPoint[], stop: AbortSignal) => AsyncIterable<import("./way.js").Step>} points
 *   a round over where to go, never here
 * @property {(step: import("./way.js").Step, login: () => Promise<void>) => Promise<import("./link.js").Link>} dial
 *   `login` is awaited before LOGIN is sent
 * @property {(ms: number) => Promise<void>} answered no request is in flight any more, or the time is over
 * @property {(on: boolean) => void} hold new requests wait
 * @property {(ended: import("./link.js").Ended) => boolean} refused the token or ticket; true: the same point again
 * @property {import("./backoff.js").Policy} [policy]
 * @property {() => number} [random]
 */

export class Move {
  #use;
  #stop = new AbortController();
  #wake = () => {};
  #arrived = () => {};
  /** A LOGIN was sent and never answered: it may have won. */
  #unanswered = false;
  /** The new connection is open, and waits for answers that the old one owes; then its LOGIN is sent. */
  #isOpen = false;
  #isLoggingIn = false;
  #isLast = false;
  /** The new connection, while there is one. @type {import("./link.js").Link | null} */
  link = null;
  /** @param {Use} use */
  constructor(use) {
    this.#use = use;
  }

  /**
   * True: the device is elsewhere. False: nothing was found in time, or it was cancelled.
   * @param {{ deadlineMs: number, alternatives: import("./access.js").AccessPoint[] }} told
   * @param {number} notBefore
   */
  async run({ deadlineMs, alternatives }, notBefore) {
    this.until = Date.now() + Math.min(Math.max(deadlineMs, DEADLINE_MS_MIN), DEADLINE_MS_MAX);
    this.named = alternatives;
    const { random, policy } = this.#use;
    const backoff = new Backoff(random);
    await this.#sleep(notBefore - Date.now());
    while (!this.#isOver()) {
      let retryAfterMs = 0;
      for await (const step of this.#use.points(this.named, this.#stop.signal)) {
        const ended = await this.#try(step);
        if (ended === null) return true;
        retryAfterMs = Math.max(retryAfterMs, ended.retryAfterMs);
        if (ended.alternatives.length > 0) this.named = ended.alternatives;
        if (this.#isOver()) break;
      }
      if (this.#isOver()) break;
      const ms = Math.max(retryAfterMs, backoff.next({ retry: "now" }, policy));
      await this.#sleep(Math.min(ms, this.until - Date.now()));
    }
    return false;
  }

  /** The same GO_AWAY once more. @param {{ deadlineMs: number, alternatives: import("./access.js").AccessPoint[] }} told */
  again({ deadlineMs, alternatives }) {
    this.until = Math.min(this.until ?? Infinity, Date.now() + Math.max(deadlineMs, DEADLINE_MS_MIN));
    if (alternatives.length > 0) this.named = alternatives;
  }

  /** LOGIN_OK came on the new connection. */
  arrived() {
    this.#arrived();
  }

  /** The new connection is there, and its login under way or about to be. */
  get isNear() {
    return this.link !== null && this.#isOpen;
  }

  /** Whether `superseded` on the old connection speaks of this device's own login. */
  get mayHaveWon() {
    return this.#unanswered || (this.isNear && this.#isLoggingIn);
  }

  /** The old connection is gone: when this try fails there is none, and the client comes back as after a loss. */
  noWayBack() {
    this.#isLast = true;
  }

  cancel() {
    this.#stop.abort();
    this.#wake();
    this.link?.leave();
    this.link = null;
  }

  /** What refused it; `null`: nothing. @param {import("./way.js").Step} step */
  async #try(step) {
    for (;;) {
      const arrived = new Promise((resolve) => (this.#arrived = () => resolve(null)));
      /** @type {import("./link.js").Link} */
      let link;
      try {
        link = await this.#use.dial(step, async () => {
          this.#isOpen = true;
          this.#use.hold(true);
          await this.#use.answered(SETTLE_MS);
          this.#isLoggingIn = true;
          setTimeout(() => this.link === link && this.#use.hold(false), HOLD_MS);
        });
      } catch (failure) {
        // Not every host that a node may name is one to a browser.
        return { code: 1006, reason: String(failure), retry: "now", retryAfterMs: 0, alternatives: [] };
      }
      if (this.#stop.signal.aborted) link.leave();
      this.link = link;
      const ended = await Promise.race([arrived, link.closed]);
      const sent = this.#isLoggingIn;
      this.link = null;
      this.#isOpen = false;
      this.#isLoggingIn = false;
      this.#use.hold(false);
      if (ended === null) return null;
      if (sent && ended.code === 1006) this.#unanswered = true;
      if (sent && ended.code === SUPERSEDED) this.superseded = ended;
      if (this.#stop.signal.aborted || this.superseded || !this.#use.refused(ended)) return ended;
    }
  }

  /** This login had won, and a newer one took over from it. @type {import("./link.js").Ended | null} */
  superseded = null;

  #isOver() {
    if (this.#stop.signal.aborted || this.superseded !== null || this.#isLast) return true;
    return Date.now() >= (this.until ?? 0);
  }

  /** @param {number} ms @returns {Promise<void>} */
  #sleep(ms) {
    if (ms <= 0 || this.#stop.signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => (clearTimeout(timer), resolve(undefined));
    });
  }
}
