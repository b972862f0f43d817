import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { Echoes } from "../echoes.js";
import { RESUME_TICKET_LIFE_MS, Ticket } from "../ticket.js";
import { Kind } from "../wire.js";
import { House, clock, pass, settle } from "./house.js";

beforeEach(() => clock.start());
afterEach(() => clock.stop());

const text = (body) => new TextEncoder().encode(body);
const last = (items) => items.at(-1);
const ALL = 15;
const ws = (host, port) => ({ protocol: "ws", host, port, serverName: "" });
const position = (seq) => ({ term: 9, seq, prevTerm: seq === 1 ? 0 : 9, prevSeq: seq - 1 });

/** A house with two nodes. */
function house() {
  const house = new House();
  const { access } = house;
  house.access = (call) => {
    const answer = access(call);
    answer.body.access_points = [
      { protocol: "ws", host: "a.test", port: 1, node: "a" },
      { protocol: "ws", host: "b.test", port: 2, node: "b" },
    ];
    return answer;
  };
  return house;
}

async function online(changes = {}) {
  const it = house();
  const client = it.client();
  client.start();
  const { socket } = await it.login({ abilities: ALL, ...changes });
  return { house: it, client, socket };
}

/** The newest socket: opened, with its LOGIN. */
async function arrive(house) {
  await settle();
  const socket = last(house.sockets);
  socket.open();
  await settle();
  return { socket, login: socket.take(Kind.LOGIN)?.params };
}

async function move(setting, changes) {
  setting.socket.say(Kind.GO_AWAY, { deadlineMs: 30_000, ...changes });
  const { socket } = await arrive(setting.house);
  await setting.house.login.call({ ...setting.house, sockets: [greeted(socket)] }, { abilities: ALL, connection: "b" });
  return socket;
}

/** A socket whose LOGIN was looked at already. */
function greeted(socket) {
  return { open() {}, take: () => ({ params: {} }), say: (kind, params) => socket.say(kind, params) };
}

test("a device logs in there, and then leaves here", async () => {
  const setting = await online();
  const { house: it, client, socket: old } = setting;
  const heard = [];
  client.business("chat").onPush((push) => void heard.push(push.text()));
  old.say(Kind.GO_AWAY, { deadlineMs: 30_000 });
  const { socket, login } = await arrive(it);
  assert.deepEqual([socket.url, login.attempt, login.token], ["ws://b.test:2/", 2, "token-1"]);
  old.say(Kind.PUSH, { business: 4, pushId: text("1") }, text("old"));
  assert.equal(old.take(Kind.BYE), undefined, "still in use");
  await it.login.call({ ...it, sockets: [greeted(socket)] }, { abilities: ALL, connection: "b" });
  assert.ok(old.take(Kind.BYE), "nothing is owed");
  old.say(Kind.PUSH, { business: 4, pushId: text("2") }, text("late"));
  old.say(Kind.CLOSE, { code: 4000 });
  socket.say(Kind.PUSH, { business: 4, pushId: text("3") }, text("new"));
  assert.deepEqual(heard, ["old", "late", "new"]);
  assert.deepEqual(it.states.map(({ state }) => state), ["connecting", "online", "online"]);
  assert.equal(last(it.states).connection, "b");
  const answer = client.business("chat").request("echo", "hi");
  const { requestId } = socket.take(Kind.REQUEST).params;
  socket.say(Kind.RESPONSE, { requestId });
  await answer;
  client.close();
});

test("the node's alternatives come first, then control's, then control itself", async () => {
  const { house: it, client, socket } = await online();
  const bad = [ws("", 1), ws("a b", 1), ws("h", 0), { ...ws("h", 1), protocol: "smoke" }, ws("a.test", 1)];
  socket.say(Kind.GO_AWAY, { deadlineMs: 30_000, alternatives: [...bad, ws("n.test", 9)] });
  const urls = [];
  for (let dial = 0; dial < 2; dial += 1) {
    await settle();
    urls.push(last(it.sockets).url);
    last(it.sockets).break();
  }
  assert.deepEqual(urls, ["ws://n.test:9/", "ws://b.test:2/"], "what can be dialled, and not this node");
  await settle();
  assert.equal(it.accessCalls.length, 2, "control was asked again");
  assert.deepEqual(it.states.map(({ state }) => state), ["connecting", "online"]);
  client.close();
});

