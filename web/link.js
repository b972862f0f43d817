// @ts-check
/**
 * One WebSocket from dial to close: frames in, frames out, heartbeats. What a frame means is the
 * client's business.
 */
import { retryOf } from "./codes.js";
import { Kind, SUBPROTOCOL, decodeFrame, encodeFrame } from "./wire.js";

/** From the dial to the answer of the login. */
const LOGIN_TIMEOUT_MS = 10_000;
/** From a PING to any byte of the node. */
const PONG_TIMEOUT_MS = 10_000;
/** From BYE to the node's goodbye. */
const LEAVE_TIMEOUT_MS = 2_000;
/** Bytes the browser may hold for a slow network before we stop giving it more. */
const BUFFERED_BYTES_MAX = 1024 * 1024;

/**
 * Why a link has ended, and what to do then.
 * @typedef {object} Ended
 * @property {number} code close code; 1006 when the network broke it
 * @property {string} reason
 * @property {import("./codes.js").Retry} retry
 * @property {number} retryAfterMs
 * @property {import("./access.js").AccessPoint[]} alternatives where to go instead
 */

export class Link {
  #socket;
  #onFrame;
  #ended = false;
  /** @type {(ended: Ended) => void} */
  #settle = () => {};
  #loginTimer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #heartbeat;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #pongTimer;
  #heartbeatMs = 0;

  /**
   * @param {string} url
   * @param {object} use
   * @param {typeof WebSocket} use.WebSocket
   * @param {() => Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>>} use.login makes the first
   *   frame when the link is ready
   * @param {(frame: import("./wire.js").Frame) => void} use.onFrame
   */
  constructor(url, { WebSocket, login, onFrame }) {
    const socket = new WebSocket(url, [SUBPROTOCOL]);
    this.#socket = socket;
    this.#onFrame = onFrame;
    /** Resolves once, however the link ends. @type {Promise<Ended>} */
    this.closed = new Promise((resolve) => (this.#settle = resolve));
    this.#loginTimer = setTimeout(() => this.#lost("the login took too long"), LOGIN_TIMEOUT_MS);
    socket.binaryType = "arraybuffer";
    let opened = false;
    socket.onopen = () => {
      opened = true;
      if (this.#ended) return;
      const first = login();
      if (!(first instanceof Promise)) return socket.send(first);
      first.then(
        (bytes) => this.#ended || socket.send(bytes),
        (failure) => this.#lost(String(failure)),
      );
    };
    // Some runtimes report a dial that failed by this alone.
    socket.onerror = () => opened || this.#lost("the connection could not be made");
    socket.onmessage = (event) => this.#received(event.data);
    socket.onclose = (event) => {
      const known = event.code >= 4000 && event.code <= 4499;
      this.#end(known ? event.code : 1006, event.reason || "the connection broke", 0);
    };
  }

  /**
   * Sends a whole frame. False: the link takes no more just now, or has ended.
   * @param {Uint8Array<ArrayBuffer>} frame
   */
  send(frame) {
    if (this.#ended || this.#socket.readyState !== 1) return false;
    if (this.#socket.bufferedAmount > BUFFERED_BYTES_MAX) return false;
    this.#socket.send(frame);
    this.#restartHeartbeat();
    return true;
  }

  /** The login is done: from now on silence is broken by PING. @param {number} heartbeatMs */
  loggedIn(heartbeatMs) {
    clearTimeout(this.#loginTimer);
    this.#heartbeatMs = heartbeatMs;
    this.#restartHeartbeat();
  }

  /** Asks for a sign of life now, after the page or the network came back. */
  probe() {
    if (this.#heartbeatMs === 0 || this.#pongTimer) return;
    this.#pongTimer = setTimeout(() => this.#lost("the node fell silent"), PONG_TIMEOUT_MS);
    this.send(encodeFrame(Kind.PING, { nonce: Date.now() }));
  }

  /** Ends it as if the node had said so. @param {Ended} ended */
  end({ code, reason, retry, retryAfterMs }) {
    this.#end(code, reason, retryAfterMs, retry);
  }

  /** Says goodbye and closes. */
  leave() {
    this.send(encodeFrame(Kind.BYE, { code: 4000 }));
    this.#end(4000, "goodbye", 0);
  }

  /** Says goodbye, takes what is still on its way, and closes. */
  leaveSoon() {
    this.send(encodeFrame(Kind.BYE, { code: 4000 }));
    setTimeout(() => this.#end(4000, "goodbye", 0), LEAVE_TIMEOUT_MS);
  }

  #restartHeartbeat() {
    clearTimeout(this.#heartbeat);
    if (this.#heartbeatMs === 0) return;
    this.#heartbeat = setTimeout(() => this.probe(), this.#heartbeatMs);
  }

  /** @param {unknown} data */
  #received(data) {
    if (this.#ended) return;
    clearTimeout(this.#pongTimer);
    this.#pongTimer = undefined;
    if (!(data instanceof ArrayBuffer)) return this.#lost("the node sent text", "later");
    try {
      const frame = decodeFrame(new Uint8Array(data), { from: "node" });
      if (frame.params === null) return; // from a later release, and may be skipped
      if (frame.kind !== Kind.CLOSE) return this.#onFrame(frame);
      const { code, reason, retryAfterMs, alternatives } = frame.params;
      this.#end(code, reason, retryAfterMs, retryOf(code), alternatives);
    } catch (failure) {
      this.#lost(`the node sent no frame of ours: ${/** @type {Error} */ (failure).message}`, "later");
    }
  }

  /** @param {string} reason @param {import("./codes.js").Retry} [retry] */
  #lost(reason, retry) {
    this.#end(1006, reason, 0, retry);
  }

  /** @param {number} code @param {string} reason @param {number} retryAfterMs @param {import("./codes.js").Retry} [retry] @param {any[]} [alternatives] */
  #end(code, reason, retryAfterMs, retry = retryOf(code), alternatives = []) {
    if (this.#ended) return;
    this.#ended = true;
    for (const timer of [this.#loginTimer, this.#heartbeat, this.#pongTimer]) clearTimeout(timer);
    this.#socket.onmessage = null;
    this.#socket.close();
    this.#settle({ code, reason, retry, retryAfterMs, alternatives });
  }
}
