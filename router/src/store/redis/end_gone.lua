-- KEYS: route, inboxes, what was heard of the device. ARGV: now, owner, epoch, whether the device is marked.
-- Answer: whether the session was there; 2: it is this connection's, of another epoch; or 4: to be marked
-- first.
local r, b = KEYS[1], KEYS[2]
local route = read_route(r)
if not route or route.owner ~= ARGV[2] then return 0 end
if route.epoch ~= tonumber(ARGV[3]) then return 2 end
if is_mark_wanted(KEYS[3], ARGV[4]) then return 4 end
hand_all(b, read_inboxes(b))
end_session(r, KEYS[3], route, false)
return 1