test("an alternative that is no address to the browser is passed over", async () => {
  const { house: it, client, socket } = await online();
  it.malformed.push("ws://[n:]:9/");
  socket.say(Kind.GO_AWAY, { deadlineMs: 30_000, alternatives: [ws("n:", 9)] });
  const next = await arrive(it);
  assert.equal(next.socket.url, "ws://b.test:2/");
  client.close();
});

test("superseded by its own login is no reason to stay away, by another it is", async () => {
  const first = await online();
  first.socket.say(Kind.GO_AWAY, { deadlineMs: 30_000 });
  const { socket } = await arrive(first.house);
  first.socket.say(Kind.CLOSE, { code: 4408 });
  await settle();
  await first.house.login.call({ ...first.house, sockets: [greeted(socket)] }, { abilities: ALL });
  assert.deepEqual(first.house.states.map(({ state }) => state), ["connecting", "online", "online"]);
  first.client.close();

  const other = await online();
  other.socket.say(Kind.GO_AWAY, { deadlineMs: 30_000 });
  await settle(); // dialled, and no LOGIN sent yet
  other.socket.say(Kind.CLOSE, { code: 4408 });
  await settle();
  assert.deepEqual([last(other.house.states).state, last(other.house.states).cause], ["closed", "superseded"]);

  const overtaken = await online();
  overtaken.socket.say(Kind.GO_AWAY, { deadlineMs: 30_000 });
  const late = await arrive(overtaken.house);
  late.socket.say(Kind.CLOSE, { code: 4408 });
  await settle();
  assert.equal(last(overtaken.house.states).state, "closed");
});

test("requests in flight are answered before the login, and new ones wait for it", async () => {
  const { house: it, client, socket: old } = await online();
  const chat = client.business("chat");
  const first = chat.request("echo", "1");
  const { requestId } = old.take(Kind.REQUEST).params;
  old.say(Kind.GO_AWAY, { deadlineMs: 30_000 });
  const { socket, login } = await arrive(it);
  assert.equal(login, undefined, "not yet");
  const second = chat.request("echo", "2");
  await settle();
  assert.equal(old.take(Kind.REQUEST), undefined);
  old.say(Kind.RESPONSE, { requestId });
  await first;
  await settle();
  assert.ok(socket.take(Kind.LOGIN));
  await it.login.call({ ...it, sockets: [greeted(socket)] }, { abilities: ALL });
  socket.say(Kind.RESPONSE, { requestId: socket.take(Kind.REQUEST).params.requestId });
  await second;
  client.close();
});

test("a request that takes long is answered on the connection that was left, or lost with it", async () => {
  for (const isAnswered of [true, false]) {
    const { house: it, client, socket: old } = await online();
    const answer = client.business("chat").request("slow", "", { deadlineMs: 20_000 });
    const { requestId } = old.take(Kind.REQUEST).params;
    old.say(Kind.GO_AWAY, { deadlineMs: 30_000 });
    const { socket } = await arrive(it);
    await pass(1_000);
    assert.ok(socket.take(Kind.LOGIN), "a second is all it gets");
    await it.login.call({ ...it, sockets: [greeted(socket)] }, { abilities: ALL });
    assert.equal(old.take(Kind.BYE), undefined);
    if (isAnswered) {
      old.say(Kind.RESPONSE, { requestId });
      await answer;
      assert.ok(old.take(Kind.BYE));
    } else {
      const lost = assert.rejects(answer, { code: "connection_lost" });
      old.say(Kind.CLOSE, { code: 4408 });
      await lost;
    }
    assert.equal(client.state, "online");
    client.close();
  }
});

test("what has a position comes from one connection, a live group's push once", async () => {
  const setting = await online();
  const { house: it, client, socket: old } = setting;
  const heard = [];
  client.business("chat").onPush((push) => void heard.push(push.text()));
  const joins = client.join("g");
  old.say(Kind.JOINED, { requestId: old.take(Kind.JOIN).params.requestId, group: "g", business: 4 });
  await joins;
  const push = (socket, id) => socket.say(Kind.GROUP_PUSH, { business: 4, group: "g", pushId: text(id) }, text(id));
  const stored = (socket, seq) => socket.say(Kind.PUSH, { business: 4, pushId: text("s"), ...position(seq) }, text(`s${seq}`));
  stored(old, 1);
  old.say(Kind.GO_AWAY, { deadlineMs: 30_000 });
  const { socket } = await arrive(it);
  push(old, "g1");
  stored(old, 2);
  await settle();
  await it.login.call({ ...it, sockets: [greeted(socket)] }, { abilities: ALL });
  const again = socket.take(Kind.JOIN).params;
  assert.equal(again.group, "g");
  assert.equal(old.take(Kind.BYE), undefined, "the group is not joined yet");
  push(socket, "g1");
  push(socket, "g2");
  push(old, "g2");
  push(old, "g3");
  stored(old, 3);
  for (const seq of [1, 2, 3]) stored(socket, seq);
  await settle();
  socket.say(Kind.JOINED, { requestId: again.requestId, group: "g", business: 4 });
  await settle();
  assert.ok(old.take(Kind.BYE));
  assert.deepEqual(heard, ["s1", "g1", "s2", "g2", "g3", "s3"]);
  client.close();
});

