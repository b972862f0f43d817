// Groups with a history, and what a live group missed: proto/WIRE.md, "History".
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { Ability, Kind } from "../wire.js";
import { House, clock, pass, settle } from "./house.js";

beforeEach(() => clock.start());
afterEach(() => clock.stop());

const T = 1_700_000_000_000;
const at = (seq, term = T) => ({ term, seq });
const HISTORY = { abilities: Ability.HISTORY };

/** A member of a history group whose newest push is number 5. */
async function member(options = {}) {
  const house = new House();
  const client = house.client();
  const heard = [];
  client.business("chat").onPush((push) => heard.push(Number(push.position?.seq ?? push.text())));
  client.onMissed(({ count }) => heard.push(`missed ${count}`));
  client.start();
  const { socket } = await house.login(HISTORY);
  const joining = client.join("lobby", options);
  const join = socket.take(Kind.JOIN).params;
  joined(socket, join.requestId, 5);
  assert.equal((await joining).history, true);
  return { house, client, heard, socket, join };
}

function joined(socket, requestId, tail, floor = 0, more = {}) {
  socket.say(Kind.JOINED, {
    requestId, group: "lobby", business: 4, history: true, tailTerm: T, tailSeq: tail, floorTerm: T, floorSeq: floor, ...more,
  });
}

function push(socket, seq, prev = seq - 1, term = T) {
  socket.say(Kind.GROUP_PUSH, { business: 4, group: "lobby", term, seq, prevTerm: T, prevSeq: prev });
}

const recover = (socket) => socket.take(Kind.RECOVER)?.params;

test("a member begins at the tail, drops what it had, and asks for what it misses", async () => {
  const { client, heard, socket, join } = await member();
  assert.deepEqual([join.lastTerm, join.lastSeq], [0, 0]);
  push(socket, 5);
  push(socket, 6);
  push(socket, 6);
  push(socket, 9);
  push(socket, 10);
  assert.deepEqual(recover(socket), { group: "lobby", ...at(6) });
  assert.equal(recover(socket), undefined);
  for (const seq of [7, 8, 9, 10]) push(socket, seq);
  push(socket, 12, 10);
  assert.deepEqual(heard, [6, 7, 8, 9, 10, 12], "a hole that the servers know of is none");
  push(socket, 20);
  assert.deepEqual(recover(socket), { group: "lobby", ...at(12) });
  client.close();
});

test("after a reconnect it goes on where it was, and is told when that is no more", async () => {
  const { house, client, heard, socket } = await member();
  push(socket, 6);
  socket.break();
  await pass(1_000);
  const next = (await house.login(HISTORY)).socket;
  const { requestId, lastTerm, lastSeq } = next.take(Kind.JOIN).params;
  assert.deepEqual([lastTerm, lastSeq], [T, 6]);
  joined(next, requestId, 20, 9);
  const reset = (floor, tail) =>
    next.say(Kind.GROUP_RESET, { group: "lobby", business: 4, floorTerm: T, floorSeq: floor, tailTerm: T, tailSeq: tail });
  reset(9, 20);
  push(next, 10);
  reset(9, 20);
  push(next, 10);
  push(next, 11);
  reset(7, 7);
  push(next, 8);
  await settle();
  assert.deepEqual(heard, [6, "missed 0", 10, 11, "missed 0", 8]);
  assert.equal(recover(next), undefined);
  client.close();
});

test("a push may come before JOINED, and an empty history is a place too", async () => {
  const house = new House();
  const client = house.client();
  const heard = [];
  client.business("chat").onPush((push) => heard.push(Number(push.position.seq)));
  client.start();
  const { socket } = await house.login(HISTORY);
  void client.join("lobby");
  const { requestId } = socket.take(Kind.JOIN).params;
  push(socket, 8);
  joined(socket, requestId, 7);
  push(socket, 9);
  assert.deepEqual(heard, [8, 9]);
  assert.equal(recover(socket), undefined);
  client.close();

  const empty = await member({ last: at(0) });
  assert.deepEqual([empty.join.lastTerm, empty.join.lastSeq], [T, 0]);
  push(empty.socket, 1, 0);
  assert.deepEqual(empty.heard, [1], "what was missed comes, since the join was asked with a position");
  empty.client.close();
});

test("a business that puts the device in does not know where it was", async () => {
  const { house, client, socket } = await member();
  push(socket, 6);
  socket.break();
  await pass(1_000);
  const next = (await house.login(HISTORY)).socket;
  joined(next, 0, 9);
  assert.deepEqual(recover(next), { group: "lobby", ...at(6) });
  client.close();
});

test("a live group says how many were missed; leaving forgets the place", async () => {
  const { client, heard, socket } = await member();
  socket.say(Kind.MISSED, { group: "quiz", business: 4, count: 12 });
  assert.deepEqual(heard, ["missed 12"]);
  const left = client.leave("lobby");
  socket.say(Kind.LEFT, { requestId: socket.take(Kind.LEAVE).params.requestId, group: "lobby" });
  await left;
  const gone = assert.rejects(client.join("lobby"), { code: "closed" });
  const { lastSeq } = socket.take(Kind.JOIN).params;
  assert.equal(lastSeq, 0);
  client.close();
  await gone;
});

test("a node that knows no histories is not asked for one, and the place stays", async () => {
  const { house, client, heard, socket } = await member();
  push(socket, 6);
  socket.break();
  await pass(1_000);
  const old = (await house.login({ abilities: 0 })).socket;
  const { requestId } = old.take(Kind.JOIN).params;
  joined(old, requestId, 0, 0, { history: false, tailTerm: 0 });
  old.say(Kind.GROUP_PUSH, { business: 4, group: "lobby" }, new TextEncoder().encode("77"));
  await settle();
  assert.deepEqual(heard, [6, 77]);
  old.break();
  await pass(2_000);
  const next = (await house.login(HISTORY)).socket;
  assert.equal(next.take(Kind.JOIN).params.lastSeq, 6);
  client.close();
});
