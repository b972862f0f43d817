-- KEYS: route, inboxes, entries. ARGV: now, owner, epoch, then as `read` says.
-- Answer: why the session may not, or as `read` says.
local _, why = check(KEYS[1], tonumber(ARGV[3]), ARGV[2])
if why then return {why} end
return read(KEYS[2], KEYS[3], 4)
