// @ts-check
/**
 * What a page sends and receives: bytes with metadata. hawser never reads the bytes.
 */
import { HawserError } from "./codes.js";
import { isStart } from "./position.js";

const METHOD_BYTES_MAX = 128;
const METADATA_ENTRIES_MAX = 32;
const METADATA_BYTES_MAX = 4 * 1024;

const toUtf8 = new TextEncoder();

class Message {
  /** @param {Uint8Array} body @param {{ [key: string]: string }} metadata */
  constructor(body, metadata) {
    this.body = body;
    this.metadata = metadata;
  }

  /** The body as UTF-8 text. */
  text() {
    return new TextDecoder().decode(this.body);
  }

  /** The body as JSON. @returns {any} */
  json() {
    return JSON.parse(this.text());
  }
}

/** What a business pushed to this device, or to a group it is in. */
export class Push extends Message {
  /** @param {{ [name: string]: any }} params @param {Uint8Array} body @param {string} business */
  constructor(params, body, business) {
    super(body, params.metadata);
    this.business = business;
    /** The group it was pushed to; `null` for a push to this device alone. @type {string | null} */
    this.group = params.group ?? null;
    /** @type {Uint8Array} */
    this.pushId = params.pushId;
    const { term, seq } = params;
    /**
     * Its place in the inbox, or in the group's history; `null` for a volatile push.
     * @type {import("./position.js").Position | null}
     */
    this.position = isStart({ term, seq }) ? null : { term, seq };
    /** It was stored for this device: acknowledged once its handlers are done. @type {boolean} */
    this.stored = this.position !== null && this.group === null;
    /** An earlier connection may have brought it already. @type {boolean} */
    this.redelivered = params.redelivered ?? false;
    /** When it loses its worth, by the servers' clock; `null`: not said. @type {Date | null} */
    this.expiresAt = params.expiresAtMs ? new Date(Number(params.expiresAtMs)) : null;
  }
}

/** What a business answered. */
export class Answer extends Message {}

/** @param {Uint8Array | string} body @returns {Uint8Array} */
export function bytesOf(body) {
  return typeof body === "string" ? toUtf8.encode(body) : body;
}

/**
 * Refuses what the node would close the connection for.
 * @param {string} method @param {{ [key: string]: string }} metadata
 */
export function checkRequest(method, metadata) {
  const entries = Object.entries(metadata);
  const bytes = entries.flat().reduce((sum, text) => sum + toUtf8.encode(text).length, 0);
  if (toUtf8.encode(method).length > METHOD_BYTES_MAX) {
    throw HawserError.fromStatus(1, `a method is at most ${METHOD_BYTES_MAX} bytes`);
  }
  if (entries.length > METADATA_ENTRIES_MAX || bytes > METADATA_BYTES_MAX) {
    throw HawserError.fromStatus(1, "metadata is at most 32 entries and 4 KiB");
  }
}
