// @ts-check
/**
 * All inboxes of a device: hands stored pushes to the app one after the other, saves how far it has
 * come, and only then acknowledges.
 */
import { Inbox } from "./inbox.js";
import { START, compare, format, isStart, max, parse } from "./position.js";
import { loadCursors, saveCursors } from "./store.js";
import { GAP_REASONS, INBOX_STATES } from "./wire.js";

/** Acknowledged at the latest after this many pushes, or this long. */
const ACK_ENTRIES = 16;
const ACK_MS = 200;
/** After a save that failed. */
const RETRY_MS = 5_000;
/** What one ACK may name, and one LOGIN. */
const POSITIONS_MAX = 32;

/**
 * @typedef {object} Use
 * @property {import("./store.js").Store} store
 * @property {string} app
 * @property {string} device
 * @property {(business: string) => boolean} listening somebody takes the pushes of this business
 * @property {(business: string, push: import("./message.js").Push) => Promise<void>} deliver
 * @property {(business: string, loss: import("./inbox.js").Loss) => void} lost
 * @property {(failure: unknown) => void} failed
 *
 * @typedef {object} Wire
 * @property {(business: string) => number} numberOf 0: not served
 * @property {(positions: { business: number, term: number | bigint, seq: number | bigint }[]) => boolean} ack
 * @property {(after: { business: number, term: number | bigint, seq: number | bigint }) => void} resync
 */

export class Inboxes {
  #use;
  /** @type {Map<string, Inbox>} */
  #inboxes = new Map();
  /** Businesses whose queue is being handed over. @type {Set<string>} */
  #serving = new Set();
  /** Inboxes of which the node has not heard the newest. @type {Set<string>} */
  #due = new Set();
  #handled = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {Promise<void> | null} */
  #saving = null;
  #loaded = false;
  /** The connection, while it is logged in with the ability. @type {Wire | null} */
  #wire = null;

  /** @param {Use} use */
  constructor(use) {
    this.#use = use;
  }

  /** What LOGIN is to name, of these businesses or of all. */
  async cursors(/** @type {string[]} */ businesses) {
    if (!this.#loaded) {
      const { store, app, device } = this.#use;
      for (const [business, text] of Object.entries(await loadCursors(store, app, device))) {
        if (!this.#inboxes.has(business)) this.#inboxes.set(business, new Inbox(parse(text)));
      }
      this.#loaded = true;
    }
    const wanted = (/** @type {string} */ name) => businesses.length === 0 || businesses.includes(name);
    const named = [...this.#inboxes].filter(([name, { saved }]) => wanted(name) && !isStart(saved));
    return named.slice(0, POSITIONS_MAX).map(([business, { saved }]) => ({ business, ...saved }));
  }

  /**
   * Logged in.
   * @param {Wire | null} wire `null`: without the ability
   * @param {{ business: string, term: number | bigint, seq: number | bigint }[]} named the cursors of LOGIN
   * @param {{ [name: string]: any }[]} told the inboxes of LOGIN_OK, by name
   */
  connected(wire, named, told) {
    this.#wire = wire;
    for (const [business, inbox] of this.#inboxes) {
      const cursor = named.find((it) => it.business === business);
      inbox.connected(cursor ? { term: cursor.term, seq: cursor.seq } : START);
    }
    if (!wire) return;
    for (const { business, state, floorTerm, floorSeq } of told) {
      const reason = INBOX_STATES[state];
      if (!business || !reason) continue;
      if (reason === "cursor_refused") {
        this.#of(business).refuse({ term: floorTerm, seq: floorSeq });
        this.#acknowledge(business, ACK_ENTRIES);
      }
      this.#use.lost(business, { reason, count: 0 });
    }
  }

  disconnected() {
    this.#wire = null;
  }

  /** A stored push. @param {string} business @param {import("./message.js").Push} push @param {import("./position.js").Position} prev */
  push(business, push, prev) {
    const at = push.position ?? START;
    const inbox = this.#offer(business, at, prev);
    if (!inbox) return;
    const loss = inbox.wentBack(at, prev) ? { reason: "term_changed", count: 0 } : null;
    inbox.take({ at, push, loss });
    void this.serve(business);
  }

  /** @param {string} business @param {{ [name: string]: any }} gap */
  gap(business, { afterTerm, afterSeq, uptoTerm, uptoSeq, count, reason }) {
    const at = { term: uptoTerm, seq: uptoSeq };
    const inbox = this.#offer(business, at, { term: afterTerm, seq: afterSeq });
    const loss = { reason: GAP_REASONS[reason] || "unknown", count: Number(count) };
    inbox?.take({ at, push: null, loss: loss.count > 0 ? loss : null });
    void this.serve(business);
  }

  /**
   * The inbox, when it is to take what is at `at`.
   * @param {string} business @param {import("./position.js").Position} at @param {import("./position.js").Position} prev
   */
  #offer(business, at, prev) {
    const inbox = this.#of(business);
    switch (inbox.offer(at, prev, Date.now())) {
      case "new":
        return inbox;
      case "again":
        this.#acknowledge(business, 1);
        break;
      case "resync":
        this.#wire?.resync({ business: this.#wire.numberOf(business), ...inbox.received });
        break;
      default: // asked already
    }
    return null;
  }

  /** @param {string} business */
  #of(business) {
    let inbox = this.#inboxes.get(business);
    if (!inbox) this.#inboxes.set(business, (inbox = new Inbox(START)));
    return inbox;
  }

