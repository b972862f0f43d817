// @ts-check
/**
 * The frames of the hawser wire, version 1: kinds, parameters, codes, and bytes to frames and back.
 * On a WebSocket one binary message is one frame. Source: proto/WIRE.md; the tests compare the tables
 * here with the project's own.
 */
import * as protobuf from "./protobuf.js";

/** The WebSocket sub-protocol. */
export const SUBPROTOCOL = "hawser.1";
export const HEADER_BYTES = 12;
export const PARAMS_BYTES_MAX = 32 * 1024;
/** Any frame before login. */
export const LOGIN_FRAME_BYTES_MAX = 4 * 1024;

const MAGIC = [0x68, 0x77];
const VERSION = 1;
const REQUIRED_FLAGS = 0xff00;

/** Kinds of frames; bit 7 is set on what access nodes send. */
export const Kind = Object.freeze({
  LOGIN: 0x01,
  PING: 0x02,
  REFRESH: 0x03,
  BYE: 0x04,
  REQUEST: 0x10,
  JOIN: 0x20,
  LEAVE: 0x21,
  ACK: 0x30,
  RESYNC: 0x31,
  RECOVER: 0x32,
  LOGIN_OK: 0x81,
  PONG: 0x82,
  REFRESHED: 0x83,
  CLOSE: 0x84,
  GO_AWAY: 0x85,
  RESPONSE: 0x90,
  JOINED: 0xa0,
  LEFT: 0xa1,
  PUSH: 0xb0,
  GROUP_PUSH: 0xb1,
  GAP: 0xb2,
  MISSED: 0xb3,
  GROUP_RESET: 0xb4,
});

/** Optional abilities, as bits of LOGIN and LOGIN_OK. */
export const Ability = Object.freeze({ INBOX: 1, HISTORY: 2, GO_AWAY: 4, RESUME: 8, ZSTD: 16 });

/** @typedef {import("./protobuf.js").Schema} Schema */

