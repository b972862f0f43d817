// Stored pushes, from LOGIN to ACK: proto/WIRE.md, "Stored pushes".
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { memoryStore } from "../hawser.js";
import { compare, format, parse } from "../position.js";
import { Ability, GAP_REASONS, INBOX_STATES, Kind } from "../wire.js";
import { House, clock, pass, settle } from "./house.js";

beforeEach(() => clock.start());
afterEach(() => clock.stop());

const T = 1_700_000_000_000;
const text = (body) => new TextEncoder().encode(body);
/** Number 0 is before everything. */
const at = (seq, term = T) => (seq === 0 ? { term: 0, seq } : { term, seq });
const businesses = [{ name: "chat", number: 4, status: 0 }, { name: "live", number: 5, status: 0 }];

/** A device of its own page, logged in at a node with the ability; it keeps what it hears. */
async function online(store = memoryStore(), login = {}, options = {}) {
  const house = new House();
  house.store = store;
  const heard = [];
  const client = house.client(options);
  client.business("chat").onPush((push) => void heard.push(push.text()));
  client.business("chat").onGap(({ reason, count }) => heard.push(`${reason} ${count}`));
  client.start();
  const first = await house.login({ businesses, abilities: Ability.INBOX, ...login });
  return { house, client, heard, store, ...first };
}

async function again(page, login = {}) {
  page.socket.break();
  await settle();
  await pass(page.house.states.at(-1).retryInMs);
  Object.assign(page, await page.house.login({ businesses, abilities: Ability.INBOX, ...login }));
}

function push(socket, position, prev, body = format(position), business = 4, more = {}) {
  const params = { business, ...position, prevTerm: prev.term, prevSeq: prev.seq, ...more };
  socket.say(Kind.PUSH, params, text(body));
}

function gap(socket, after, upto, count, reason = "overflow", business = 4) {
  socket.say(Kind.GAP, {
    business, count, reason: GAP_REASONS.indexOf(reason),
    afterTerm: after.term, afterSeq: after.seq, uptoTerm: upto.term, uptoSeq: upto.seq,
  });
}

const acked = (socket) => socket.take(Kind.ACK)?.params.inboxes.map(({ business, term, seq }) => [business, term, seq]);
const resync = (socket) => socket.take(Kind.RESYNC)?.params.after;
const kept = async (store) => JSON.parse((await store.get("hawser-cursors:demo:web-1")) ?? "{}");

test("positions are compared by term first, and are kept as text", () => {
  assert.ok(compare(at(9, 1), at(1, 2)) < 0);
  assert.ok(compare(at(2), at(1)) > 0);
  const huge = { term: 2n ** 64n - 1n, seq: 1 };
  assert.ok(compare(huge, at(1)) > 0);
  assert.deepEqual(parse(format(huge)), huge);
  for (const odd of ["", "1", "1-", "-1-1", "1-2-3", `${2n ** 64n}-1`, 7, null]) assert.deepEqual(parse(odd), at(0));
});

test("a login shows its abilities, and names the cursors that are kept", async () => {
  const store = memoryStore();
  const first = await online(store);
  assert.equal(first.login.abilities, 15);
  assert.deepEqual(first.login.cursors, []);
  push(first.socket, at(1), at(0));
  push(first.socket, at(2), at(1));
  await pass(200);
  assert.deepEqual(acked(first.socket), [[4, T, 2]]);
  assert.deepEqual(await kept(store), { chat: `${T}-2` });
  first.client.close();

  const page = await online(store);
  assert.deepEqual(page.login.cursors, [{ business: "chat", ...at(2) }]);
  push(page.socket, at(2), at(1));
  push(page.socket, at(3), at(2), "three", 4, { redelivered: true });
  await settle();
  assert.deepEqual(page.heard, ["three"], "what was handled before the reload never comes again");
  page.client.close();
});

