-- KEYS: inboxes, entries, the group itself. ARGV: now, how the group is believed to be, then as `read` says. Where it
-- is another one, it is as where there is no history.
if call('GET', KEYS[3]) ~= ARGV[2] then return {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1} end
return read(KEYS[1], KEYS[2], 3)
