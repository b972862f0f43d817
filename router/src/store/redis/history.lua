-- KEYS: inboxes, entries. ARGV: now, then as `read` says.
return read(KEYS[1], KEYS[2], 2)