  /**
   * Hands over what waits, one after the other. Without a listener it goes on waiting.
   * @param {string} business
   */
  async serve(business) {
    const inbox = this.#inboxes.get(business);
    if (!inbox || this.#serving.has(business)) return;
    this.#serving.add(business);
    while (inbox.queue.length > 0 && this.#use.listening(business)) {
      const { push, loss } = inbox.queue[0];
      if (loss) this.#use.lost(business, loss);
      if (push) await this.#use.deliver(business, push);
      if (inbox.handled()) this.#acknowledge(business, 1);
    }
    this.#serving.delete(business);
  }

  // === saving and acknowledging ===

  /** @param {string} business @param {number} count */
  #acknowledge(business, count) {
    this.#due.add(business);
    this.#handled += count;
    if (this.#handled >= ACK_ENTRIES) void this.flush();
    else this.#timer ??= setTimeout(() => void this.flush(), ACK_MS);
  }

  /** Nothing waits to be saved or acknowledged. */
  get quiet() {
    return this.#due.size === 0 && this.#saving === null;
  }

  /** Saves what was handled, and acknowledges it. */
  flush() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#handled = 0;
    // One after the other, so that an older state is never written last.
    this.#saving ??= this.#save().finally(() => (this.#saving = null));
    return this.#saving;
  }

  async #save() {
    const due = [...this.#due];
    this.#due.clear();
    const targets = new Map();
    for (const name of due) {
      const { saved, cursor, life, refused } = this.#of(name);
      if (refused || compare(cursor, saved) > 0) targets.set(name, { cursor, life, refused });
    }
    if (targets.size > 0) {
      try {
        await this.#write(targets);
      } catch (failure) {
        // Not saved, so not acknowledged.
        due.forEach((name) => this.#due.add(name));
        this.#timer ??= setTimeout(() => void this.flush(), RETRY_MS);
        return this.#use.failed(failure);
      }
    }
    this.#tell(due);
    // What came while it was saved has set no timer that is still to come.
    if (this.#due.size > 0) this.#timer ??= setTimeout(() => void this.flush(), ACK_MS);
  }

  /** @param {Map<string, { cursor: import("./position.js").Position, life: number, refused: boolean }>} targets */
  async #write(targets) {
    const { store, app, device } = this.#use;
    const kept = await loadCursors(store, app, device);
    for (const [business, { cursor, refused }] of targets) {
      // Another tab may have come further; a cursor that was refused is replaced.
      const before = refused ? START : parse(kept[business]);
      kept[business] = format(max(before, cursor));
    }
    await saveCursors(store, app, device, kept);
    for (const [business, { cursor, life }] of targets) {
      const inbox = this.#of(business);
      if (inbox.life !== life) continue;
      inbox.saved = cursor;
      inbox.refused = false;
    }
  }

  /** @param {string[]} businesses */
  #tell(businesses) {
    const wire = this.#wire;
    if (!wire) return; // the next LOGIN says the same
    const positions = businesses
      .map((name) => ({ business: wire.numberOf(name), ...this.#of(name).acknowledged() }))
      .filter((position) => position.business !== 0 && !isStart(position));
    for (let at = 0; at < positions.length; at += POSITIONS_MAX) {
      if (wire.ack(positions.slice(at, at + POSITIONS_MAX))) continue;
      businesses.forEach((name) => this.#due.add(name));
      return;
    }
  }
}
