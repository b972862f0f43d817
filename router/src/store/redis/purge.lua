-- KEYS: inboxes, entries, collapse keys. ARGV: now, business. Answer: how many entries left.
local raw = call('HGET', KEYS[1], ARGV[2])
if not raw then return 0 end
local m = read_meta(raw)
local left = count(m)
if left > 0 then
  trim(m, KEYS[2], KEYS[3], m[TAIL], m[TAIL + 1])
  m[PURGED_TO], m[PURGED_TO + 1] = m[TAIL], m[TAIL + 1]
  write_meta(KEYS[1], ARGV[2], m)
end
return left
