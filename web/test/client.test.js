import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { Kind } from "../wire.js";
import { House, clock, pass, settle } from "./house.js";

beforeEach(() => clock.start());
afterEach(() => clock.stop());

const text = (body) => new TextEncoder().encode(body);
const code = (name) => (failure) => failure.code === name;
const last = (items) => items.at(-1);

async function online(options) {
  const house = new House();
  const client = house.client(options);
  client.start();
  const { socket, login } = await house.login();
  return { house, client, socket, login };
}

test("a device asks control, dials what it may, and logs in", async () => {
  const { house, client, socket, login } = await online({ businesses: ["chat"], appVersion: "2.1" });
  const { url, app, device, platform, businesses, proof } = house.accessCalls[0];
  assert.equal(url, "http://control.test/v1/access");
  assert.deepEqual([app, device, platform, businesses, proof], ["demo", "web-1", "web", ["chat"], { type: "open" }]);
  assert.equal(socket.url, "ws://127.0.0.1:7102/");
  assert.deepEqual(socket.protocols, ["hawser.1"]);
  assert.deepEqual([login.app, login.device, login.token, login.attempt], ["demo", "web-1", "token-1", 1]);
  assert.equal(login.instance.length, 16);
  assert.equal(login.client.appVersion, "2.1");
  assert.deepEqual(house.states.map(({ state }) => state), ["connecting", "online"]);
  assert.equal(last(house.states).connection, "node/1/2.3");
  client.close();
  assert.equal(socket.take(Kind.BYE).params.code, 4000);
});

test("the instance stays and the attempt grows over connections and page loads", async () => {
  const first = await online();
  first.socket.break();
  await pass(1_000);
  const again = await first.house.login();
  assert.deepEqual([...again.login.instance], [...first.login.instance]);
  assert.equal(again.login.attempt, 2);
  first.client.close();

  const page = new House();
  page.store = first.house.store;
  const client = page.client();
  client.start();
  const { login } = await page.login();
  assert.deepEqual([...login.instance], [...first.login.instance]);
  assert.equal(login.attempt, 3);
  client.close();
});

test("a request is answered, refused, or ends at its deadline", async () => {
  const { client, socket } = await online();
  const chat = client.business("chat");
  const answered = chat.request("echo", "hi", { metadata: { a: "b" }, deadlineMs: 500 });
  const request = socket.take(Kind.REQUEST);
  const { requestId, business, method, deadlineMs } = request.params;
  assert.deepEqual([business, method, deadlineMs, { ...request.params.metadata }], [4, "echo", 500, { a: "b" }]);
  socket.say(Kind.RESPONSE, { requestId, metadata: { c: "d" } }, text("ho"));
  const answer = await answered;
  assert.deepEqual([answer.text(), { ...answer.metadata }], ["ho", { c: "d" }]);

  const refused = chat.request("echo");
  socket.say(Kind.RESPONSE, { requestId: requestId + 1, status: 6, message: "full" });
  await assert.rejects(refused, { code: "overloaded", message: "full" });

  const late = assert.rejects(chat.request("echo", "", { deadlineMs: 300 }), code("deadline_exceeded"));
  await pass(300);
  await late;
  await assert.rejects(client.business("live").request("x"), code("unknown_business"));
  await assert.rejects(client.business("other").request("x"), code("unknown_business"));
  await assert.rejects(chat.request("x", new Uint8Array(1_024)), code("too_large"));
  await assert.rejects(chat.request("m".repeat(129)), code("invalid_argument"));
  await assert.rejects(chat.request("x", "", { metadata: { k: "v".repeat(5_000) } }), code("invalid_argument"));
  client.close();
});

test("a request waits for a connection, and one in flight is never sent again", async () => {
  const house = new House();
  const client = house.client();
  const chat = client.business("chat");
  const early = chat.request("echo", "early");
  client.start();
  const { socket } = await house.login();
  const { params, body } = socket.take(Kind.REQUEST);
  assert.equal(new TextDecoder().decode(body), "early");
  socket.say(Kind.RESPONSE, { requestId: params.requestId });
  await early;

  const lost = assert.rejects(chat.request("echo", "lost"), code("connection_lost"));
  socket.break();
  await lost;
  await pass(1_000);
  const next = await house.login();
  assert.equal(next.socket.take(Kind.REQUEST), undefined);
  const closed = assert.rejects(chat.request("echo", "x"), code("closed"));
  client.close();
  await closed;
  await assert.rejects(chat.request("echo", "x"), code("closed"));
});

