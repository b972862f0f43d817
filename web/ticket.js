// @ts-check
/**
 * The resume ticket: what a LOGIN may show in place of the token. It lives in memory, and no longer than the
 * client's run: on disk it would be a secret, and worth nothing a few minutes later.
 * Source: proto/WIRE.md, "Resume tickets".
 */
export const RESUME_TICKET_LIFE_MS = 3_600_000;
export const RESUME_TICKET_BYTES_MAX = 1_024;

const NONE = new Uint8Array();

export class Ticket {
  #text = NONE;
  #until = 0;
  #isShown = false;

  /** The word of a LOGIN_OK; empty: none. @param {Uint8Array} text */
  given(text) {
    this.#text = text.length <= RESUME_TICKET_BYTES_MAX ? text : NONE;
    this.#until = Date.now() + RESUME_TICKET_LIFE_MS;
    this.#isShown = false;
  }

  /** For a LOGIN; empty: the token it is. */
  show() {
    if (Date.now() >= this.#until) this.forget();
    this.#isShown = this.#text.length > 0;
    return this.#text;
  }

  /** A LOGIN was refused with *new token*. True: because of the ticket, and the token may well do. */
  isToBlame() {
    this.forget();
    const wasShown = this.#isShown;
    this.#isShown = false;
    return wasShown;
  }

  /** The token it came from is gone. */
  forget() {
    this.#text = NONE;
  }
}
