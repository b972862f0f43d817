-- KEYS: inboxes, entries. ARGV: now, business.
-- Answer: entries, bytes, tail, floor, overflowed, the oldest entry.
local raw = call('HGET', KEYS[1], ARGV[2])
if not raw then return {0, 0, 0, 0, 0, 0, 0, ''} end
local m = read_meta(raw)
local oldest = count(m) > 0 and call('LINDEX', KEYS[2], 0)
return {
  count(m), m[BYTES] + m[BYTES + 1] + m[BYTES + 2], m[TAIL], m[TAIL + 1], m[FLOOR], m[FLOOR + 1],
  m[OVERFLOWED], oldest or '',
}