test("pushes reach the listeners of their business and no other", async () => {
  const { client, socket } = await online();
  const heard = [];
  const end = client.business("chat").onPush((push) => heard.push([push.group, push.text(), { ...push.metadata }]));
  client.business("live").onPush(() => assert.fail("not for live"));
  socket.say(Kind.PUSH, { business: 4, pushId: text("p1"), metadata: { k: "v" } }, text("one"));
  socket.say(Kind.GROUP_PUSH, { business: 4, group: "lobby" }, text("two"));
  socket.say(Kind.PUSH, { business: 99 }, text("nobody's"));
  assert.deepEqual(heard, [[null, "one", { k: "v" }], ["lobby", "two", {}]]);
  end();
  socket.say(Kind.PUSH, { business: 4 }, text("three"));
  assert.equal(heard.length, 2);
  client.close();
});

test("groups are joined again after a reconnect, but not those that put the device out", async () => {
  const { house, client, socket } = await online();
  const gone = [];
  client.onLeft((left) => gone.push(left));
  for (const group of ["lobby", "quiz"]) {
    const joined = client.join(group);
    const { requestId } = socket.take(Kind.JOIN).params;
    socket.say(Kind.JOINED, { requestId, group, business: 4 });
    assert.deepEqual(await joined, { group, business: "chat", history: false });
  }
  const refused = client.join("secret");
  const { requestId } = socket.take(Kind.JOIN).params;
  socket.say(Kind.JOINED, { requestId, group: "secret", status: 11 });
  await assert.rejects(refused, code("group_not_found"));
  socket.say(Kind.LEFT, { group: "quiz", reason: 3 });
  assert.deepEqual(gone, [{ group: "quiz", reason: "kicked" }]);

  socket.break();
  await pass(1_000);
  const next = await house.login();
  const again = next.socket.take(Kind.JOIN).params;
  assert.equal(again.group, "lobby");
  assert.equal(next.socket.take(Kind.JOIN), undefined);
  next.socket.say(Kind.JOINED, { requestId: again.requestId, group: "lobby", status: 8 });
  await pass(5_000);
  const third = next.socket.take(Kind.JOIN).params;
  assert.equal(third.group, "lobby", "a passing trouble does not take the wish away");
  next.socket.say(Kind.JOINED, { requestId: third.requestId, group: "lobby", status: 11 });
  await settle();
  assert.deepEqual(last(gone), { group: "lobby", reason: "group_not_found" });
  client.close();
});

test("a join survives the loss of its connection, and leaving ends the wish", async () => {
  const { house, client, socket } = await online();
  const joined = client.join("lobby");
  socket.break();
  await pass(1_000);
  const next = await house.login();
  const { requestId } = next.socket.take(Kind.JOIN).params;
  next.socket.say(Kind.JOINED, { requestId, group: "lobby", business: 4 });
  await joined;
  const left = client.leave("lobby");
  const leave = next.socket.take(Kind.LEAVE).params;
  next.socket.say(Kind.LEFT, { requestId: leave.requestId, group: "lobby", status: 12 });
  await left;
  next.socket.break();
  await pass(2_000);
  const third = await house.login();
  assert.equal(third.socket.take(Kind.JOIN), undefined);
  client.close();
});

test("silence is broken by PING, and a node that stays silent is left", async () => {
  const { house, client, socket } = await online();
  await pass(24_900);
  assert.equal(socket.take(Kind.PING), undefined);
  await pass(100);
  assert.ok(socket.take(Kind.PING));
  socket.say(Kind.PONG, {});
  await pass(25_000);
  assert.ok(socket.take(Kind.PING));
  await pass(9_900);
  assert.equal(last(house.states).state, "online");
  await pass(100);
  assert.equal(last(house.states).state, "waiting");
  assert.equal(last(house.states).cause, "connection_lost");
  client.close();
});

for (const { code, retryAfterMs, delay, calls, state, url = "ws://127.0.0.1:7102/" } of [
  { code: 4001, delay: 500, calls: 1, state: "waiting" },
  { code: 4100, retryAfterMs: 3_000, delay: 3_750, calls: 1, state: "waiting" },
  { code: 4200, delay: 500, calls: 1, state: "waiting", url: "wss://[::1]:7103/" },
  { code: 4300, delay: 0, calls: 2, state: "waiting" },
  { code: 4408, calls: 1, state: "closed" },
  { code: 4499, calls: 1, state: "closed" },
]) {
  test(`close code ${code} is obeyed`, async () => {
    const { house, client, socket } = await online();
    await pass(20_000);
    socket.say(Kind.CLOSE, { code, reason: "because", retryAfterMs });
    await settle();
    assert.equal(last(house.states).state, state);
    assert.equal(last(house.states).reason, "because");
    assert.equal(last(house.states).retryInMs, delay);
    assert.equal(socket.readyState, 3);
    if (state === "waiting") {
      await pass(Math.max(1, delay));
      const next = await house.login();
      assert.equal(next.socket.url, url);
    }
    assert.equal(house.accessCalls.length, calls);
    client.close();
  });
}

