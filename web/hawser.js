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
 * loss as the close code says, and re-joins its groups. A node that goes away says so first: then the client
 * logs in elsewhere while the old connection is still in use, and `onState` hears `online` once more, with
 * another `connection` and nothing in between.
 *
 * A *volatile* push that was made while the device was away is not seen. A *stored* one waits, and is handed
 * over in order, the next one when the handlers of the one before are done (a promise: when it is settled).
 * Then it is acknowledged, and never comes again, also after a reload. What is known to be lost is told:
 * {@link Business.onGap}. A group with a history goes on after a reconnect where it was.
 */
import { Calls } from "./calls.js";
import { CLOSE_CODES, HawserError } from "./codes.js";
import { Echoes } from "./echoes.js";
import { History } from "./history.js";
import { Inboxes } from "./inboxes.js";
import { Link } from "./link.js";
import { Answer, Push, bytesOf, checkRequest } from "./message.js";
import { Move, TWO_MOVES_MS } from "./move.js";
import { START, isStart } from "./position.js";
import { nextAttempt, webStore } from "./store.js";
import { Ticket } from "./ticket.js";
import { Way } from "./way.js";
import { Ability, FrameError, Kind, LEFT_REASONS, LOGIN_FRAME_BYTES_MAX, encodeFrame } from "./wire.js";

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
/** How long a goodbye waits for the last acknowledgement. */
const LAST_ACK_MS = 500;
/** What this client understands. Not ZSTD: a browser cannot make such bodies plain. */
const ABILITIES = Ability.INBOX | Ability.HISTORY | Ability.GO_AWAY | Ability.RESUME;
/** A connection that was left is closed at the latest after this long, */
const LINGER_MS = 30_000;
/** and is not kept for joins on the new one for longer than this. */
const JOINS_MS = 2_000;
/** A push of a live group may be this late on the new connection. */
const ECHO_MS = 5_000;
const SUPERSEDED = 4408;
/** Groups whose history is followed, those included that a business has put the device into. */
const HISTORIES_MAX = 2 * GROUPS_MAX;

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
 * @property {import("./store.js").Store} [store] where the instance id and the cursors live; `localStorage`
 * @property {typeof fetch} [fetch]
 * @property {typeof WebSocket} [WebSocket]
 * @property {() => number} [random]
 *
 * @typedef {{ metadata?: { [key: string]: string }, deadlineMs?: number }} RequestOptions
 *
 * Stored pushes that will not come. `reason`: `overflow`, `expired`, `too_large` or `purged`, with their number
 * at most; or, with 0 for *not known*, `term_changed` (the servers' store lost something) or `cursor_refused`
 * (the servers do not believe how far this device has come, and begin with what they have).
 * @typedef {{ reason: string, count: number }} Gap
 *
 * A connection that was left: whether its end waits for the joins on the new one, and whether BYE was said.
 * @typedef {{ link: Link, login: { [name: string]: any }, awaitsJoins: boolean, isLeft: boolean }} Old
 *
 * What is missing of a group: `count` pushes of a live group, for which the network was too slow; or, with 0 for
 * *not known*, what its history no longer holds.
 * @typedef {{ group: string, count: number }} Missed
 */

/** A handle on one business; from {@link Client.business}. */
export class Business {
  #client;
  /** @type {Set<(push: Push) => unknown>} */
  #handlers = new Set();
  /** @type {Set<(gap: Gap) => void>} */
  #gapHandlers = new Set();

  /** @param {Client} client @param {string} name */
  constructor(client, name) {
    this.#client = client;
    this.name = name;
  }

  /**
   * Calls `handler` for each push of this business. Returns a function that ends it.
   *
   * A stored push counts as handled when the promise that `handler` returned is settled; the next one
   * comes after that. One that is rejected counts too, and the page's error handler sees it: keep what you
   * could not take. Stored pushes wait until there is a handler.
   * @param {(push: Push) => unknown} handler
   */
  onPush(handler) {
    const end = subscribe(this.#handlers, handler);
    this.#client._listening(this.name);
    return end;
  }

  /**
   * Calls `handler` when stored pushes of this business are gone, or may be.
   * @param {(gap: Gap) => void} handler
   */
  onGap(handler) {
    return subscribe(this.#gapHandlers, handler);
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

  get _listened() {
    return this.#handlers.size > 0;
  }

  /** Done when all handlers are. @param {Push} push @returns {Promise<void>} */
  async _deliver(push) {
    const results = emit(this.#handlers, push);
    const failed = (/** @type {unknown} */ failure) => report(failure);
    await Promise.all(results.map((result) => Promise.resolve(result).catch(failed)));
  }

  /** @param {Gap} gap */
  _lost(gap) {
    emit(this.#gapHandlers, gap);
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
  /** How far this device has come in the groups that it is or was in. @type {Map<string, History>} */
  #histories = new Map();
  /** @type {Set<(missed: Missed) => void>} */
  #missedHandlers = new Set();
  #inboxes;
  /** What the last LOGIN named. @type {{ business: string, term: number | bigint, seq: number | bigint }[]} */
  #cursors = [];

  // === before the connection ===
  #stop = new AbortController();
  /** A time to come back was told; no network that comes back makes it shorter. */
  #isTold = false;
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
  #ticket = new Ticket();

  // === moving to another one ===
  /** @type {Move | null} */
  #move = null;
  /** When the last two moves began. */
  #moves = [-Infinity, -Infinity];
  /** The move says whether it found another place. @type {Promise<boolean>} */
  #moving = Promise.resolve(false);
  /** A LOGIN of a move that has given up may have won: the old connection has not said so yet. */
  #mayHaveWon = false;
  /** New requests wait for the new connection. */
  #holding = false;
  /** The connection that was left. @type {Old | null} */
  #old = null;
  /** Groups that are being joined on the connection in use. */
  #joining = 0;
  #switched = () => {};
  /** @type {Echoes | null} */
  #echoes = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #echoTimer;

  /** @param {Options} options */
  constructor(options) {
    this.#options = options;
    this.#store = options.store ?? webStore();
    this.#way = new Way(options, SDK, () => this.#ticket.forget());
    this.#inboxes = new Inboxes({
      store: this.#store,
      app: options.app,
      device: options.device,
      listening: (name) => this.#businesses.get(name)?._listened ?? false,
      deliver: async (name, push) => this.#businesses.get(name)?._deliver(push),
      lost: (name, gap) => this.#businesses.get(name)?._lost(gap),
      failed: report,
    });
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

  /**
   * Calls `handler` when pushes of a group did not reach this device.
   * @param {(missed: Missed) => void} handler
   */
  onMissed(handler) {
    return subscribe(this.#missedHandlers, handler);
  }

  /** Starts, or starts again after it was closed. */
  start() {
    if (this.#state !== "idle" && this.#state !== "closed") return;
    this.#onlineSince = null;
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
    const link = this.#link;
    this.#ticket.forget();
    this.#endMove();
    if (this.#inboxes.quiet) return link?.leave();
    const late = new Promise((resolve) => setTimeout(resolve, LAST_ACK_MS));
    void Promise.race([this.#inboxes.flush(), late]).then(() => link?.leave());
  }

  /**
   * Joins a group, now and after each reconnect, until {@link Client.leave} or until it is put out.
   * Resolves when the device is in. Rejects with a {@link HawserError} when the group is refused.
   * In a group with a history, pushes after `last` (the `position` of a push that was kept) come first;
   * without it, and the first time, it begins with what is pushed from now on.
   * @param {string} group
   * @param {{ deadlineMs?: number, last?: import("./position.js").Position }} [options]
   * @returns {Promise<{ group: string, business: string, history: boolean }>}
   */
  async join(group, { deadlineMs = JOIN_DEADLINE_MS, last } = {}) {
    if (this.#groups.size >= GROUPS_MAX && !this.#groups.has(group)) {
      throw HawserError.fromStatus(13, `at most ${GROUPS_MAX} groups`);
    }
    if (last && !this.#histories.has(group)) this.#histories.set(group, new History(last));
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
    try {
      if (!this.#login) return; // a lost connection has left everything
      await this.#call(deadlineMs, (requestId) => this.#send(Kind.LEAVE, { requestId, group }));
    } catch (failure) {
      const gone = ["not_member", "group_not_found", "connection_lost"];
      if (!(failure instanceof HawserError && gone.includes(failure.code))) throw failure;
    } finally {
      if (!this.#groups.has(group)) this.#histories.delete(group);
    }
  }

  /** Somebody takes the pushes of this business: what waited is handed over. @param {string} business */
  _listening(business) {
    void this.#inboxes.serve(business);
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
    }, true);
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
      this.#isTold = ended.retryAfterMs > 0 && ended.retry !== "elsewhere";
      const retryInMs = this.#way.ended({ ...ended, onlineMs });
      this.#set({ state: "waiting", ...cause, retryInMs });
      await this.#sleep(retryInMs, stop);
    }
  }

  /**
   * One try, from the access call to the end of its connection.
   * @param {AbortSignal} stop
   * @returns {Promise<{ cause: string, reason: string, retry: import("./codes.js").Retry, retryAfterMs: number,
   *   alternatives?: import("./access.js").AccessPoint[] }>}
   */
  async #connect(stop) {
    for (;;) {
      try {
        const { url, token, startAfterMs } = await this.#way.next(stop);
        if (startAfterMs > 0) await this.#sleep(startAfterMs, stop);
        const login = await this.#makeLogin(token, stop);
        this.#link = this.#dial(url, () => login);
      } catch (failure) {
        const { code, message, retryAfterMs, final } =
          failure instanceof HawserError ? failure : new HawserError("dial_failed", String(failure));
        return { cause: code, reason: message, retry: final ? "never" : "later", retryAfterMs };
      }
      const ended = await this.#untilEnd(stop);
      // The token that stands behind a ticket may do: here, and at once.
      if (!this.#ticketRefused(ended, stop)) return { ...ended, cause: CLOSE_CODES[ended.code] ?? "connection_lost" };
    }
  }

  /** @param {import("./link.js").Ended} ended @param {AbortSignal} stop */
  #ticketRefused(ended, stop) {
    const isToBlame = ended.retry === "new token" && this.#ticket.isToBlame();
    return isToBlame && this.#onlineSince === null && !stop.aborted;
  }

  /** @param {string} url @param {() => any} login */
  #dial(url, login) {
    /** @type {Link} */
    const link = new Link(url, {
      WebSocket: this.#options.WebSocket ?? globalThis.WebSocket,
      login,
      onFrame: (frame) => this.#heard(link, frame),
    });
    return link;
  }

  /**
   * A LOGIN with the next attempt, by ticket or token.
   * @param {string} token @param {AbortSignal} stop
   */
  async #makeLogin(token, stop) {
    const { app, device, businesses = [], appVersion = "" } = this.#options;
    const identity = await nextAttempt(this.#store, app, device);
    stop.throwIfAborted();
    const client = { sdk: SDK, platform: "web", network: "", appVersion };
    const cursors = await this.#inboxes.cursors(businesses);
    stop.throwIfAborted();
    const resumeTicket = this.#ticket.show();
    const login = { app, device, resumeTicket, ...identity, businesses, client, abilities: ABILITIES };
    // The token beside a ticket, too: a node of the release before knows no tickets.
    const frame = this.#encodeLogin({ ...login, token }, cursors);
    const fits = frame.length <= LOGIN_FRAME_BYTES_MAX && this.#cursors.length === cursors.length;
    return fits || resumeTicket.length === 0 ? frame : this.#encodeLogin(login, cursors);
  }

  /**
   * How the connection ended that was in use last, over all moves.
   * @param {AbortSignal} stop
   * @returns {Promise<import("./link.js").Ended>}
   */
  async #untilEnd(stop) {
    for (;;) {
      const link = /** @type {Link} */ (this.#link);
      const switched = new Promise((resolve) => (this.#switched = () => resolve(null)));
      const ended = await Promise.race([link.closed, switched]);
      if (ended === null || this.#link !== link) continue;
      const move = this.#move;
      const own = ended.code === SUPERSEDED && (this.#mayHaveWon || move?.mayHaveWon);
      const goesOn = own || !["never", "new token"].includes(ended.retry);
      if (goesOn && move?.isNear && !stop.aborted) {
        // The new connection is the only one now, and as good as there.
        const wasOnline = this.#onlineSince;
        move.noWayBack();
        this.#disconnected();
        if (!own) this.#set({ state: "connecting" });
        if (await this.#moving) continue;
        this.#onlineSince = wasOnline;
      }
      const superseded = move?.superseded;
      this.#endMove();
      if (this.#link === link) this.#disconnected();
      if (superseded) return superseded;
      return own ? { ...ended, retry: "now" } : ended;
    }
  }

  // === moving ===

  /** @param {any} told */
  #goAway(told) {
    if (!(this.#login?.abilities & Ability.GO_AWAY)) return;
    if (this.#move) return this.#move.again(told);
    const stop = this.#stop.signal;
    const move = new Move({
      points: (named, signal) => (this.#beginRound(), this.#way.others(named, signal)),
      dial: async (step, ready) => {
        const link = this.#dial(step.url, async () => {
          await ready();
          return this.#makeLogin(step.token, stop);
        });
        this.#step = step;
        return link;
      },
      answered: (ms) => this.#calls.quiet(ms),
      hold: (on) => this.#hold(on),
      refused: (ended) => {
        if (ended.retry !== "new token") return false;
        if (this.#ticket.isToBlame()) return true;
        this.#way.refused();
        return false;
      },
      random: this.#options.random,
    });
    this.#move = move;
    // The connection that was left before, which this move drops, may still owe answers.
    const patienceMs = this.#calls.isQuietBehind ? 0 : Math.min(told.deadlineMs, LINGER_MS) / 3;
    const begins = Math.max(Date.now() + patienceMs, this.#moves[0] + TWO_MOVES_MS);
    this.#moves = [this.#moves[1], begins];
    this.#moving = move.run(told, begins).then((arrived) => {
      if (this.#move === move && !arrived) this.#gaveUp(move);
      return arrived;
    });
  }

  /** Where the new connection leads. @type {import("./way.js").Step | null} */
  #step = null;

  #beginRound() {
    if (this.#old) this.#oldGone(this.#old);
    clearTimeout(this.#echoTimer);
    this.#echoes ??= new Echoes();
  }

  /** @param {Move} move */
  #gaveUp(move) {
    this.#move = null;
    this.#mayHaveWon ||= move.mayHaveWon;
    this.#forgetEchoes();
    // This login had won, and a newer one has taken over.
    if (move.superseded) this.#link?.end(move.superseded);
  }

  #forgetEchoes() {
    clearTimeout(this.#echoTimer);
    this.#echoTimer = setTimeout(() => (this.#echoes = null), ECHO_MS);
  }

  /** @param {boolean} on */
  #hold(on) {
    this.#holding = on;
    if (!on && this.#login) this.#calls.flush();
  }

  #endMove() {
    this.#move?.cancel();
    this.#move = null;
    this.#mayHaveWon = false;
    this.#holding = false;
    if (this.#old) this.#oldGone(this.#old);
  }

  /** LOGIN_OK on the new connection: it is the one in use. @param {Link} link @param {{ [name: string]: any }} login */
  #moved(link, login) {
    const [hadLink, hadLogin] = [this.#link, this.#login];
    /** @type {Old | null} */
    const old = hadLink && hadLogin ? { link: hadLink, login: hadLogin, awaitsJoins: true, isLeft: false } : null;
    const move = this.#move;
    if (this.#step) this.#way.moved(this.#step, Date.now() - (this.#onlineSince ?? Date.now()));
    this.#move = null;
    this.#holding = false;
    this.#link = link;
    this.#login = null;
    this.#inboxes.disconnected();
    this.#calls.moved();
    this.#old = old;
    this.#loggedIn(login);
    move?.arrived();
    this.#switched();
    if (!old) return this.#forgetEchoes();
    void old.link.closed.then(() => this.#oldGone(old));
    setTimeout(() => this.#leaveOld(old, true), LINGER_MS);
    setTimeout(() => ((old.awaitsJoins = false), this.#leaveOld(old)), JOINS_MS);
    this.#leaveOld(old);
  }

  /** Says goodbye when nothing is owed any more. @param {Old} old @param {boolean} [now] */
  #leaveOld(old, now = false) {
    if (this.#old !== old || old.isLeft) return;
    const isJoining = old.awaitsJoins && this.#joining > 0;
    if (!now && (isJoining || !this.#calls.isQuietBehind)) return;
    old.isLeft = true;
    old.link.leaveSoon();
  }

  /** @param {Old} old */
  #oldGone(old) {
    if (this.#old !== old) return;
    this.#old = null;
    old.link.leave();
    this.#calls.lostBehind();
    this.#forgetEchoes();
  }

  /** What the connection that was left still brings. @param {import("./wire.js").Frame} frame */
  #heardBehind(frame) {
    const old = /** @type {Old} */ (this.#old);
    const params = /** @type {{ [name: string]: any }} */ (frame.params);
    if (frame.kind === Kind.RESPONSE) {
      this.#calls.answered({ ...frame, params });
      return this.#leaveOld(old);
    }
    if (frame.kind === Kind.LEFT && params.requestId === 0 && this.#groups.has(params.group)) {
      this.#putOut(/** @type {any} */ (params));
      this.#link?.send(encodeFrame(Kind.LEAVE, { requestId: this.#calls.nextId(), group: params.group }));
    }
    if (frame.kind !== Kind.PUSH && frame.kind !== Kind.GROUP_PUSH) return;
    const served = (/** @type {any} */ it) => it.status === 0 && it.number === params.business;
    const name = old.login.businesses.find(served)?.name;
    if (!name) return;
    const push = new Push(params, frame.body, name);
    if (push.stored) return; // the new connection brings it
    if (push.group !== null && push.position !== null) {
      const prev = { term: params.prevTerm, seq: params.prevSeq };
      if (!this.#histories.get(push.group)?.offerBehind(push.position, prev)) return;
    } else if (push.group !== null && this.#echoes?.isEcho(old.link, push.group, params.pushId)) return;
    void this.#businesses.get(name)?._deliver(push);
  }

  /**
   * LOGIN with as many cursors as it has room for; what is left out comes again, and is dropped here.
   * @param {{ [name: string]: any }} login
   * @param {{ business: string, term: number | bigint, seq: number | bigint }[]} cursors
   */
  #encodeLogin(login, cursors) {
    for (;;) {
      const frame = encodeFrame(Kind.LOGIN, { ...login, cursors });
      this.#cursors = cursors;
      if (frame.length <= LOGIN_FRAME_BYTES_MAX || cursors.length === 0) return frame;
      cursors = cursors.slice(0, -1);
    }
  }

  #networkCameBack() {
    if (this.#state !== "waiting") this.#link?.probe();
    else if (!this.#isTold) this.#wake();
  }

  // === what the node says ===

  /** @param {Link} link @param {import("./wire.js").Frame} frame */
  #heard(link, frame) {
    if (link === this.#link) return this.#received(frame);
    if (link === this.#old?.link) return this.#heardBehind(frame);
    const isNew = link === this.#move?.link && frame.kind === Kind.LOGIN_OK;
    if (isNew) this.#moved(link, /** @type {{ [name: string]: any }} */ (frame.params));
  }

  /** @param {import("./wire.js").Frame} frame */
  #received(frame) {
    const params = /** @type {{ [name: string]: any }} */ (frame.params);
    switch (frame.kind) {
      case Kind.LOGIN_OK: return this.#loggedIn(params);
      case Kind.RESPONSE: return this.#calls.answered({ ...frame, params });
      case Kind.JOINED:
        this.#joined(params);
        return this.#calls.answered({ ...frame, params });
      case Kind.LEFT:
        return params.requestId === 0 ? this.#putOut(params) : this.#calls.answered({ ...frame, params });
      case Kind.REFRESHED: return this.#refreshed(params);
      case Kind.PUSH:
      case Kind.GROUP_PUSH: {
        const name = this.#nameOf(params.business);
        if (name !== "") this.#pushed(new Push(params, frame.body, name), params);
        return;
      }
      case Kind.GAP: {
        const name = this.#nameOf(params.business);
        if (name !== "") this.#inboxes.gap(name, params);
        return;
      }
      case Kind.MISSED:
        return emit(this.#missedHandlers, { group: params.group, count: Number(params.count) });
      case Kind.GROUP_RESET: return this.#reset(params);
      case Kind.GO_AWAY: return this.#goAway(params);
      default: // PONG: the link has noted the sign of life
    }
  }

  /** @param {{ [name: string]: any }} login */
  #loggedIn(login) {
    this.#login = login;
    this.#mayHaveWon = false;
    this.#onlineSince = Date.now();
    this.#link?.loggedIn(login.heartbeatMs);
    this.#way.window(login.reconnectWindowMs);
    this.#ticket.given(login.abilities & Ability.RESUME ? login.resumeTicket : new Uint8Array());
    this.#planRefresh(login);
    this.#inboxes.connected(this.#inboxWire(login), this.#cursors, this.#told(login));
    for (const history of this.#histories.values()) history.connected();
    this.#set({ state: "online", connection: login.connection });
    this.#joining = 0;
    for (const group of this.#groups) this.#rejoin(group);
    this.#calls.flush();
  }

  /** @param {{ [name: string]: any }} login @returns {import("./inboxes.js").Wire | null} */
  #inboxWire(login) {
    if (!(login.abilities & Ability.INBOX)) return null;
    return {
      numberOf: (name) => login.businesses.find((/** @type {any} */ it) => it.name === name)?.number ?? 0,
      ack: (inboxes) => this.#link?.send(encodeFrame(Kind.ACK, { inboxes })) ?? false,
      resync: (after) => void this.#link?.send(encodeFrame(Kind.RESYNC, { after })),
    };
  }

  /** @param {{ [name: string]: any }} login */
  #told(login) {
    return login.inboxes.map((/** @type {any} */ it) => ({ ...it, business: this.#nameOf(it.business) }));
  }

  /** @param {Push} push @param {{ [name: string]: any }} params */
  #pushed(push, params) {
    const prev = { term: params.prevTerm, seq: params.prevSeq };
    if (push.stored) return this.#inboxes.push(push.business, push, prev);
    if (push.group !== null && push.position !== null) {
      const offered = this.#history(push.group).offer(push.position, prev, Date.now());
      if (offered === "recover") this.#recover(push.group);
      if (offered !== "new") return;
    } else if (push.group !== null && this.#echoes?.isEcho(this.#link, push.group, params.pushId)) return;
    void this.#businesses.get(push.business)?._deliver(push);
  }

  // === histories of groups ===

  /** @param {string} group */
  #history(group) {
    let history = this.#histories.get(group);
    if (history) return history;
    for (const other of this.#histories.keys()) {
      if (this.#histories.size < HISTORIES_MAX) break;
      if (!this.#groups.has(other)) this.#histories.delete(other);
    }
    this.#histories.set(group, (history = new History()));
    return history;
  }

  /** @param {{ [name: string]: any }} joined */
  #joined({ requestId, group, status, history, tailTerm, tailSeq }) {
    // A node that knows no histories says nothing of this one: another node may.
    if (status !== 0 || !(this.#login?.abilities & Ability.HISTORY)) return;
    const tail = { term: tailTerm, seq: tailSeq };
    const missing = this.#history(group).joined({ history, tail, asked: requestId !== 0, now: Date.now() });
    if (missing) this.#recover(group);
  }

  /** @param {string} group */
  #recover(group) {
    if (!(this.#login?.abilities & Ability.HISTORY)) return;
    this.#link?.send(encodeFrame(Kind.RECOVER, { group, ...this.#history(group).last }));
  }

  /** @param {{ [name: string]: any }} reset */
  #reset({ group, floorTerm, floorSeq, tailTerm, tailSeq }) {
    const history = this.#histories.get(group);
    const lost = history?.reset({ term: floorTerm, seq: floorSeq }, { term: tailTerm, seq: tailSeq });
    if (lost) emit(this.#missedHandlers, { group, count: 0 });
  }

  /** @param {string} group */
  #rejoin(group) {
    const login = this.#login;
    this.#joining += 1;
    const done = () => {
      if (this.#login !== login) return;
      this.#joining -= 1;
      if (this.#old) this.#leaveOld(this.#old);
    };
    const joined = this.#join(group, JOIN_DEADLINE_MS);
    joined.then(done, done);
    joined.catch((/** @type {HawserError} */ failure) => {
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
    this.#histories.delete(group);
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
    // Also when there is none: the one before speaks for the old token, and ends with it.
    this.#ticket.given(refreshed.resumeTicket);
    this.#planRefresh(refreshed);
  }

  /** The node's clock. */
  #serverNow() {
    return this.#login?.serverTimeMs + Date.now() - (this.#onlineSince ?? 0);
  }

  #disconnected() {
    this.#link = null;
    this.#mayHaveWon = false;
    this.#holding = false;
    this.#login = null;
    this.#inboxes.disconnected();
    clearTimeout(this.#refreshTimer);
    this.#calls.lost();
  }

  // === calls ===

  /**
   * Sends now or when there is a connection, and waits for the answer.
   * @param {number} deadlineMs @param {(requestId: number) => void} send
   * @param {boolean} [isRequest] not a join or leave, which each connection has of its own
   */
  async #call(deadlineMs, send, isRequest = false) {
    if (this.#state === "closed") throw new HawserError("closed", "the client is closed");
    const isReady = this.#login !== null && !(this.#holding && isRequest);
    return this.#calls.start(isReady, deadlineMs, send, isRequest);
  }

  /** @param {string} group @param {number} deadlineMs */
  async #join(group, deadlineMs) {
    try {
      const joined = await this.#call(deadlineMs, (requestId) => {
        const { term, seq } = this.#histories.get(group)?.last ?? START;
        this.#send(Kind.JOIN, { requestId, group, lastTerm: term, lastSeq: seq });
      });
      this.#groups.add(group);
      const { business, history } = joined.params;
      return { group, business: this.#nameOf(business), history };
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

/** @template T @param {Set<(value: T) => unknown>} handlers @param {(value: T) => unknown} handler */
function subscribe(handlers, handler) {
  handlers.add(handler);
  return () => void handlers.delete(handler);
}

/**
 * A handler that throws harms neither the others nor the connection; the page's error handler sees it.
 * @template T @param {Set<(value: T) => unknown>} handlers @param {T} value
 * @returns {unknown[]} what they returned
 */
function emit(handlers, value) {
  /** @type {unknown[]} */
  const results = [];
  for (const handler of [...handlers]) {
    try {
      results.push(handler(value));
    } catch (failure) {
      report(failure);
    }
  }
  return results;
}

/** Shows a failure that nobody waits for to the page's error handler. @param {unknown} failure */
function report(failure) {
  queueMicrotask(() => {
    throw failure;
  });
}