test("a move that fails is tried until the deadline, and the connection is used to its end", async () => {
  const { house: it, client, socket } = await online();
  socket.say(Kind.GO_AWAY, { deadlineMs: 20_000 });
  for (let second = 0; second < 60; second += 1) {
    await pass(500);
    socket.say(Kind.PONG, {});
    const newest = last(it.sockets);
    if (newest !== socket && newest.readyState === 0) newest.break();
  }
  const dials = it.sockets.length;
  assert.ok(dials > 3 && dials < 30, `${dials} with growing delays`);
  await pass(20_000);
  socket.say(Kind.PONG, {});
  assert.equal(it.sockets.length, dials, "and no more");
  assert.equal(client.state, "online");
  socket.say(Kind.CLOSE, { code: 4200, alternatives: [ws("n.test", 9)] });
  await settle();
  assert.equal(client.state, "waiting");
  await pass(2_000);
  assert.equal(last(it.sockets).url, "ws://n.test:9/");
  client.close();
});

test("GO_AWAY every second moves it twice in ten, and never without the ability", async () => {
  const setting = await online();
  let moves = 0;
  let { socket } = setting;
  for (let second = 0; second < 30; second += 1) {
    socket.say(Kind.GO_AWAY, { deadlineMs: 30_000 });
    await pass(1_000);
    const newest = last(setting.house.sockets);
    if (newest === socket) continue;
    await move({ ...setting, socket: { say() {} } });
    socket = newest;
    moves += 1;
  }
  assert.ok(moves >= 5 && moves <= 7, `${moves} moves`);
  setting.client.close();

  const plain = await online({ abilities: 3 });
  plain.socket.say(Kind.GO_AWAY, { deadlineMs: 30_000 });
  await settle();
  assert.equal(plain.house.sockets.length, 1);
  plain.client.close();
});

test("closing ends both connections and the move", async () => {
  const { house: it, client, socket } = await online();
  socket.say(Kind.GO_AWAY, { deadlineMs: 30_000 });
  await settle();
  client.close();
  await pass(60_000);
  assert.equal(it.sockets.length, 2);
  assert.ok(it.sockets.every(({ readyState }) => readyState === 3));
});

test("a login without an answer may have won, also after its move was given up", async () => {
  for (const isToldAgain of [false, true]) {
    const { house: it, client, socket } = await online();
    socket.say(Kind.GO_AWAY, { deadlineMs: 1_000 });
    const lost = await arrive(it);
    assert.ok(lost.login);
    lost.socket.break();
    await pass(5_000);
    for (const other of it.sockets.slice(2)) if (other.readyState === 0) other.break();
    await pass(5_000);
    const dials = it.sockets.length;
    if (isToldAgain) {
      socket.say(Kind.GO_AWAY, { deadlineMs: 30_000 });
      await settle();
      assert.equal(it.sockets.length, dials + 1, "another move");
    }
    socket.say(Kind.CLOSE, { code: 4408 });
    await settle();
    assert.equal(client.state, "waiting", "it was its own login");
    await pass(2_000);
    const back = await arrive(it);
    back.socket.say(Kind.CLOSE, { code: 4408 });
    await settle();
    assert.equal(client.state, "closed", "and this is another one");
  }
});

test("superseded before the LOGIN was sent is the word of another one", async () => {
  const { house: it, client, socket } = await online();
  void client.business("chat").request("slow").catch(() => {});
  socket.say(Kind.GO_AWAY, { deadlineMs: 30_000 });
  const { login } = await arrive(it);
  assert.equal(login, undefined, "a request is in flight");
  socket.say(Kind.CLOSE, { code: 4408 });
  await settle();
  assert.equal(client.state, "closed");
});

