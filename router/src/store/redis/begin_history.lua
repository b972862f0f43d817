-- KEYS: inboxes, entries, collapse keys. ARGV: now, when the group was created.
-- A history begins, unless there is one. Push ids that were remembered before it was born are not its own.
if call('HEXISTS', KEYS[1], '0') == 1 then return 0 end
call('DEL', KEYS[2], KEYS[3])
local m, created, time = new_meta(), tonumber(ARGV[2]), call('TIME')
m[TERM], m[TAIL], m[FLOOR] = created, created, created
m[BORN] = tonumber(time[1]) * 1000000 + tonumber(time[2])
write_meta(KEYS[1], '0', m)
return 1