test("nothing is acknowledged before the handler's promise is settled, and then in order", async () => {
  const page = await online();
  const waits = [];
  page.client.business("live").onPush((push) => new Promise((resolve) => waits.push([push.text(), resolve])));
  for (const n of [1, 2]) push(page.socket, at(n), at(n - 1), `p${n}`, 5);
  push(page.socket, at(9), at(0), "other", 4);
  await pass(1_000);
  assert.deepEqual(waits.map(([name]) => name), ["p1"], "the second waits for the first");
  assert.deepEqual(acked(page.socket), [[4, T, 9]], "the other business does not wait");
  waits[0][1]();
  await settle();
  assert.deepEqual(waits.map(([name]) => name), ["p1", "p2"]);
  await pass(200);
  assert.deepEqual(acked(page.socket), [[5, T, 1]]);
  assert.deepEqual((await kept(page.store)).live, `${T}-1`);
  waits[1][1]();
  await pass(200);
  assert.deepEqual(acked(page.socket), [[5, T, 2]]);
  page.client.close();
});

test("sixteen handled are acknowledged at once, fewer after 200 ms", async () => {
  const page = await online();
  for (let n = 1; n <= 15; n++) push(page.socket, at(n), at(n - 1));
  await settle();
  assert.equal(acked(page.socket), undefined);
  push(page.socket, at(16), at(15));
  await settle();
  assert.deepEqual(acked(page.socket), [[4, T, 16]]);
  push(page.socket, at(17), at(16));
  await pass(199);
  assert.equal(acked(page.socket), undefined);
  await pass(1);
  assert.deepEqual(acked(page.socket), [[4, T, 17]]);
  page.client.close();
});

test("a hole is asked for once, and what comes again is dropped and acknowledged again", async () => {
  const page = await online();
  push(page.socket, at(1), at(0));
  push(page.socket, at(4), at(3));
  push(page.socket, at(5), at(4));
  assert.deepEqual(resync(page.socket), { business: 4, ...at(1) });
  assert.equal(resync(page.socket), undefined, "one is enough");
  for (const n of [2, 3, 4, 5]) push(page.socket, at(n), at(n - 1));
  await pass(200);
  assert.deepEqual(acked(page.socket), [[4, T, 5]]);
  push(page.socket, at(3), at(2));
  await pass(200);
  assert.deepEqual(acked(page.socket), [[4, T, 5]]);
  push(page.socket, at(8), at(7));
  assert.deepEqual(resync(page.socket), { business: 4, ...at(5) }, "the next hole is another one");
  await pass(4_000);
  push(page.socket, at(8), at(7));
  assert.equal(resync(page.socket), undefined);
  await pass(1_000);
  push(page.socket, at(8), at(7));
  assert.ok(resync(page.socket), "after 5 s it asks again");
  gap(page.socket, at(7), at(9), 2);
  assert.equal(resync(page.socket), undefined, "a gap behind a hole is no way around it");
  await settle();
  assert.deepEqual(page.heard, [1, 2, 3, 4, 5].map((n) => format(at(n))));
  page.client.close();
});

test("a gap is told in its turn; one of which nothing is known is passed in silence", async () => {
  const page = await online();
  gap(page.socket, at(0), at(5), 0, "");
  push(page.socket, at(6), at(5), "six");
  gap(page.socket, at(6), at(9), 3, "purged");
  gap(page.socket, at(6), at(8), 2, "purged");
  push(page.socket, at(10), at(9), "ten");
  gap(page.socket, at(10), at(11), 1, "overflow");
  await pass(200);
  assert.deepEqual(page.heard, ["six", "purged 3", "ten", "overflow 1"]);
  assert.deepEqual(acked(page.socket), [[4, T, 11]]);
  page.client.close();
});

