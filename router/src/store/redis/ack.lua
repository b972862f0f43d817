-- KEYS: as of a claim. ARGV: now, owner, epoch, is a sweep, keys brought, how far the device has handled.
-- Answer: 0, or 5 if its use was noted just now, and the inboxes if this is a sweep; why the session may not; or
-- 3 and what is missing.
local r, b = KEYS[1], KEYS[2]
local route, why = check(r, tonumber(ARGV[3]), ARGV[2])
if why then return {why} end
brought_keys(5)
local is_sweep, found = ARGV[4] == '1', {}
if is_sweep then
  found = read_inboxes(b)
  local wanting = missing(found)
  if wanting then return wanting end
else
  for business in pairs(keys) do
    local raw = call('HGET', b, business)
    found[business] = raw and read_meta(raw) or nil
  end
end
local done = 0
if route.at + TOUCH_INTERVAL <= now then
  done = 5
  write_route(r, route)
end
local brought = {}
positions(function(business, term, seq, s, c)
  local state = take(b, found, business, term, seq, s, c)
  brought[#brought + 1] = {business, term, seq, state}
end)
if not is_sweep then return {done} end
look_everywhere(b, found)
return add_tails({done}, found, brought)