test("the last connection of a move that breaks is a loss like any other", async () => {
  const { house: it, client, socket } = await online();
  socket.say(Kind.GO_AWAY, { deadlineMs: 600_000 });
  const beside = await arrive(it);
  socket.say(Kind.CLOSE, { code: 4408 });
  await settle();
  assert.equal(client.state, "online", "the answer is on its way");
  beside.socket.break();
  await settle();
  assert.equal(client.state, "waiting");
  await pass(1_000);
  assert.equal((await it.login()).login.attempt, 3);
  assert.equal(client.state, "online");
  client.close();
});

test("a node may take its time to close what was left", async () => {
  const setting = await online();
  const { house: it, client, socket: old } = setting;
  const chat = client.business("chat");
  const slow = chat.request("slow", "", { deadlineMs: 60_000 });
  const { requestId } = old.take(Kind.REQUEST).params;
  old.say(Kind.GO_AWAY, { deadlineMs: 2_000 });
  const { socket } = await arrive(it);
  await pass(1_000);
  await it.login.call({ ...it, sockets: [greeted(socket)] }, { abilities: ALL, connection: "b" });
  await pass(3_000);
  const quick = chat.request("echo", "hi");
  assert.equal(old.take(Kind.REQUEST), undefined);
  socket.say(Kind.RESPONSE, { requestId: socket.take(Kind.REQUEST).params.requestId });
  await quick;
  await pass(22_000);
  assert.ok(old.take(Kind.PING), "a silent link would be closed");
  old.say(Kind.PONG, {});
  assert.equal(old.take(Kind.BYE), undefined);
  old.say(Kind.RESPONSE, { requestId });
  await slow;
  assert.ok(old.take(Kind.BYE));
  old.say(Kind.CLOSE, { code: 4408 });
  await settle();
  assert.deepEqual(it.states.map(({ state }) => state), ["connecting", "online", "online"]);
  client.close();
});

test("the next move waits a while for answers of the last one", async () => {
  for (const isAnswered of [true, false]) {
    const { house: it, client, socket: old } = await online();
    const slow = client.business("chat").request("slow", "", { deadlineMs: 20_000 });
    const { requestId } = old.take(Kind.REQUEST).params;
    old.say(Kind.GO_AWAY, { deadlineMs: 30_000 });
    const { socket } = await arrive(it);
    await pass(1_000);
    await it.login.call({ ...it, sockets: [greeted(socket)] }, { abilities: ALL, connection: "b" });
    socket.say(Kind.GO_AWAY, { deadlineMs: 15_000 });
    await pass(4_900);
    assert.equal(it.sockets.length, 2);
    if (isAnswered) old.say(Kind.RESPONSE, { requestId });
    const ended = isAnswered ? slow : assert.rejects(slow, { code: "connection_lost" });
    await pass(200);
    await ended;
    assert.equal(it.sockets.length, 3, "it has begun");
    client.close();
  }
});

test("the joins of a move are waited for, however soon it followed another one", async () => {
  const { house: it, client, socket: first } = await online();
  const join = (socket) => {
    const { requestId, group } = socket.take(Kind.JOIN).params;
    socket.say(Kind.JOINED, { requestId, group, business: 4 });
    return settle();
  };
  const joins = [client.join("g"), client.join("h")];
  await join(first);
  await join(first);
  await Promise.all(joins);
  const second = await move({ house: it, socket: first });
  await pass(1_500);
  const third = await move({ house: it, socket: second });
  assert.notEqual(third, second);
  await pass(600);
  await join(third);
  assert.equal(second.take(Kind.BYE), undefined, "the time of the first move is not that of the second");
  await join(third);
  assert.ok(second.take(Kind.BYE));
  client.close();
});

// --- tickets and windows ---

test("a ticket stands for the token; a refused one is followed by the token, at once and once", async () => {
  const { house: it, client, socket } = await online({ resumeTicket: text("ticket") });
  socket.break();
  await pass(2_000);
  const back = await arrive(it);
  assert.deepEqual([back.login.token, new TextDecoder().decode(back.login.resumeTicket)], ["token-1", "ticket"]);
  back.socket.say(Kind.CLOSE, { code: 4301 });
  const again = await arrive(it);
  assert.notEqual(again.socket, back.socket, "without a wait");
  assert.deepEqual([again.login.token, again.login.resumeTicket.length], ["token-1", 0]);
  again.socket.say(Kind.CLOSE, { code: 4301 });
  await settle();
  await pass(1);
  assert.equal(it.accessCalls.length, 2, "then another token");
  client.close();
});