test("a store that went back is told, from a push and from the login", async () => {
  const page = await online();
  push(page.socket, at(1), at(0), "one");
  push(page.socket, at(2), at(1), "two");
  push(page.socket, at(1, T + 5), at(1), "three");
  push(page.socket, at(1, T + 9), at(1, T + 5), "nothing is missing");
  await pass(200);
  assert.deepEqual(page.heard, ["one", "two", "term_changed 0", "three", "nothing is missing"]);
  const state = INBOX_STATES.indexOf("term_changed");
  await again(page, { inboxes: [{ business: 4, tailTerm: T, tailSeq: 1, floorTerm: T, floorSeq: 1, state }] });
  assert.equal(page.heard.at(-1), "term_changed 0");
  push(page.socket, at(1, T + 9), at(1, T + 5), "known");
  push(page.socket, at(1, T + 20), at(1), "new");
  await settle();
  assert.deepEqual(page.heard.slice(-3), ["term_changed 0", "term_changed 0", "new"]);
  page.client.close();
});

test("a cursor that is not believed is replaced by the floor", async () => {
  const store = memoryStore();
  store.set("hawser-cursors:demo:web-1", JSON.stringify({ chat: `${T * 2}-7`, other: 5, live: "x" }));
  const state = INBOX_STATES.indexOf("cursor_refused");
  const inboxes = [{ business: 4, tailTerm: T, tailSeq: 9, floorTerm: T, floorSeq: 3, state }];
  const page = await online(store, { inboxes });
  assert.deepEqual(page.login.cursors, [{ business: "chat", ...at(7, T * 2) }]);
  await settle();
  assert.equal((await kept(store)).chat, `${T}-3`);
  push(page.socket, at(4), at(3), "four");
  await pass(200);
  assert.deepEqual(page.heard, ["cursor_refused 0", "four"]);
  assert.deepEqual(acked(page.socket), [[4, T, 3]]);
  assert.deepEqual(acked(page.socket), [[4, T, 4]]);
  page.client.close();
});

test("what is handled while there is no connection is told by the next LOGIN, and never above what came", async () => {
  const page = await online();
  let done;
  page.client.business("live").onPush(() => new Promise((resolve) => (done = resolve)));
  push(page.socket, at(1), at(0), "one", 5);
  push(page.socket, at(2), at(1), "two", 5);
  await settle();
  page.socket.break();
  await pass(1_000);
  // LOGIN is out, with no cursor, when the handler returns.
  await settle();
  const socket = page.house.sockets.at(-1);
  socket.open();
  assert.deepEqual(socket.take(Kind.LOGIN).params.cursors, []);
  done();
  await pass(300);
  socket.say(Kind.LOGIN_OK, { businesses, abilities: 1, heartbeatMs: 25_000, frameBytesMax: 1_024 });
  await pass(300);
  assert.equal(acked(socket), undefined, "this connection has brought nothing");
  push(socket, at(1), at(0), "one", 5);
  await pass(200);
  assert.deepEqual(acked(socket), [[5, T, 1]]);
  push(socket, at(2), at(1), "two", 5);
  await pass(200);
  assert.deepEqual(acked(socket), [[5, T, 1]], "the second is still being handled");
  done();
  await pass(200);
  assert.deepEqual(acked(socket), [[5, T, 2]]);
  page.client.close();
});

test("stored pushes wait for a listener, and a handler that fails does not stop them", async () => {
  const page = await online();
  push(page.socket, at(1), at(0), "early", 5);
  await pass(500);
  assert.equal(acked(page.socket), undefined);
  const heard = [];
  const failures = [];
  const complain = (failure) => failures.push(failure.message);
  const uncaught = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", complain);
  page.client.business("live").onPush(async (push) => {
    heard.push(push.text());
    if (push.text() === "early") throw new Error("cannot");
  });
  push(page.socket, at(2), at(1), "late", 5);
  await pass(200);
  await new Promise((resolve) => setImmediate(resolve));
  process.removeAllListeners("uncaughtException");
  uncaught.forEach((listener) => process.on("uncaughtException", listener));
  assert.deepEqual([heard, failures], [["early", "late"], ["cannot"]]);
  assert.deepEqual(acked(page.socket), [[5, T, 2]]);
  page.client.close();
});

