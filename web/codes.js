// @ts-check
/**
 * The published codes: why a connection was closed and what to do then, and why something was refused.
 * Source: proto/WIRE.md, "Close codes" and "Errors".
 */

/** Close codes by number. @type {Readonly<{ [number: number]: string }>} */
export const CLOSE_CODES = Object.freeze({
  4000: "goodbye",
  4001: "idle_timeout",
  4100: "overloaded",
  4101: "internal",
  4102: "slow_device",
  4103: "login_timeout",
  4104: "router_unavailable",
  4105: "disconnected",
  4106: "rate_limited",
  4200: "draining",
  4201: "node_full",
  4300: "token_expired",
  4301: "token_invalid",
  4302: "token_revoked",
  4303: "token_unknown_key",
  4304: "token_wrong_audience",
  4305: "token_mismatch",
  4400: "bad_magic",
  4401: "unsupported_version",
  4402: "bad_frame",
  4403: "frame_too_large",
  4404: "unknown_kind",
  4405: "unexpected_frame",
  4406: "login_required",
  4407: "login_twice",
  4408: "superseded",
  4409: "stale_login",
  4410: "app_unavailable",
  4411: "unsupported_feature",
  4412: "bad_websocket",
  4413: "ejected",
  4414: "flooding",
});

/** Error codes by number. @type {Readonly<{ [number: number]: string }>} */
export const ERROR_CODES = Object.freeze({
  1: "invalid_argument",
  2: "unauthenticated",
  3: "permission_denied",
  4: "not_found",
  5: "already_exists",
  6: "overloaded",
  7: "deadline_exceeded",
  8: "unavailable",
  9: "too_large",
  10: "unknown_business",
  11: "group_not_found",
  12: "not_member",
  13: "too_many_groups",
  14: "too_many_requests",
  15: "business_failed",
  16: "internal",
  17: "unsupported",
  18: "device_offline",
  19: "disabled",
  20: "proof_invalid",
  21: "proof_expired",
  22: "proof_replayed",
  23: "device_key_mismatch",
  24: "revoked",
  25: "quota_exceeded",
  26: "conflict",
  27: "no_access_point",
  28: "method_not_allowed",
  29: "push_id_reused",
  30: "not_served_here",
});

/** @typedef {"now" | "later" | "elsewhere" | "new token" | "never"} Retry */

/**
 * What a device does after a close with this number, also when it does not know the code itself.
 * @param {number} number
 * @returns {Retry}
 */
export function retryOf(number) {
  switch (Math.floor(number / 100)) {
    case 41: return "later";
    case 42: return "elsewhere";
    case 43: return "new token";
    case 44: return "never";
    default: return "now";
  }
}

/** Something was refused or did not happen. `code` is a published name, or one of the client's own. */
export class HawserError extends Error {
  /**
   * The client's own codes: `connection_lost` (the request was sent and may have been handled),
   * `closed` (the client was closed), `unreachable` (control cannot be reached).
   * @param {string} code @param {string} message @param {{ retryAfterMs?: number, final?: boolean }} [advice]
   */
  constructor(code, message, advice = {}) {
    super(message || code);
    this.name = "HawserError";
    this.code = code;
    /** Earliest time to try again, in milliseconds from now; 0: not said. */
    this.retryAfterMs = advice.retryAfterMs ?? 0;
    /** Whether another try would end the same way. */
    this.final = advice.final ?? false;
  }

  /** @param {number} status @param {string} message */
  static fromStatus(status, message) {
    return new HawserError(ERROR_CODES[status] ?? `error_${status}`, message);
  }
}
