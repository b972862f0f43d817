// @ts-check
/**
 * hawser for browsers: one connection, many businesses, no dependencies.
 *
 * ```js
 * import { Client } from "./hawser.js";
 *
 * const client = new Client({ control: "http://127.0.0.1:8080", app: "demo", device: "web-1" });
 * const chat = client.business("chat");
 * chat.onPush((push) => console.log(push.group, push.text()));
 * client.onState(({ state }) => console.log(state));
 * client.start();
 * await client.join("lobby");
 * const answer = await chat.request("echo", "hello");
 * console.log(answer.text());
 * ```
 *
 * The client connects, logs in, keeps the connection alive, refreshes its token, comes back after every
 * loss as the close code says, and re-joins its groups. Pushes are volatile: what was pushed while the
 * device was away is not seen.
 */
import { Calls } from "./calls.js";
import { CLOSE_CODES, HawserError } from "./codes.js";
import { Link } from "./link.js";
import { Answer, Push, bytesOf, checkRequest } from "./message.js";
import { nextAttempt, webStore } from "./store.js";
import { Way } from "./way.js";
import { FrameError, Kind, LEFT_REASONS, encodeFrame } from "./wire.js";

export { CLOSE_CODES, ERROR_CODES, HawserError, retryOf } from "./codes.js";
export { Answer, Push } from "./message.js";
export { memoryStore, webStore } from "./store.js";

const SDK = "hawser-web/0.1.0";
const REQUEST_DEADLINE_MS = 10_000;
const JOIN_DEADLINE_MS = 15_000;
const GROUPS_MAX = 100;
/** Troubles that do not take a device's wish to be in a group away. */
const PASSING = ["connection_lost", "deadline_exceeded", "unavailable", "overloaded"];
const REJOIN_RETRY_MS = 5_000;
/** However short a token lives, it is not refreshed more often. */
const REFRESH_MS_MIN = 1_000;
const REFRESH_RETRY_MS = 60_000;
/** Longest time a browser's timer takes. */
const TIMER_MS_MAX = 2 ** 31 - 1;

/**
 * - `idle`: not started
 * - `connecting`: asking control, dialling or logging in
 * - `online`: logged in
 * - `waiting`: the connection was lost; the next try comes in `retryInMs`
 * - `closed`: closed by {@link Client.close}, or ended for a reason that another try would not change
 * @typedef {"idle" | "connecting" | "online" | "waiting" | "closed"} State
 *
 * @typedef {object} StateChange
 * @property {State} state
 * @property {string} [cause] published name of why the last connection or try ended
 * @property {string} [reason] the same for people
 * @property {number} [retryInMs]
 * @property {string} [connection] id of the connection, for support
 *
 * @typedef {object} Options
 * @property {string} control control's address
 * @property {string} app
 * @property {string} device id of this installation within the app
 * @property {string[]} [businesses] which businesses to serve; none: all the device may
 * @property {import("./access.js").Proof | (() => import("./access.js").Proof | Promise<import("./access.js").Proof>)} [proof]
 *   how the device proves itself; open (development only) when left out
 * @property {string} [appVersion]
 * @property {import("./store.js").Store} [store] where the instance id lives; `localStorage`
 * @property {typeof fetch} [fetch]
 * @property {typeof WebSocket} [WebSocket]
 * @property {() => number} [random]
 *
 * @typedef {{ metadata?: { [key: string]: string }, deadlineMs?: number }} RequestOptions
 */

/** A handle on one business; from {@link Client.business}. */
export class Business {
  #client;
  /** @type {Set<(push: Push) => void>} */
  #handlers = new Set();

  /** @param {Client} client @param {string} name */
  constructor(client, name) {
    this.#client = client;
    this.name = name;
  }

