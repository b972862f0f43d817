// The tables of this folder against the project's own: the sources in proto/ are read as text.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { CLOSE_CODES, ERROR_CODES, retryOf } from "../codes.js";
import { Ability, GAP_REASONS, INBOX_STATES, Kind, LEFT_REASONS, messages } from "../wire.js";

const read = (path) => readFileSync(new URL(`../../proto/${path}`, import.meta.url), "utf8");

/** `Variant = 4000, "name"` rows of one macro call. */
function rows(source, macro) {
  const body = source.slice(source.indexOf(`\n${macro}! {`)).split("\n}")[0];
  const found = [...body.matchAll(/^\s+\w+ = (0x[0-9a-f]+|\d+), "(\w+)"/gm)];
  assert.ok(found.length > 10, `${macro} was found`);
  return Object.fromEntries(found.map(([, number, name]) => [Number(number), name]));
}

test("close and error codes are the published ones", () => {
  const source = read("src/code.rs");
  assert.deepEqual({ ...CLOSE_CODES }, rows(source, "close_codes"));
  assert.deepEqual({ ...ERROR_CODES }, rows(source, "error_codes"));
});

test("kinds are the published ones", () => {
  const published = rows(read("src/frame.rs"), "kinds");
  const here = Object.fromEntries(Object.entries(Kind).map(([name, number]) => [number, name]));
  assert.deepEqual(here, published);
});

test("every message has the fields of wire.proto", () => {
  const types = { "map<string, string>": "map", LeftReason: "uint32", GapReason: "uint32", InboxState: "uint32" };
  const source = read("rpc/wire.proto").replace(/\/\/.*$/gm, "");
  const published = [...source.matchAll(/^message (\w+) \{(.*?)\}$/gms)];
  for (const [, message, body] of published) {
    const fields = [...body.matchAll(/(repeated )?(map<string, string>|\w+) (\w+) = (\d+);/g)];
    const wanted = fields.map(([, repeated, type, name, number]) => {
      const camel = name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase());
      return [camel, [Number(number), types[type] ?? messages[type] ?? type, ...(repeated ? ["repeated"] : [])]];
    });
    assert.deepEqual(messages[message], Object.fromEntries(wanted), message);
  }
  assert.deepEqual(Object.keys(messages).sort(), published.map(([, name]) => name).sort());
  const enums = { LEFT_REASON: LEFT_REASONS, GAP_REASON: GAP_REASONS, INBOX_STATE: INBOX_STATES };
  for (const [prefix, names] of Object.entries(enums)) {
    const values = [...source.matchAll(new RegExp(`${prefix}_(\\w+) = (\\d+)`, "g"))];
    assert.equal(values.length, names.length);
    for (const [, name, number] of values.slice(1)) assert.equal(names[Number(number)], name.toLowerCase());
  }
  const bits = [...read("src/frame.rs").matchAll(/pub const (\w+): u32 = (\d+);/g)];
  assert.deepEqual({ ...Ability }, Object.fromEntries(bits.map(([, name, bit]) => [name, Number(bit)])));
});

test("the hundreds of a close code say what to do, known or not", () => {
  const cases = [
    [4001, "now"], [4102, "later"], [4200, "elsewhere"], [4399, "new token"], [4408, "never"], [1006, "now"],
  ];
  for (const [code, retry] of cases) assert.equal(retryOf(code), retry);
});