test("without a place to save there is no acknowledgement, until there is one", async () => {
  const memory = memoryStore();
  let full = true;
  const store = {
    get: memory.get,
    set: (key, value) => (full && key.includes("cursors") ? Promise.reject(new Error("full")) : memory.set(key, value)),
  };
  const failures = [];
  const uncaught = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (failure) => failures.push(failure.message));
  const page = await online(store);
  push(page.socket, at(1), at(0));
  await pass(200);
  await new Promise((resolve) => setImmediate(resolve));
  process.removeAllListeners("uncaughtException");
  uncaught.forEach((listener) => process.on("uncaughtException", listener));
  assert.deepEqual(failures, ["full"]);
  assert.equal(acked(page.socket), undefined);
  full = false;
  await pass(5_000);
  assert.deepEqual(acked(page.socket), [[4, T, 1]]);
  page.client.close();
});

test("another tab that came further is not set back", async () => {
  const page = await online();
  push(page.socket, at(1), at(0));
  page.store.set("hawser-cursors:demo:web-1", JSON.stringify({ chat: format(at(8)), live: format(at(2)) }));
  await pass(200);
  assert.deepEqual(await kept(page.store), { chat: format(at(8)), live: format(at(2)) });
  assert.deepEqual(acked(page.socket), [[4, T, 1]]);
  page.client.close();
});

test("a node without the ability gets no ACK, and the cursors stay", async () => {
  const store = memoryStore();
  store.set("hawser-cursors:demo:web-1", JSON.stringify({ chat: format(at(3)) }));
  const page = await online(store, { abilities: 0 });
  page.socket.say(Kind.PUSH, { business: 4 }, text("volatile"));
  await pass(1_000);
  assert.deepEqual(page.heard, ["volatile"]);
  assert.equal(acked(page.socket), undefined);
  await again(page);
  assert.deepEqual(page.login.cursors, [{ business: "chat", ...at(3) }]);
  page.client.close();
});

test("goodbye comes after the last acknowledgement", async () => {
  const page = await online();
  push(page.socket, at(1), at(0));
  await settle();
  page.client.close();
  await settle();
  const order = page.socket.sent.map(({ kind }) => kind).filter((kind) => kind === Kind.ACK || kind === Kind.BYE);
  assert.deepEqual(order, [Kind.ACK, Kind.BYE]);
});

test("cursors that do not fit into LOGIN are left out, and what comes again is dropped", async () => {
  const store = memoryStore();
  const many = Object.fromEntries(Array.from({ length: 32 }, (_, n) => [`b-${n}-${"x".repeat(26)}`, format(at(n + 1))]));
  store.set("hawser-cursors:demo:web-1", JSON.stringify(many));
  const house = new House();
  house.store = store;
  const access = house.access;
  house.access = (call) => {
    const answer = access(call);
    answer.body.token = "t".repeat(3_000);
    return answer;
  };
  const client = house.client();
  client.start();
  const { socket, login } = await house.login({ businesses: [{ name: Object.keys(many)[31], number: 4, status: 0 }], abilities: 1 });
  assert.ok(login.cursors.length > 5 && login.cursors.length < 32);
  client.business(Object.keys(many)[31]).onPush(() => assert.fail("it was handled before"));
  push(socket, at(32), at(31));
  await pass(200);
  assert.deepEqual(acked(socket), [[4, T, 32]]);
  client.close();
});

test("any order of frames hands over each push once, in order", async () => {
  for (let seed = 1; seed <= 30; seed++) {
    let state = seed;
    const random = (below) => (state = (state * 48271) % 2147483647) % below;
    const page = await online();
    let next = 1;
    for (let step = 0; step < 120; step++) {
      const from = Math.max(0, next - 1 - random(4));
      const jump = random(6) === 0 ? 1 : 0;
      push(page.socket, at(from + 1 + jump), at(from + jump));
      if (from + 1 + jump === next) next++;
      if (random(20) === 0) await pass(random(300));
      if (random(30) === 0) await again(page);
    }
    await pass(300);
    assert.deepEqual(page.heard, Array.from({ length: next - 1 }, (_, n) => format(at(n + 1))), `seed ${seed}`);
    page.client.close();
    await settle();
  }
});