  /**
   * Calls `handler` for each push of this business. Returns a function that ends it.
   * @param {(push: Push) => void} handler
   */
  onPush(handler) {
    return subscribe(this.#handlers, handler);
  }

  /**
   * Asks the business for something. Waits for a connection if there is none; sent at most once.
   * Rejects with a {@link HawserError} at the latest after `deadlineMs`.
   * @param {string} method @param {Uint8Array | string} [body] @param {RequestOptions} [options]
   * @returns {Promise<Answer>}
   */
  request(method, body = "", options = {}) {
    return this.#client._request(this.name, method, body, options);
  }

  /** @param {Push} push */
  _deliver(push) {
    emit(this.#handlers, push);
  }
}

/** One device of one app: its connection, its businesses and its groups. */
export class Client {
  #options;
  #store;
  #way;
  /** @type {State} */
  #state = "idle";
  /** @type {Set<(change: StateChange) => void>} */
  #stateHandlers = new Set();
  /** @type {Set<(left: { group: string, reason: string }) => void>} */
  #leftHandlers = new Set();
  /** @type {Map<string, Business>} */
  #businesses = new Map();
  /** Groups this device wants to be in, over all connections. @type {Set<string>} */
  #groups = new Set();

  // === before the connection ===
  #stop = new AbortController();
  /** Ends the wait before the next try. */
  #wake = () => {};

  // === the connection ===
  /** @type {Link | null} */
  #link = null;
  /** @type {{ [name: string]: any } | null} */
  #login = null;
  /** When this connection logged in. @type {number | null} */
  #onlineSince = null;
  #calls = new Calls();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #refreshTimer;

  /** @param {Options} options */
  constructor(options) {
    this.#options = options;
    this.#store = options.store ?? webStore();
    this.#way = new Way(options, SDK);
  }

  get state() {
    return this.#state;
  }

  /** A handle on a business; the same one for the same name. @param {string} name */
  business(name) {
    let business = this.#businesses.get(name);
    if (!business) this.#businesses.set(name, (business = new Business(this, name)));
    return business;
  }

  /** Calls `handler` at each change of state. @param {(change: StateChange) => void} handler */
  onState(handler) {
    return subscribe(this.#stateHandlers, handler);
  }

  /**
   * Calls `handler` when a membership ended without being asked: `removed`, `kicked`, `group_deleted`,
   * or the code that refused a re-join.
   * @param {(left: { group: string, reason: string }) => void} handler
   */
  onLeft(handler) {
    return subscribe(this.#leftHandlers, handler);
  }

  /** Starts, or starts again after it was closed. */
  start() {
    if (this.#state !== "idle" && this.#state !== "closed") return;
    this.#stop = new AbortController();
    const signal = this.#stop.signal;
    const target = /** @type {any} */ (globalThis);
    target.addEventListener?.("online", () => this.#networkCameBack(), { signal });
    target.document?.addEventListener(
      "visibilitychange",
      () => target.document.visibilityState === "visible" && this.#networkCameBack(),
      { signal },
    );
    this.#set({ state: "connecting" });
    void this.#run(signal);
  }

  /** Says goodbye and stays away. Everything that waits is rejected with `closed`. */
  close() {
    if (this.#state === "idle" || this.#state === "closed") return;
    this.#finish({ cause: "goodbye" }, new HawserError("closed", "the client was closed"));
    this.#link?.leave();
  }

  /**
   * Joins a group, now and after each reconnect, until {@link Client.leave} or until it is put out.
   * Resolves when the device is in. Rejects with a {@link HawserError} when the group is refused.
   * @param {string} group @param {{ deadlineMs?: number }} [options]
   * @returns {Promise<{ group: string, business: string }>}
   */
  async join(group, { deadlineMs = JOIN_DEADLINE_MS } = {}) {
    if (this.#groups.size >= GROUPS_MAX && !this.#groups.has(group)) {
      throw HawserError.fromStatus(13, `at most ${GROUPS_MAX} groups`);
    }
    const until = Date.now() + deadlineMs;
    for (;;) {
      try {
        return await this.#join(group, until - Date.now());
      } catch (failure) {
        // A join may be repeated: the next connection does it, within the same deadline.
        const again = failure instanceof HawserError && failure.code === "connection_lost";
        if (!again || Date.now() >= until) throw failure;
      }
    }
  }

  /**
   * Leaves a group. Resolves also when the device was not in.
   * @param {string} group @param {{ deadlineMs?: number }} [options]
   */
  async leave(group, { deadlineMs = JOIN_DEADLINE_MS } = {}) {
    this.#groups.delete(group);
    if (!this.#login) return; // a lost connection has left everything
    try {
      await this.#call(deadlineMs, (requestId) => this.#send(Kind.LEAVE, { requestId, group }));
    } catch (failure) {
      const gone = ["not_member", "group_not_found", "connection_lost"];
      if (!(failure instanceof HawserError && gone.includes(failure.code))) throw failure;
    }
  }

  /**
   * @param {string} business @param {string} method @param {Uint8Array | string} body
   * @param {RequestOptions} options
   * @returns {Promise<Answer>}
   */
  async _request(business, method, body, { metadata = {}, deadlineMs = REQUEST_DEADLINE_MS }) {
    checkRequest(method, metadata);
    const bytes = bytesOf(body);
    const until = Date.now() + deadlineMs;
    const { params, body: answer } = await this.#call(deadlineMs, (requestId) => {
      const number = this.#numberOf(business);
      const left = Math.max(1, until - Date.now());
      const request = { requestId, business: number, method, metadata, deadlineMs: left };
      this.#send(Kind.REQUEST, request, bytes);
    });
    return new Answer(answer, params.metadata);
  }

  // === the run: try, hold, wait, again ===

  /** @param {AbortSignal} stop */
  async #run(stop) {
    while (!stop.aborted) {
      this.#set({ state: "connecting" });
      const ended = await this.#connect(stop);
      if (stop.aborted) return;
      const onlineMs = this.#onlineSince === null ? 0 : Math.max(1, Date.now() - this.#onlineSince);
      this.#onlineSince = null;
      const cause = { cause: ended.cause, reason: ended.reason };
      if (ended.retry === "never") {
        this.#finish(cause, new HawserError("closed", `${ended.cause}: ${ended.reason}`));
        return;
      }
      const retryInMs = this.#way.ended({ ...ended, onlineMs });
      this.#set({ state: "waiting", ...cause, retryInMs });
      await this.#sleep(retryInMs, stop);
    }
  }

  /**
   * One try, from the access call to the end of its connection.
   * @param {AbortSignal} stop
   * @returns {Promise<{ cause: string, reason: string, retry: import("./codes.js").Retry, retryAfterMs: number }>}
   */
  async #connect(stop) {
    const { app, device, businesses = [], appVersion = "" } = this.#options;
    let link;
    try {
      const { url, token, startAfterMs } = await this.#way.next(stop);
      if (startAfterMs > 0) await this.#sleep(startAfterMs, stop);
      const identity = await nextAttempt(this.#store, app, device);
      stop.throwIfAborted();
      const client = { sdk: SDK, platform: "web", network: "", appVersion };
      const login = encodeFrame(Kind.LOGIN, { app, device, token, ...identity, businesses, client });
      link = new Link(url, {
        WebSocket: this.#options.WebSocket ?? globalThis.WebSocket,
        login,
        onFrame: (frame) => this.#received(frame),
      });
    } catch (failure) {
      const { code, message, retryAfterMs, final } =
        failure instanceof HawserError ? failure : new HawserError("dial_failed", String(failure));
      return { cause: code, reason: message, retry: final ? "never" : "later", retryAfterMs };
    }
    this.#link = link;
    const ended = await link.closed;
    if (this.#link === link) this.#disconnected();
    return { ...ended, cause: CLOSE_CODES[ended.code] ?? "connection_lost" };
  }

  #networkCameBack() {
    if (this.#state === "waiting") this.#wake();
    else this.#link?.probe();
  }

  // === what the node says ===

  /** @param {import("./wire.js").Frame} frame */
  #received(frame) {
    const params = /** @type {{ [name: string]: any }} */ (frame.params);
    switch (frame.kind) {
      case Kind.LOGIN_OK: return this.#loggedIn(params);
      case Kind.RESPONSE:
      case Kind.JOINED: return this.#calls.answered({ ...frame, params });
      case Kind.LEFT:
        return params.requestId === 0 ? this.#putOut(params) : this.#calls.answered({ ...frame, params });
      case Kind.REFRESHED: return this.#refreshed(params);
      case Kind.PUSH:
      case Kind.GROUP_PUSH: {
        const name = this.#nameOf(params.business);
        return this.#businesses.get(name)?._deliver(new Push(params, frame.body, name));
      }
      default: // PONG: the link has noted the sign of life
    }
  }

  /** @param {{ [name: string]: any }} login */
  #loggedIn(login) {
    this.#login = login;
    this.#onlineSince = Date.now();
    this.#link?.loggedIn(login.heartbeatMs);
    this.#planRefresh(login);
    this.#set({ state: "online", connection: login.connection });
    for (const group of this.#groups) this.#rejoin(group);
    this.#calls.flush();
  }

  /** @param {string} group */
  #rejoin(group) {
    const login = this.#login;
    this.#join(group, JOIN_DEADLINE_MS).catch((/** @type {HawserError} */ failure) => {
      if (this.#state === "closed") return;
      if (!PASSING.includes(failure.code)) return emit(this.#leftHandlers, { group, reason: failure.code });
      // The wish stays: tried again on this connection, and on the next.
      this.#groups.add(group);
      const again = () => this.#login === login && this.#groups.has(group) && this.#rejoin(group);
      if (this.#login === login) setTimeout(again, REJOIN_RETRY_MS);
    });
  }

  /** @param {{ [name: string]: any }} left */
  #putOut({ group, reason }) {
    this.#groups.delete(group);
    emit(this.#leftHandlers, { group, reason: LEFT_REASONS[reason] || "removed" });
  }

  /**
   * Refreshes when the node said, spread over a tenth of the time that is left then.
   * @param {{ [name: string]: any }} times with `tokenRefreshAtMs` and `tokenExpiresAtMs`
   */
  #planRefresh({ tokenRefreshAtMs, tokenExpiresAtMs }) {
    const spread = (this.#options.random ?? Math.random)() * (tokenExpiresAtMs - tokenRefreshAtMs) * 0.1;
    this.#refreshIn(Math.max(REFRESH_MS_MIN, tokenRefreshAtMs + spread - this.#serverNow()));
  }

  /** @param {number} ms */
  #refreshIn(ms) {
    clearTimeout(this.#refreshTimer);
    if (!(ms < TIMER_MS_MAX)) return;
    this.#refreshTimer = setTimeout(() => {
      this.#link?.send(encodeFrame(Kind.REFRESH, { requestId: this.#calls.nextId() }));
      this.#refreshIn(REFRESH_RETRY_MS); // until REFRESHED plans better
    }, ms);
  }

  /** @param {{ [name: string]: any }} refreshed */
  #refreshed(refreshed) {
    if (refreshed.status !== 0) return; // tried again, as long as the connection lives
    this.#way.refreshed(refreshed.token, refreshed.tokenExpiresAtMs - this.#serverNow());
    this.#planRefresh(refreshed);
  }

  /** The node's clock. */
  #serverNow() {
    return this.#login?.serverTimeMs + Date.now() - (this.#onlineSince ?? 0);
  }

  #disconnected() {
    this.#link = null;
    this.#login = null;
    clearTimeout(this.#refreshTimer);
    this.#calls.lost();
  }

  // === calls ===

  /**
   * Sends now or when there is a connection, and waits for the answer.
   * @param {number} deadlineMs @param {(requestId: number) => void} send
   */
  async #call(deadlineMs, send) {
    if (this.#state === "closed") throw new HawserError("closed", "the client is closed");
    return this.#calls.start(this.#login !== null, deadlineMs, send);
  }

  /** @param {string} group @param {number} deadlineMs */
  async #join(group, deadlineMs) {
    try {
      const joined = await this.#call(deadlineMs, (requestId) =>
        this.#send(Kind.JOIN, { requestId, group }),
      );
      this.#groups.add(group);
      return { group, business: this.#nameOf(joined.params.business) };
    } catch (failure) {
      this.#groups.delete(group);
      throw failure;
    }
  }

