// @ts-check
/**
 * The stored pushes of one business, as one device takes them: what is new, what comes again, what lies
 * between. No clock, no storage and no connection: {@link Inboxes} has those. Source: proto/WIRE.md,
 * "Stored pushes".
 */
import { START, compare, isStart, max, min } from "./position.js";

/** A RESYNC that brought nothing may be repeated after this long. */
const RESYNC_MS = 5_000;

/**
 * What waits for the app. `count` says how many pushes are gone, at most; 0: it is not known.
 * @typedef {{ reason: string, count: number }} Loss
 *
 * @typedef {object} Item
 * @property {import("./position.js").Position} at
 * @property {import("./message.js").Push | null} push `null`: a gap
 * @property {Loss | null} loss what the app is told, before the push if there is one
 */

export class Inbox {
  /** Handled, and saved. @type {import("./position.js").Position} */
  saved;
  /** Handled. @type {import("./position.js").Position} */
  cursor;
  /** Taken. @type {import("./position.js").Position} */
  received;
  /** Highest position that this connection has brought. @type {import("./position.js").Position} */
  seen = START;
  /** What was taken and not handled yet, in order. @type {Item[]} */
  queue = [];
  /** Grows when the node does not believe the cursor: what was begun before counts no more. */
  life = 0;
  /** What is saved is to be replaced, also by something lower. */
  refused = false;
  #resyncUntil = 0;

  /** @param {import("./position.js").Position} saved */
  constructor(saved) {
    this.saved = this.cursor = this.received = saved;
  }

  /** A new connection, whose LOGIN named this cursor. @param {import("./position.js").Position} named */
  connected(named) {
    this.seen = named;
    this.#resyncUntil = 0;
  }

  /** The node did not believe the cursor. @param {import("./position.js").Position} floor */
  refuse(floor) {
    this.saved = this.cursor = this.received = this.seen = floor;
    this.life += 1;
    this.refused = true;
    // What was handed over before moves the cursor no more.
    this.queue = this.queue.map((item) => ({ ...item, at: START }));
  }

  /**
   * A push or a gap at `at`, behind `prev`.
   * @param {import("./position.js").Position} at @param {import("./position.js").Position} prev
   * @param {number} now
   * @returns {"new" | "again" | "resync" | "early"} `again`: an acknowledgement is due; `resync`: ask for
   *   what lies above `received`; `early`: that was asked already
   */
  offer(at, prev, now) {
    this.seen = max(this.seen, at);
    if (compare(at, this.received) <= 0) return "again";
    if (compare(prev, this.received) > 0) {
      if (now < this.#resyncUntil) return "early";
      this.#resyncUntil = now + RESYNC_MS;
      return "resync";
    }
    return "new";
  }

  /** The store went back behind what this device has taken. @param {import("./position.js").Position} at @param {import("./position.js").Position} prev */
  wentBack(at, prev) {
    return !isStart(this.received) && at.term !== this.received.term && compare(prev, this.received) < 0;
  }

  /** @param {Item} item */
  take(item) {
    this.received = item.at;
    this.#resyncUntil = 0;
    this.queue.push(item);
  }

  /** The first of the queue was handled. True: the cursor has moved. */
  handled() {
    const item = this.queue.shift();
    if (!item || compare(item.at, this.cursor) <= 0) return false;
    this.cursor = item.at;
    return true;
  }

  /** How far this connection may be told. */
  acknowledged() {
    return min(this.saved, this.seen);
  }
}
