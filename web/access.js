// @ts-check
/**
 * The one call to control before a connection: `POST /v1/access`.
 */
import { HawserError } from "./codes.js";

const CALL_TIMEOUT_MS = 10_000;

/**
 * @typedef {{ type: "open" }
 *   | { type: "jwt", token: string }
 *   | { type: "hmac", time: number, nonce: string, signature: string, device_key?: string, device_signature?: string }
 * } Proof
 *
 * @typedef {object} AccessPoint
 * @property {string} protocol
 * @property {string} host
 * @property {number} port
 * @property {number} [weight]
 * @property {string} [node]
 *
 * @typedef {object} AccessAnswer
 * @property {string} token
 * @property {number} issued_at_ms
 * @property {number} expires_at_ms
 * @property {AccessPoint[]} access_points
 * @property {import("./backoff.js").Policy} [backoff]
 * @property {number} [reconnect_window_ms]
 * @property {number} [start_after_ms]
 * @property {number} [refresh_after_ms]
 */

/**
 * Proves the device to control and brings back a token and the ways to connect.
 * @param {typeof fetch} fetch
 * @param {string} control control's address, as `https://control.example.com`
 * @param {{ [field: string]: any }} request
 * @param {AbortSignal} stop
 * @returns {Promise<AccessAnswer>}
 */
export async function callAccess(fetch, control, request, stop) {
  let response;
  let answer;
  const call = new AbortController();
  const end = () => call.abort();
  const timer = setTimeout(end, CALL_TIMEOUT_MS);
  stop.addEventListener("abort", end);
  try {
    response = await fetch(`${control.replace(/\/+$/, "")}/v1/access`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(request),
      credentials: "omit",
      signal: call.signal,
    });
    answer = await response.json();
  } catch (failure) {
    if (stop.aborted) throw new HawserError("closed", "the client was closed", { final: true });
    if (!response || response.ok) {
      throw new HawserError("unreachable", `control did not answer: ${String(failure)}`);
    }
  } finally {
    clearTimeout(timer);
    stop.removeEventListener("abort", end);
  }
  if (response.ok) return answer;
  const retryAfter = Number(response.headers.get("retry-after"));
  throw new HawserError(
    answer?.code ?? `http_${response.status}`,
    answer?.detail ?? answer?.title ?? `control answered ${response.status}`,
    {
      retryAfterMs: Number.isFinite(retryAfter) ? retryAfter * 1000 : 0,
      final: response.status < 500 && ![408, 429].includes(response.status) && !passing(answer?.code),
    },
  );
}

/** A fresh proof may do. @param {string | undefined} code */
function passing(code) {
  return code === "proof_expired" || code === "proof_replayed";
}

/**
 * The WebSocket access points of an answer, in the order to try: control's, which is spread by weight
 * already. A page that came over https may not open plain ones; one that came over http, whose own code
 * was as open, tries them first, and so needs no certificate in development.
 * @param {AccessPoint[]} points @param {string | undefined} page the page's `location.protocol`
 */
export function webSocketPoints(points, page) {
  const of = (/** @type {string} */ wanted) => points.filter(({ protocol }) => protocol === wanted);
  if (page === "https:") return of("wss");
  if (page === "http:") return [...of("ws"), ...of("wss")];
  return points.filter(({ protocol }) => protocol === "wss" || protocol === "ws");
}

/** @param {AccessPoint} point */
export function urlOf({ protocol, host, port }) {
  return `${protocol}://${host.includes(":") ? `[${host}]` : host}:${port}/`;
}
