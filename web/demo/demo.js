// @ts-check
/**
 * The demo page: a browser becomes a device, joins the group, shows what is pushed and sends requests.
 * Everything about hawser is in the client module; here is only the page.
 */
import { Client } from "./hawser.js";

const LINES_MAX = 200;
/** Stored pushes that the page keeps over a reload. */
const KEPT_MAX = 50;

/** @param {string} id @returns {any} */
const element = (id) => document.getElementById(id);

const config = await (await fetch("/config.json")).json();
const query = new URLSearchParams(location.search);
const device = query.get("device") || "web-1";
const group = query.get("group") || config.group;

element("device").textContent = device;
element("group").textContent = group;
element("command").textContent =
  `${config.hawser} push unicast --app ${config.app} --device ${/^[\w.-]+$/.test(device) ? device : JSON.stringify(device)} "hello"`;
element("stored-command").textContent = element("command").textContent
  .replace("hello", "it waits for you")
  .replace("unicast", "unicast --stored");
element("other").href = `/?device=${device === "web-2" ? "web-3" : "web-2"}`;
document.title = `${device} · hawser demo`;

const client = new Client({ control: config.control, app: config.app, device, businesses: [config.business] });
const chat = client.business(config.business);

client.onState(({ state, cause, reason, retryInMs, connection }) => {
  element("state").textContent = state;
  element("state").dataset.state = state;
  element("detail").textContent = {
    idle: "",
    connecting: "",
    online: `connection ${connection}`,
    waiting: `${cause}: ${reason || "no reason given"}; next try in ${((retryInMs ?? 0) / 1000).toFixed(1)} s`,
    closed: `${cause}: ${reason || "no reason given"}; reload to come back`,
  }[state];
});

client.onLeft((left) => add(element("messages"), "hawser", `this device is out of ${left.group}: ${left.reason}`));

chat.onPush((push) => {
  if (push.stored) return keep(push);
  if (push.group === null) return add(element("pushes"), push.metadata.from ?? push.business, push.text());
  const { from, text } = said(push);
  add(element("messages"), from, text, from === device);
});

chat.onGap(({ reason, count }) => {
  const how = count > 0 ? `up to ${count} stored pushes are gone` : "stored pushes may be gone";
  add(element("pushes"), "hawser", `${how}: ${reason}`);
});
client.onMissed(({ group, count }) => add(element("messages"), "hawser", `missed ${count || "some"} of ${group}`));

// === stored pushes: kept by the page before they count as handled ===

const KEPT = `hawser-demo:${config.app}:${device}`;

/** What the page has kept: how many there were, and the last of them. @returns {{ count: number, last: [string, string][] }} */
function kept() {
  try {
    const { count, last } = JSON.parse(localStorage.getItem(KEPT) ?? "");
    if (Number.isSafeInteger(count) && Array.isArray(last)) return { count, last };
  } catch {
    // nothing yet, or this browser keeps nothing
  }
  return { count: 0, last: [] };
}

/** When this returns the push is acknowledged: it has to be kept by then. @param {import("./hawser.js").Push} push */
function keep(push) {
  const { count, last } = kept();
  const from = push.metadata.from ?? push.business;
  const state = { count: count + 1, last: [...last, [from, push.text()]].slice(-KEPT_MAX) };
  try {
    localStorage.setItem(KEPT, JSON.stringify(state));
  } finally {
    show(state.count, from, push.text(), push.redelivered ? "stored, again" : "stored");
  }
}

/** @param {number} count @param {string} from @param {string} text @param {string} mark */
function show(count, from, text, mark) {
  element("count").textContent = String(count);
  add(element("pushes"), from, text, false, mark);
}

{
  const { count, last } = kept();
  element("count").textContent = String(count);
  for (const [from, text] of last) show(count, String(from), String(text), "stored, kept");
}

/** A message of the demo business is JSON; anybody else may have pushed plain text. */
function said(/** @type {import("./hawser.js").Push} */ push) {
  try {
    const { from, text } = push.json();
    if (typeof from === "string" && typeof text === "string") return { from, text };
  } catch {
    // plain text it is
  }
  return { from: push.business, text: push.text() };
}

/** @param {HTMLElement} list @param {string} from @param {string} text @param {boolean} [own] @param {string} [mark] */
function add(list, from, text, own = false, mark = "") {
  const line = document.createElement("li");
  line.classList.toggle("own", own);
  const author = document.createElement("b");
  author.textContent = from;
  const words = document.createElement("span");
  words.textContent = text;
  line.append(author, " ", words);
  if (mark) {
    const badge = document.createElement("small");
    badge.textContent = mark;
    line.append(" ", badge);
  }
  list.append(line);
  while (list.childElementCount > LINES_MAX) list.firstElementChild?.remove();
  list.scrollTop = list.scrollHeight;
}

element("say").addEventListener("submit", async (/** @type {SubmitEvent} */ event) => {
  event.preventDefault();
  const text = element("text").value.trim();
  if (!text) return;
  element("text").value = "";
  element("text").focus();
  const started = performance.now();
  try {
    const answer = await chat.request("say", text, { metadata: { room: group } });
    element("sent").textContent = `answered "${answer.text()}" in ${Math.round(performance.now() - started)} ms`;
  } catch (failure) {
    const { code, message } = /** @type {import("./hawser.js").HawserError} */ (failure);
    element("sent").textContent = `not sent: ${code ?? "error"}: ${message}`;
    if (!element("text").value) element("text").value = text;
  }
});

client.start();
client.join(group, { deadlineMs: 60_000 }).catch((failure) => {
  add(element("messages"), "hawser", `cannot join ${group}: ${failure.code}`);
});
addEventListener("pagehide", () => client.close());
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