test("a WebSocket close with a published number counts as the CLOSE that was not seen", async () => {
  const { house, client, socket } = await online();
  socket.break(4408);
  await settle();
  assert.deepEqual([last(house.states).state, last(house.states).cause], ["closed", "superseded"]);
  client.start();
  const { login } = await house.login();
  assert.equal(login.attempt, 2, "started again by hand");
  client.close();
});

test("a start after a close begins from nothing", async () => {
  const { house, client } = await online();
  await pass(20_000);
  client.close();
  client.start();
  await settle();
  house.sockets.at(-1).break();
  await settle();
  assert.equal(last(house.states).retryInMs, 0, "the next address at once: no session was lost");
  client.close();
});

test("addresses that do not answer take turns, and then control is asked again", async () => {
  const house = new House();
  const client = house.client();
  client.start();
  const urls = [];
  for (let i = 0; i < 4; i++) {
    await settle();
    const socket = house.sockets.at(-1);
    urls.push(socket.url);
    if (i % 2 === 0) socket.onerror();
    else socket.break();
    await pass(10_000);
  }
  const [ws, wss] = ["ws://127.0.0.1:7102/", "wss://[::1]:7103/"];
  assert.deepEqual(urls, [ws, wss, ws, wss]);
  assert.equal(house.accessCalls.length, 3, "after each round");
  house.sockets.at(-1).break();
  await pass(1);
  const { socket } = await house.login();
  assert.equal(socket.url, wss);
  socket.break();
  await pass(1_000);
  assert.equal((await house.login()).socket.url, wss, "what worked last comes first");
  client.close();
});

test("with control away a living token will do; a refusal ends it; trouble is waited out", async () => {
  const answer = new House().access();
  answer.body.refresh_after_ms = 10_000;
  const house = new House();
  house.access = () => answer;
  const client = house.client();
  client.start();
  const { socket } = await house.login();
  await pass(20_000);
  house.access = () => ({ status: 0 });
  socket.break();
  await pass(1_000);
  const { login } = await house.login();
  assert.equal(login.token, "token-0");
  assert.equal(house.accessCalls.length, 2);
  client.close();

  for (const [status, body, wanted] of [
    [403, { code: "disabled", detail: "switched off" }, "closed"],
    [503, { code: "no_access_point" }, "waiting"],
    [401, { code: "proof_expired" }, "waiting"],
    [502, {}, "waiting"],
  ]) {
    const other = new House();
    other.access = () => ({ status, body, headers: { "retry-after": "7" } });
    const refused = other.client();
    refused.start();
    await settle();
    const { state, cause, retryInMs = 0 } = last(other.states);
    assert.equal(state, wanted);
    assert.equal(cause, body.code ?? "http_502");
    assert.ok(state === "closed" || retryInMs >= 7_000);
    refused.close();
  }
});

test("the token is refreshed on the live connection", async () => {
  const { house, client, socket } = await online();
  for (let i = 0; i < 377; i++) {
    await pass(5_000);
    socket.say(Kind.PONG, {});
    assert.equal(socket.take(Kind.REFRESH), undefined);
  }
  await pass(5_000); // half of a tenth of the half hour that is left
  const refresh = socket.take(Kind.REFRESH);
  const { requestId } = refresh.params;
  const now = 1_000_000 + 1_890_000;
  socket.say(Kind.REFRESHED, { requestId, token: "newer", tokenRefreshAtMs: now + 9e5, tokenExpiresAtMs: now + 36e5 });
  house.access = () => ({ status: 0 });
  await pass(1_000);
  socket.break();
  await pass(1_000);
  const { login } = await house.login();
  assert.equal(login.token, "newer");
  client.close();
});

test("what a node may not send ends the link and not the page", async () => {
  for (const data of ["text", new Uint8Array(5).buffer]) {
    const { house, client, socket } = await online();
    socket.onmessage({ data });
    await settle();
    assert.equal(last(house.states).state, "waiting");
    client.close();
  }
});
