// @ts-check
/**
 * Two connections at once: while a device moves, a push of a live group may come on both. It has no position
 * to be known by, so the ids of the last ones are kept, each with the connection that brought it.
 * Source: proto/WIRE.md, "Going away".
 */

/** Pushes that are remembered. */
const HEARD_MAX = 4_096;

export class Echoes {
  /** @type {Map<string, unknown>} */
  #heard = new Map();

  /**
   * Whether another connection has brought this push. Twice on one connection are two pushes.
   * @param {unknown} link @param {string} group @param {Uint8Array} pushId
   */
  isEcho(link, group, pushId) {
    if (pushId.length === 0) return false;
    const key = `${pushId.join()} ${group}`;
    if (this.#heard.has(key)) return this.#heard.get(key) !== link;
    for (const oldest of this.#heard.keys()) {
      if (this.#heard.size < HEARD_MAX) break;
      this.#heard.delete(oldest);
    }
    this.#heard.set(key, link);
    return false;
  }
}
