// @ts-check
/**
 * Just enough protobuf for the common parameters of a frame: scalars, strings, bytes, nested messages,
 * repeated fields and string maps, driven by a table of fields. Unknown fields are skipped, defaults
 * are not written, and fields leave in the order of their numbers.
 *
 * @typedef {"string" | "bytes" | "uint32" | "uint64" | "bool" | "map"} Scalar
 * @typedef {[number: number, type: Scalar | Schema, repeated?: "repeated"]} Field
 * @typedef {{ [name: string]: Field }} Schema
 */

const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const FIXED32 = 5;

/** @type {Schema} */
const ENTRY = { key: [1, "string"], value: [2, "string"] };

const toUtf8 = new TextEncoder();
const fromUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Bytes that are not the message they should be. */
export class ProtobufError extends Error {}

/**
 * Writes a message. Missing and default values are left out.
 * @param {Schema} schema
 * @param {{ [name: string]: any }} message
 * @returns {Uint8Array}
 */
export function encode(schema, message) {
  /** @type {number[]} */
  const out = [];
  const fields = Object.entries(schema).sort((a, b) => a[1][0] - b[1][0]);
  for (const [name, [number, type, repeated]] of fields) {
    const value = message[name];
    if (value === undefined || value === null) continue;
    if (type === "map") {
      for (const [key, item] of Object.entries(value)) {
        writeBytes(out, number, encode(ENTRY, { key, value: item }));
      }
    } else if (repeated) {
      for (const item of value) writeField(out, number, type, item, true);
    } else {
      writeField(out, number, type, value, false);
    }
  }
  return Uint8Array.from(out);
}

/**
 * @param {number[]} out @param {number} number @param {Scalar | Schema} type @param {any} value
 * @param {boolean} always write defaults too, as items of a repeated field must be
 */
function writeField(out, number, type, value, always) {
  if (type === "string") {
    if (always || value !== "") writeBytes(out, number, toUtf8.encode(value));
  } else if (type === "bytes") {
    if (always || value.length > 0) writeBytes(out, number, value);
  } else if (type === "uint32" || type === "uint64" || type === "bool") {
    if (always || BigInt(value) !== 0n) {
      writeVarint(out, number * 8 + VARINT);
      writeVarint(out, BigInt(value));
    }
  } else {
    writeBytes(out, number, encode(/** @type {Schema} */ (type), value));
  }
}

/** @param {number[]} out @param {number} number @param {Uint8Array} bytes */
function writeBytes(out, number, bytes) {
  writeVarint(out, number * 8 + BYTES);
  writeVarint(out, bytes.length);
  for (const byte of bytes) out.push(byte);
}

/** @param {number[]} out @param {number | bigint} value */
function writeVarint(out, value) {
  let rest = BigInt(value);
  while (rest > 127n) {
    out.push(Number(rest & 127n) | 128);
    rest >>= 7n;
  }
  out.push(Number(rest));
}

/**
 * Reads a message; every field of the schema is there afterwards, with its default where nothing was
 * sent (a nested message: `null`). Numbers of 64 bits are numbers while they are safe, else bigints.
 * @param {Schema} schema
 * @param {Uint8Array} bytes
 * @returns {{ [name: string]: any }}
 */
export function decode(schema, bytes) {
  const reader = new Reader(bytes);
  /** @type {{ [name: string]: any }} */
  const message = {};
  /** @type {Map<number, [string, Field]>} */
  const byNumber = new Map();
  for (const [name, field] of Object.entries(schema)) {
    byNumber.set(field[0], [name, field]);
    message[name] = initial(field);
  }
  while (!reader.done()) {
    const key = reader.varint32();
    const wire = key & 7;
    const known = byNumber.get(key >>> 3);
    if (key >>> 3 === 0) throw new ProtobufError("field number 0");
    if (!known) {
      reader.skip(wire);
      continue;
    }
    const [name, [, type, repeated]] = known;
    if (type === "map") {
      const entry = decode(ENTRY, reader.expect(wire, BYTES).bytes());
      message[name][entry.key] = entry.value;
    } else if (repeated) {
      message[name].push(readField(reader, type, wire));
    } else {
      message[name] = readField(reader, type, wire);
    }
  }
  return message;
}

/** @param {Field} field */
function initial([, type, repeated]) {
  if (repeated) return [];
  switch (type) {
    case "string": return "";
    case "bytes": return new Uint8Array(0);
    case "uint32": return 0;
    case "uint64": return 0;
    case "bool": return false;
    // Without a prototype, so that no key a peer sends can mean anything else than a key.
    case "map": return Object.create(null);
    default: return null;
  }
}

/** @param {Reader} reader @param {Scalar | Schema} type @param {number} wire */
function readField(reader, type, wire) {
  switch (type) {
    case "string": return reader.expect(wire, BYTES).string();
    case "bytes": return reader.expect(wire, BYTES).bytes().slice();
    case "uint32": return reader.expect(wire, VARINT).varint32();
    case "uint64": return reader.expect(wire, VARINT).varint64();
    case "bool": return reader.expect(wire, VARINT).varint64() != 0;
    default: return decode(/** @type {Schema} */ (type), reader.expect(wire, BYTES).bytes());
  }
}

class Reader {
  #at = 0;
  #bytes;

  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.#bytes = bytes;
  }

  done() {
    return this.#at >= this.#bytes.length;
  }

  /** @param {number} wire @param {number} wanted */
  expect(wire, wanted) {
    if (wire !== wanted) throw new ProtobufError("a field has another type than it should");
    return this;
  }

  /** @returns {bigint} */
  #varint() {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      if (this.done()) throw new ProtobufError("cut short");
      const byte = this.#bytes[this.#at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return BigInt.asUintN(64, value);
    }
    throw new ProtobufError("a number is too long");
  }

  varint32() {
    return Number(BigInt.asUintN(32, this.#varint()));
  }

  varint64() {
    const value = this.#varint();
    return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value;
  }

  bytes() {
    return this.#take(this.varint64());
  }

  string() {
    try {
      return fromUtf8.decode(this.bytes());
    } catch (failure) {
      if (failure instanceof ProtobufError) throw failure;
      throw new ProtobufError("a text is not UTF-8");
    }
  }

  /** @param {number | bigint} length */
  #take(length) {
    if (length > this.#bytes.length - this.#at) throw new ProtobufError("cut short");
    const start = this.#at;
    this.#at += Number(length);
    return this.#bytes.subarray(start, this.#at);
  }

  /** @param {number} wire */
  skip(wire) {
    switch (wire) {
      case VARINT: this.#varint(); break;
      case FIXED64: this.#take(8); break;
      case BYTES: this.bytes(); break;
      case FIXED32: this.#take(4); break;
      default: throw new ProtobufError("a field of an unknown type");
    }
  }
}