test("a ticket ends with its time, with its token, and with the client", async () => {
  const ticket = new Ticket();
  assert.equal(ticket.show().length, 0);
  ticket.given(text("t"));
  assert.equal(ticket.show().length, 1);
  await pass(RESUME_TICKET_LIFE_MS);
  assert.equal(ticket.show().length, 0);
  ticket.given(text("t"));
  ticket.given(text(""));
  assert.equal(ticket.show().length, 0);
  ticket.given(new Uint8Array(1_025));
  assert.equal(ticket.show().length, 0);
  ticket.given(text("t"));
  ticket.show();
  assert.deepEqual([ticket.isToBlame(), ticket.isToBlame()], [true, false]);

  const { house: it, client } = await online({ resumeTicket: text("ticket") });
  client.close();
  client.start();
  const { login } = await arrive(it);
  assert.equal(login.resumeTicket.length, 0);
  client.close();
});

test("the window of the login counts before control's", async () => {
  for (const [told, expected] of [[0, 500], [40_000, 20_000]]) {
    const { house: it, client, socket } = await online({ reconnectWindowMs: told });
    socket.break();
    await settle();
    assert.equal(last(it.states).retryInMs, expected);
    client.close();
  }
});

test("only what the other connection brought is an echo", () => {
  const echoes = new Echoes();
  assert.deepEqual(["a", "a", "b"].map((link) => echoes.isEcho(link, "g", text("1"))), [false, false, true]);
  assert.equal(echoes.isEcho("b", "h", text("1")), false);
  assert.equal(echoes.isEcho("b", "g", text("")), false);
});

test("a token that is refused while moving is not shown again", async () => {
  const it = house();
  const { access } = it;
  it.access = (call) => {
    const answer = access(call);
    answer.body.access_points.push({ protocol: "ws", host: "c.test", port: 3, node: "c" });
    return answer;
  };
  const client = it.client();
  client.start();
  const { socket } = await it.login({ abilities: ALL });
  socket.say(Kind.GO_AWAY, { deadlineMs: 30_000 });
  const refused = await arrive(it);
  refused.socket.say(Kind.CLOSE, { code: 4301 });
  const next = await arrive(it);
  assert.deepEqual([next.socket.url, next.login.token, it.accessCalls.length], ["ws://c.test:3/", "token-2", 2]);
  client.close();
});

test("a ticket of the token before is worth nothing beside a new one", async () => {
  const { house: it, client, socket } = await online({ resumeTicket: text("ticket") });
  socket.break();
  await pass(1_000);
  for (const dials of [3, 4]) {
    last(it.sockets).break();
    await pass(dials === 3 ? 1 : 1_000);
  }
  assert.equal(it.accessCalls.length, 2, "after a round");
  const { login } = await arrive(it);
  assert.deepEqual([login.token, login.resumeTicket.length], ["token-2", 0]);
  client.close();
});

test("full nodes are passed over, each once in a round, without a wait", async () => {
  const it = house();
  const { access } = it;
  it.access = (call) => {
    const answer = access(call);
    answer.body.access_points.push({ protocol: "ws", host: "c.test", port: 3, node: "c" });
    return answer;
  };
  const client = it.client();
  client.start();
  const urls = [];
  for (let dial = 0; dial < 3; dial += 1) {
    const { socket } = await arrive(it);
    urls.push(socket.url);
    socket.say(Kind.CLOSE, { code: 4201, retryAfterMs: dial === 2 ? 0 : 60_000 });
    await settle();
    if (dial < 2) assert.equal(last(it.states).retryInMs, 0);
    await pass(1);
  }
  assert.deepEqual(urls, ["ws://a.test:1/", "ws://b.test:2/", "ws://c.test:3/"]);
  assert.ok(last(it.states).retryInMs > 0, "and then a wait");
  await pass(2_000);
  assert.equal(last(it.sockets).url, urls[0], "the one that was asked longest ago");
  assert.equal(it.accessCalls.length, 2);
  client.close();
});

test("a time that was told holds, also when the network comes back", async () => {
  const page = new EventTarget();
  const listen = globalThis.addEventListener;
  globalThis.addEventListener = page.addEventListener.bind(page);
  try {
    for (const [retryAfterMs, dials] of [[0, 2], [30_000, 1]]) {
      const { house: it, client, socket } = await online();
      socket.say(Kind.CLOSE, { code: 4100, retryAfterMs });
      await settle();
      page.dispatchEvent(new Event("online"));
      await settle();
      assert.equal(it.sockets.length, dials);
      client.close();
    }
  } finally {
    globalThis.addEventListener = listen;
  }
});