  /** @param {number} kind @param {{ [name: string]: any }} params @param {Uint8Array} [body] */
  #send(kind, params, body) {
    const max = this.#login?.frameBytesMax || Infinity;
    let frame;
    try {
      frame = encodeFrame(kind, params, body);
    } catch (failure) {
      if (!(failure instanceof FrameError)) throw HawserError.fromStatus(1, String(failure));
    }
    if (!frame || frame.length > max) throw HawserError.fromStatus(9, `a frame is at most ${max} bytes`);
    if (!this.#link?.send(frame)) {
      throw HawserError.fromStatus(6, "the network is slower than what is sent");
    }
  }

  /** @param {string} business @returns {number} */
  #numberOf(business) {
    const entry = this.#login?.businesses.find((/** @type {any} */ it) => it.name === business);
    if (!entry) throw HawserError.fromStatus(10, `this connection does not serve ${business}`);
    if (entry.status !== 0) throw HawserError.fromStatus(entry.status, `${business} is refused`);
    return entry.number;
  }

  /** @param {number} number @returns {string} */
  #nameOf(number) {
    const served = (/** @type {any} */ it) => it.status === 0 && it.number === number;
    return this.#login?.businesses.find(served)?.name ?? "";
  }

  // === states ===

  /** @param {StateChange} change */
  #set(change) {
    if (this.#state === "connecting" && change.state === "connecting") return;
    this.#state = change.state;
    emit(this.#stateHandlers, change);
  }

  /** @param {{ cause: string, reason?: string }} cause @param {HawserError} failure */
  #finish(cause, failure) {
    this.#stop.abort();
    this.#wake();
    this.#set({ state: "closed", ...cause });
    this.#calls.end(failure);
  }

  /** @param {number} ms @param {AbortSignal} stop @returns {Promise<void>} */
  async #sleep(ms, stop) {
    if (stop.aborted) return;
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => (clearTimeout(timer), resolve(undefined));
    });
    this.#wake = () => {};
  }
}

/** @template T @param {Set<(value: T) => void>} handlers @param {(value: T) => void} handler */
function subscribe(handlers, handler) {
  handlers.add(handler);
  return () => void handlers.delete(handler);
}

/**
 * A handler that throws harms neither the others nor the connection; the page's error handler sees it.
 * @template T @param {Set<(value: T) => void>} handlers @param {T} value
 */
function emit(handlers, value) {
  for (const handler of [...handlers]) {
    try {
      handler(value);
    } catch (failure) {
      queueMicrotask(() => {
        throw failure;
      });
    }
  }
}
