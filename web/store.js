// @ts-check
/**
 * What a device remembers between page loads: its instance id, the number of its last login try, and
 * how far it has come in each inbox.
 * Any pair of functions will do as a store; both may be asynchronous.
 *
 * @typedef {object} Store
 * @property {(key: string) => string | null | Promise<string | null>} get
 * @property {(key: string, value: string) => void | Promise<void>} set
 */

/** Forgets everything with the page. @returns {Store} */
export function memoryStore() {
  const items = new Map();
  return { get: (key) => items.get(key) ?? null, set: (key, value) => void items.set(key, value) };
}

/**
 * Keeps things in `localStorage` (shared by all tabs of a site: the newest tab of a device takes over)
 * or in `sessionStorage`. Where the browser forbids storage, in memory.
 * @param {Storage | undefined} [storage]
 * @returns {Store}
 */
export function webStore(storage) {
  const fallback = memoryStore();
  /** @returns {Storage | undefined} */
  const place = () => {
    try {
      return storage ?? globalThis.localStorage;
    } catch {
      return undefined; // cookies are blocked
    }
  };
  return {
    get(key) {
      // What had to be kept in memory is newer than what could still be stored.
      return fallback.get(key) ?? place()?.getItem(key) ?? null;
    },
    set(key, value) {
      try {
        const storage = place();
        if (storage) return storage.setItem(key, value);
      } catch {
        // The quota is used up: this page still has its memory.
      }
      return fallback.set(key, value);
    },
  };
}

/**
 * The next login try of a device: its instance id, and an attempt above all earlier ones, already kept
 * when this returns.
 * @param {Store} store @param {string} app @param {string} device
 * @returns {Promise<{ instance: Uint8Array, attempt: number }>}
 */
export async function nextAttempt(store, app, device) {
  const key = `hawser:${app}:${device}`;
  const kept = parse(await store.get(key));
  const instance = kept?.instance ?? hex(crypto.getRandomValues(new Uint8Array(16)));
  const attempt = (kept?.attempt ?? 0) + 1;
  await store.set(key, JSON.stringify({ instance, attempt }));
  return { instance: unhex(instance), attempt };
}

/**
 * How far the device has come, by business.
 * @param {Store} store @param {string} app @param {string} device
 * @returns {Promise<{ [business: string]: string }>}
 */
export async function loadCursors(store, app, device) {
  const cursors = Object.create(null);
  try {
    const kept = JSON.parse((await store.get(cursorsKey(app, device))) ?? "{}");
    for (const [business, cursor] of Object.entries(kept)) {
      if (typeof cursor === "string") cursors[business] = cursor;
    }
  } catch (failure) {
    if (!(failure instanceof SyntaxError)) throw failure; // somebody else's text is no cursor
  }
  return cursors;
}

/**
 * @param {Store} store @param {string} app @param {string} device
 * @param {{ [business: string]: string }} cursors
 */
export async function saveCursors(store, app, device, cursors) {
  await store.set(cursorsKey(app, device), JSON.stringify(cursors));
}

/** @param {string} app @param {string} device */
function cursorsKey(app, device) {
  return `hawser-cursors:${app}:${device}`;
}

/** @param {string | null} text @returns {{ instance: string, attempt: number } | null} */
function parse(text) {
  try {
    const { instance, attempt } = JSON.parse(text ?? "");
    const fine = /^[0-9a-f]{32}$/.test(instance) && Number.isSafeInteger(attempt) && attempt >= 0;
    return fine ? { instance, attempt } : null;
  } catch {
    return null;
  }
}

/** @param {Uint8Array} bytes */
export function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {string} text */
function unhex(text) {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}
