-- KEYS: as of a claim. ARGV: now, owner, epoch, the epoch that it goes up to, whether the device is marked.
-- Answer: 0: it has; 1: a newer session is known; 2: this one is not, or under another epoch; or 4: to be marked
-- first.
local r, above = KEYS[1], tonumber(ARGV[4])
if check(r, above, ARGV[2]) then return {0} end
local route, why = check(r, tonumber(ARGV[3]), ARGV[2])
if not route then return {why} end
if is_mark_wanted(KEYS[#KEYS], ARGV[5]) then return {4} end
route.epoch = math.max(route.epoch, above)
write_route(r, route)
return {0}
