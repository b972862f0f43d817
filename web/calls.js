// @ts-check
/**
 * Calls that wait for their answer: requests, joins and leaves. Each has a deadline from the start, waits
 * for a connection if there is none, is sent at most once, and is settled exactly once.
 */
import { HawserError } from "./codes.js";

/** Calls that may wait for a connection or an answer. */
const CALLS_MAX = 160;

/**
 * @typedef {import("./wire.js").Frame & { params: any }} AnswerFrame
 *
 * @typedef {object} Call
 * @property {(requestId: number) => void} send throws a HawserError when it cannot
 * @property {(answer: AnswerFrame) => void} resolve
 * @property {(failure: HawserError) => void} reject
 * @property {boolean} stays it may be answered on a connection that was left
 */

export class Calls {
  #lastId = 0;
  /** @type {Map<number, Call>} */
  #inFlight = new Map();
  /** Those that were sent on a connection that the device has left since. @type {Map<number, Call>} */
  #behind = new Map();
  /** @type {Set<Call>} */
  #waiting = new Set();
  /** Ask to hear of the last answer. @type {Set<() => void>} */
  #quiet = new Set();

  /** An id for a call; unique for the life of this client. */
  nextId() {
    return ++this.#lastId;
  }

  /**
   * Sends now if `connected`, else when {@link Calls.flush} is called.
   * @param {boolean} connected @param {number} deadlineMs @param {(requestId: number) => void} send
   * @param {boolean} [stays] a request: its answer counts also after a move
   * @returns {Promise<AnswerFrame>}
   */
  start(connected, deadlineMs, send, stays = false) {
    return new Promise((resolve, reject) => {
      if (this.#waiting.size + this.#inFlight.size >= CALLS_MAX) {
        return reject(HawserError.fromStatus(14, "too many calls wait for their answer"));
      }
      const timer = setTimeout(() => {
        this.#waiting.delete(call);
        for (const sent of [this.#inFlight, this.#behind]) {
          for (const [id, other] of sent) if (other === call) sent.delete(id);
        }
        this.#settled();
        reject(HawserError.fromStatus(7, `no answer within ${deadlineMs} ms`));
      }, deadlineMs);
      /** @type {Call} */
      const call = {
        send,
        stays,
        resolve: (answer) => (clearTimeout(timer), resolve(answer)),
        reject: (failure) => (clearTimeout(timer), reject(failure)),
      };
      if (connected) this.#put(call);
      else this.#waiting.add(call);
    });
  }

  /** There is a connection: what waited for it leaves, in order. */
  flush() {
    const calls = [...this.#waiting];
    this.#waiting.clear();
    calls.forEach((call) => this.#put(call));
  }

  /** @param {Call} call */
  #put(call) {
    const requestId = this.nextId();
    this.#inFlight.set(requestId, call);
    try {
      call.send(requestId);
    } catch (failure) {
      this.#inFlight.delete(requestId);
      call.reject(/** @type {HawserError} */ (failure));
    }
  }

  /** An answer came; one whose deadline has passed is dropped. @param {AnswerFrame} answer */
  answered(answer) {
    const { requestId, status, message } = answer.params;
    const call = this.#inFlight.get(requestId) ?? this.#behind.get(requestId);
    this.#inFlight.delete(requestId);
    this.#behind.delete(requestId);
    if (status === 0) call?.resolve(answer);
    else call?.reject(HawserError.fromStatus(status, message));
    this.#settled();
  }

  /** Nothing is in flight, or the time is over. @param {number} ms @returns {Promise<void>} */
  quiet(ms) {
    if (this.#inFlight.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const end = () => (clearTimeout(timer), this.#quiet.delete(end), resolve());
      const timer = setTimeout(end, ms);
      this.#quiet.add(end);
    });
  }

  #settled() {
    if (this.#inFlight.size === 0) this.#quiet.forEach((end) => end());
  }

  /** The device has moved: requests may still be answered where they were sent, joins are made anew. */
  moved() {
    const calls = [...this.#inFlight];
    this.#inFlight.clear();
    for (const [id, call] of calls) {
      if (call.stays) this.#behind.set(id, call);
      else call.reject(lost());
    }
  }

  /** Nothing is owed by the connection that was left. */
  get isQuietBehind() {
    return this.#behind.size === 0;
  }

  /** The connection that was left is gone. */
  lostBehind() {
    const calls = [...this.#behind.values()];
    this.#behind.clear();
    calls.forEach((call) => call.reject(lost()));
  }

  /** The connection is lost: what was sent may or may not have been handled. */
  lost() {
    const calls = [...this.#inFlight.values()];
    this.#inFlight.clear();
    calls.forEach((call) => call.reject(lost()));
    this.#settled();
  }

  /** Nothing will be sent any more. @param {HawserError} failure */
  end(failure) {
    const calls = [...this.#inFlight.values(), ...this.#behind.values(), ...this.#waiting];
    this.#inFlight.clear();
    this.#behind.clear();
    this.#waiting.clear();
    calls.forEach((call) => call.reject(failure));
  }
}

function lost() {
  return new HawserError("connection_lost", "the connection was lost before the answer came");
}
