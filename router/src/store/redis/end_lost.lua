-- KEYS: route, inboxes, what was heard of the device. ARGV: now, boot, node, whether the device is
-- marked. Answer: whether the session was there; or 4: to be marked first.
local r, b = KEYS[1], KEYS[2]
local route = read_route(r)
if not route or route.owner == '' then return 0 end
if string.sub(route.owner, 1, 8) ~= ARGV[2] or string.sub(route.owner, 17) ~= ARGV[3] then return 0 end
if is_mark_wanted(KEYS[3], ARGV[4]) then return 4 end
hand_all(b, read_inboxes(b))
end_session(r, KEYS[3], route, true)
return 1
