// @ts-check
/**
 * Places in an inbox or in a group's history: compared by term, then by number. Both are numbers while
 * they are safe, else bigints, which compare with each other all the same.
 *
 * @typedef {{ term: number | bigint, seq: number | bigint }} Position
 */

/** Before everything: none. @type {Readonly<Position>} */
export const START = Object.freeze({ term: 0, seq: 0 });

/** Less than 0, 0, or above 0. @param {Position} a @param {Position} b */
export function compare(a, b) {
  if (a.term < b.term || a.term > b.term) return a.term < b.term ? -1 : 1;
  return a.seq < b.seq ? -1 : a.seq > b.seq ? 1 : 0;
}

/** @param {Position} at */
export function isStart(at) {
  return compare(at, START) === 0;
}

/** @param {Position} a @param {Position} b */
export function max(a, b) {
  return compare(a, b) < 0 ? b : a;
}

/** @param {Position} a @param {Position} b */
export function min(a, b) {
  return compare(a, b) < 0 ? a : b;
}

/** @param {Position} at */
export function format({ term, seq }) {
  return `${term}-${seq}`;
}

/** What {@link format} wrote; anything else is the start. @param {unknown} text @returns {Position} */
export function parse(text) {
  const [, term, seq] = /^(\d{1,20})-(\d{1,20})$/.exec(typeof text === "string" ? text : "") ?? [];
  if (term === undefined) return START;
  const numbers = [BigInt(term), BigInt(seq)];
  if (numbers.some((number) => BigInt.asUintN(64, number) !== number)) return START;
  const [first, second] = numbers.map((number) => (number <= Number.MAX_SAFE_INTEGER ? Number(number) : number));
  return { term: first, seq: second };
}
