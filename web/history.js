// @ts-check
/**
 * One group as this device follows it, over all connections: the last push of its history that was handed
 * over. Source: proto/WIRE.md, "History".
 */
import { START, compare, isStart } from "./position.js";

/** A RECOVER that brought nothing may be repeated after this long. */
const RECOVER_MS = 5_000;

export class History {
  /** @type {import("./position.js").Position} */
  last;
  #recoverUntil = 0;

  /** @param {import("./position.js").Position} [last] */
  constructor(last = START) {
    this.last = last;
  }

  connected() {
    this.#recoverUntil = 0;
  }

  /**
   * @param {{ history: boolean, tail: import("./position.js").Position, asked: boolean, now: number }} joined
   * @returns {boolean} what was missed must be asked for
   */
  joined({ history, tail, asked, now }) {
    if (!history) this.last = START;
    else if (isStart(this.last)) this.last = tail;
    else if (!asked && compare(tail, this.last) > 0) return this.#recover(now);
    return false;
  }

  /**
   * A push at `at`, behind `prev`.
   * @param {import("./position.js").Position} at @param {import("./position.js").Position} prev @param {number} now
   * @returns {"new" | "again" | "recover" | "early"}
   */
  offer(at, prev, now) {
    if (isStart(at)) return "new"; // a live group
    if (compare(at, this.last) <= 0) return "again";
    if (!isStart(this.last) && compare(prev, this.last) > 0) return this.#recover(now) ? "recover" : "early";
    this.last = at;
    this.#recoverUntil = 0;
    return "new";
  }

  /**
   * A push on a connection that was left: taken only if it is the next; the new one brings the others.
   * @param {import("./position.js").Position} at @param {import("./position.js").Position} prev
   */
  offerBehind(at, prev) {
    if (isStart(this.last) || compare(prev, this.last) !== 0 || compare(at, this.last) <= 0) return false;
    this.last = at;
    return true;
  }

  /**
   * The history cannot go on from where this device is. True: pushes may be lost.
   * @param {import("./position.js").Position} floor @param {import("./position.js").Position} tail
   */
  reset(floor, tail) {
    if (compare(floor, this.last) <= 0 && compare(tail, this.last) >= 0) return false;
    this.last = floor;
    this.#recoverUntil = 0;
    return true;
  }

  /** @param {number} now */
  #recover(now) {
    if (now < this.#recoverUntil) return false;
    this.#recoverUntil = now + RECOVER_MS;
    return true;
  }
}
