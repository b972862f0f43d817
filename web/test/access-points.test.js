import assert from "node:assert/strict";
import { test } from "node:test";
import { webSocketPoints } from "../access.js";

const point = (protocol, port, weight = 1) => ({ protocol, host: "a", port, weight });
const answer = [point("tls", 1), point("wss", 2), point("wss", 3, 9), point("tcp", 4), point("ws", 5)];
const ports = (page) => webSocketPoints(answer, page).map(({ port }) => port);

test("access points stay in control's order, which is spread by weight already", () => {
  assert.deepEqual(ports(undefined), [2, 3, 5]);
});

test("a page that came over https opens no plain link", () => {
  assert.deepEqual(ports("https:"), [2, 3]);
});

test("a page that came over http tries plain links first", () => {
  assert.deepEqual(ports("http:"), [5, 2, 3]);
});
