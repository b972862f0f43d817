// A control and an access node in memory, and a clock that stands still: enough to lead a client through
// its life without waiting.
import { webcrypto } from "node:crypto";
import { Client, memoryStore } from "../hawser.js";
import { Kind, decodeFrame, encodeFrame } from "../wire.js";

// Older Node has it only in a module; browsers have it everywhere.
globalThis.crypto ??= webcrypto;

/** Stands in for the page's clock and timers. */
class Clock {
  #real = { setTimeout, clearTimeout, now: Date.now };
  #now = 1e12;
  #timers = new Map();
  #lastId = 0;

  start() {
    globalThis.setTimeout = (callback, ms = 0) => {
      this.#timers.set(++this.#lastId, { at: this.#now + Math.max(1, ms), callback });
      return this.#lastId;
    };
    globalThis.clearTimeout = (id) => void this.#timers.delete(id);
    Date.now = () => this.#now;
  }

  stop() {
    const { now, ...timers } = this.#real;
    Object.assign(globalThis, timers);
    Date.now = now;
    this.#timers.clear();
  }

  /** The timer that is due next, within `until`. */
  #due(until) {
    const due = [...this.#timers].filter(([, { at }]) => at <= until);
    return due.sort(([a, x], [b, y]) => x.at - y.at || a - b)[0];
  }

  /** Lets time pass; whatever follows from a timer can set the next one. */
  async pass(ms) {
    const until = this.#now + ms;
    await settle();
    for (let next = this.#due(until); next; next = this.#due(until)) {
      const [id, { at, callback }] = next;
      this.#timers.delete(id);
      this.#now = at;
      callback();
      await settle();
    }
    this.#now = until;
  }
}

export const clock = new Clock();
export const pass = (ms) => clock.pass(ms);

/** Lets everything that is due happen, without any time passing. */
export async function settle() {
  for (let i = 0; i < 50; i++) await Promise.resolve();
}

export class House {
  accessCalls = [];
  sockets = [];
  states = [];
  /** What is no address to a browser. */
  malformed = [];
  store = memoryStore();
  /** What control answers; a function of the call. */
  access = () => ({
    status: 200,
    body: {
      token: `token-${this.accessCalls.length}`,
      issued_at_ms: 1_000,
      refresh_at_ms: 1_801_000,
      expires_at_ms: 3_601_000,
      access_points: [
        { protocol: "tcp", host: "127.0.0.1", port: 7100 },
        { protocol: "ws", host: "127.0.0.1", port: 7102 },
        { protocol: "wss", host: "::1", port: 7103 },
      ],
      backoff: { base_ms: 500, max_ms: 30_000, factor: 2, jitter: 0.5 },
      reconnect_window_ms: 1_000,
    },
  });

  client(options = {}) {
    const house = this;
    class Socket {
      readyState = 0;
      bufferedAmount = 0;
      sent = [];
      constructor(url, protocols) {
        if (house.malformed.includes(url)) throw new SyntaxError(url);
        Object.assign(this, { url, protocols });
        house.sockets.push(this);
      }
      send(bytes) {
        this.sent.push(decodeFrame(new Uint8Array(bytes)));
      }
      close() {
        this.readyState = 3;
      }
      // === what the tests do with it ===
      open() {
        this.readyState = 1;
        this.onopen();
      }
      say(kind, params, body) {
        this.onmessage?.({ data: encodeFrame(kind, params, body).buffer });
      }
      break(code = 1006) {
        this.readyState = 3;
        this.onclose({ code, reason: "" });
      }
      take(kind) {
        const at = this.sent.findIndex((frame) => frame.kind === kind);
        return at < 0 ? undefined : this.sent.splice(at, 1)[0];
      }
    }
    const client = new Client({
      control: "http://control.test/",
      app: "demo",
      device: "web-1",
      store: this.store,
      random: () => 0.5,
      WebSocket: Socket,
      fetch: async (url, init) => {
        this.accessCalls.push({ url, ...JSON.parse(init.body) });
        const { status, body, headers } = this.access(this.accessCalls.at(-1));
        if (status === 0) throw new TypeError("network");
        return { ok: status === 200, status, headers: new Headers(headers), json: async () => body };
      },
      ...options,
    });
    client.onState((change) => this.states.push(change));
    return client;
  }

  /** Waits for the newest socket and logs its device in. Returns the socket and the LOGIN. */
  async login(changes = {}) {
    await settle();
    const socket = this.sockets.at(-1);
    socket.open();
    const login = socket.take(Kind.LOGIN).params;
    socket.say(Kind.LOGIN_OK, {
      connection: "node/1/2.3",
      epoch: 9,
      businesses: [{ name: "chat", number: 4, status: 0 }, { name: "live", number: 0, status: 10 }],
      heartbeatMs: 25_000,
      idleTimeoutMs: 35_000,
      serverTimeMs: 1_000_000,
      frameBytesMax: 1_024,
      tokenRefreshAtMs: 1_000_000 + 1_800_000,
      tokenExpiresAtMs: 1_000_000 + 3_600_000,
      ...changes,
    });
    await settle();
    return { socket, login };
  }
}