/** The messages of rpc/wire.proto, field by field. @type {{ [message: string]: Schema }} */
export const messages = (() => {
  /** @type {Schema} */
  const Client = {
    sdk: [1, "string"],
    platform: [2, "string"],
    network: [3, "string"],
    appVersion: [4, "string"],
  };
  /** @type {Schema} */
  const BusinessNumber = { name: [1, "string"], number: [2, "uint32"], status: [3, "uint32"] };
  /** @type {Schema} */
  const Cursor = { business: [1, "string"], term: [2, "uint64"], seq: [3, "uint64"] };
  /** @type {Schema} */
  const Inbox = {
    business: [1, "uint32"],
    tailTerm: [2, "uint64"],
    tailSeq: [3, "uint64"],
    floorTerm: [4, "uint64"],
    floorSeq: [5, "uint64"],
    state: [6, "uint32"],
  };
  /** @type {Schema} */
  const AccessPoint = {
    protocol: [1, "string"],
    host: [2, "string"],
    port: [3, "uint32"],
    serverName: [4, "string"],
  };
  /** @type {Schema} */
  const InboxPosition = { business: [1, "uint32"], term: [2, "uint64"], seq: [3, "uint64"] };
  return {
    Client,
    BusinessNumber,
    Cursor,
    Inbox,
    InboxPosition,
    AccessPoint,
    Login: {
      app: [1, "string"],
      device: [2, "string"],
      token: [3, "string"],
      instance: [4, "bytes"],
      attempt: [5, "uint64"],
      businesses: [6, "string", "repeated"],
      client: [7, Client],
      abilities: [8, "uint32"],
      resumeTicket: [9, "bytes"],
      cursors: [10, Cursor, "repeated"],
    },
    LoginOk: {
      connection: [1, "string"],
      epoch: [2, "uint64"],
      businesses: [3, BusinessNumber, "repeated"],
      heartbeatMs: [4, "uint32"],
      idleTimeoutMs: [5, "uint32"],
      serverTimeMs: [6, "uint64"],
      frameBytesMax: [7, "uint32"],
      groupsMax: [8, "uint32"],
      requestsInFlightMax: [9, "uint32"],
      tokenRefreshAtMs: [10, "uint64"],
      tokenExpiresAtMs: [11, "uint64"],
      abilities: [12, "uint32"],
      resumeTicket: [13, "bytes"],
      inboxes: [14, Inbox, "repeated"],
      reconnectWindowMs: [15, "uint32"],
    },
    Ping: { nonce: [1, "uint64"] },
    Refresh: { requestId: [1, "uint64"] },
    Refreshed: {
      requestId: [1, "uint64"],
      status: [2, "uint32"],
      message: [3, "string"],
      token: [4, "string"],
      tokenRefreshAtMs: [5, "uint64"],
      tokenExpiresAtMs: [6, "uint64"],
      resumeTicket: [7, "bytes"],
    },
    Close: {
      code: [1, "uint32"],
      reason: [2, "string"],
      retryAfterMs: [3, "uint32"],
      alternatives: [4, AccessPoint, "repeated"],
    },
    GoAway: {
      deadlineMs: [1, "uint32"],
      reason: [2, "string"],
      alternatives: [3, AccessPoint, "repeated"],
    },
    Request: {
      requestId: [1, "uint64"],
      business: [2, "uint32"],
      method: [3, "string"],
      metadata: [4, "map"],
      traceparent: [5, "string"],
      deadlineMs: [6, "uint32"],
    },
    Response: {
      requestId: [1, "uint64"],
      status: [2, "uint32"],
      message: [3, "string"],
      metadata: [4, "map"],
    },
    Join: {
      requestId: [1, "uint64"],
      group: [2, "string"],
      lastTerm: [4, "uint64"],
      lastSeq: [5, "uint64"],
    },
    Leave: { requestId: [1, "uint64"], group: [2, "string"] },
    Joined: {
      requestId: [1, "uint64"],
      group: [2, "string"],
      status: [3, "uint32"],
      message: [4, "string"],
      business: [5, "uint32"],
      tailTerm: [6, "uint64"],
      tailSeq: [7, "uint64"],
      floorTerm: [8, "uint64"],
      floorSeq: [9, "uint64"],
      history: [10, "bool"],
    },
    Left: {
      requestId: [1, "uint64"],
      group: [2, "string"],
      status: [3, "uint32"],
      message: [4, "string"],
      reason: [5, "uint32"],
    },
    Push: {
      pushId: [1, "bytes"],
      business: [2, "uint32"],
      metadata: [3, "map"],
      traceparent: [4, "string"],
      term: [5, "uint64"],
      seq: [6, "uint64"],
      prevTerm: [7, "uint64"],
      prevSeq: [8, "uint64"],
      redelivered: [9, "bool"],
      expiresAtMs: [10, "uint64"],
    },
    GroupPush: {
      pushId: [1, "bytes"],
      business: [2, "uint32"],
      group: [3, "string"],
      metadata: [4, "map"],
      traceparent: [5, "string"],
      term: [6, "uint64"],
      seq: [7, "uint64"],
      prevTerm: [8, "uint64"],
      prevSeq: [9, "uint64"],
    },
    Ack: { inboxes: [1, InboxPosition, "repeated"] },
    Resync: { after: [1, InboxPosition] },
    Recover: { group: [1, "string"], term: [2, "uint64"], seq: [3, "uint64"] },
    Gap: {
      business: [1, "uint32"],
      afterTerm: [2, "uint64"],
      afterSeq: [3, "uint64"],
      uptoTerm: [4, "uint64"],
      uptoSeq: [5, "uint64"],
      count: [6, "uint64"],
      reason: [7, "uint32"],
    },
    Missed: { group: [1, "string"], business: [2, "uint32"], count: [3, "uint64"] },
    GroupReset: {
      group: [1, "string"],
      business: [2, "uint32"],
      floorTerm: [3, "uint64"],
      floorSeq: [4, "uint64"],
      tailTerm: [5, "uint64"],
      tailSeq: [6, "uint64"],
    },
  };
})();

/** @type {Map<number, Schema>} */
const schemas = new Map([
  [Kind.LOGIN, messages.Login],
  [Kind.PING, messages.Ping],
  [Kind.REFRESH, messages.Refresh],
  [Kind.BYE, messages.Close],
  [Kind.REQUEST, messages.Request],
  [Kind.JOIN, messages.Join],
  [Kind.LEAVE, messages.Leave],
  [Kind.ACK, messages.Ack],
  [Kind.RESYNC, messages.Resync],
  [Kind.RECOVER, messages.Recover],
  [Kind.LOGIN_OK, messages.LoginOk],
  [Kind.PONG, messages.Ping],
  [Kind.REFRESHED, messages.Refreshed],
  [Kind.CLOSE, messages.Close],
  [Kind.GO_AWAY, messages.GoAway],
  [Kind.RESPONSE, messages.Response],
  [Kind.JOINED, messages.Joined],
  [Kind.LEFT, messages.Left],
  [Kind.PUSH, messages.Push],
  [Kind.GROUP_PUSH, messages.GroupPush],
  [Kind.GAP, messages.Gap],
  [Kind.MISSED, messages.Missed],
  [Kind.GROUP_RESET, messages.GroupReset],
]);

/** Why a membership ended without being asked, by the number in LEFT. */
export const LEFT_REASONS = Object.freeze(["", "asked", "removed", "kicked", "group_deleted"]);
/** What has become of stored pushes that will not come, by the number in GAP. */
export const GAP_REASONS = Object.freeze(["", "overflow", "expired", "too_large", "purged"]);
/** What LOGIN_OK says of an inbox; the first: nothing. */
export const INBOX_STATES = Object.freeze(["", "term_changed", "cursor_refused"]);

/** Bytes that are not a frame; the connection is of no use any more. */
export class FrameError extends Error {}

/**
 * @typedef {object} Frame
 * @property {number} kind
 * @property {{ [name: string]: any } | null} params `null` for a kind of a later release that may be skipped
 * @property {Uint8Array} body
 */

/**
 * Writes one frame.
 * @param {number} kind @param {{ [name: string]: any }} params @param {Uint8Array} [body]
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function encodeFrame(kind, params, body = new Uint8Array(0)) {
  const schema = schemas.get(kind);
  if (!schema) throw new FrameError(`no frame of kind ${kind}`);
  const bytes = protobuf.encode(schema, params);
  if (bytes.length > PARAMS_BYTES_MAX) throw new FrameError("the parameters are too large");
  const frame = new Uint8Array(HEADER_BYTES + bytes.length + body.length);
  const header = new DataView(frame.buffer);
  frame.set(MAGIC, 0);
  header.setUint8(2, VERSION);
  header.setUint8(3, kind);
  header.setUint16(4, 0);
  header.setUint16(6, bytes.length);
  header.setUint32(8, body.length);
  frame.set(bytes, HEADER_BYTES);
  frame.set(body, HEADER_BYTES + bytes.length);
  return frame;
}

/**
 * Reads a message that must be exactly one frame. `from: "node"` refuses what only devices send.
 * @param {Uint8Array} message @param {{ from?: "node" }} [rule]
 * @returns {Frame}
 */
export function decodeFrame(message, { from } = {}) {
  if (message.length < HEADER_BYTES) throw new FrameError("shorter than a header");
  const header = new DataView(message.buffer, message.byteOffset, message.byteLength);
  if (message[0] !== MAGIC[0] || message[1] !== MAGIC[1]) throw new FrameError("bad magic");
  if (message[2] !== VERSION) throw new FrameError(`unsupported version ${message[2]}`);
  const kind = message[3];
  if (header.getUint16(4) & REQUIRED_FLAGS) throw new FrameError("unknown required flag");
  const paramsEnd = HEADER_BYTES + header.getUint16(6);
  if (paramsEnd + header.getUint32(8) !== message.length) {
    throw new FrameError("a message must hold exactly one frame");
  }
  const body = message.subarray(paramsEnd);
  if (from === "node" && kind < 0x80) throw new FrameError(`kind ${kind} is not sent by nodes`);
  const schema = schemas.get(kind);
  if (!schema) {
    if ((kind & 0x60) === 0x60) return { kind, params: null, body };
    throw new FrameError(`unknown kind ${kind}`);
  }
  try {
    return { kind, params: protobuf.decode(schema, message.subarray(HEADER_BYTES, paramsEnd)), body };
  } catch (failure) {
    throw new FrameError(`bad parameters: ${/** @type {Error} */ (failure).message}`);
  }
}
