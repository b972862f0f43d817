-- KEYS: route, inboxes, then entries and collapse keys of each inbox that was named; last what was heard.
-- ARGV: now, owner, instance, attempt (two halves), watchers, whether
-- the device is marked, keys brought, cursors.
-- Answer: 0: stale; 1, epoch, route of the displaced owner, and the inboxes; 3 and what is missing; or 4: to be
-- marked first.
local r, b = KEYS[1], KEYS[2]
local owner, instance, high, low = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
brought_keys(8)
local epoch, displaced, is_again = math.max(now, 1), '', false
local route = read_route(r)
if route then
  if route.instance == instance and not less(route.high, route.low, high, low) then
    if route.high ~= high or route.low ~= low or route.owner ~= owner then return {0} end
    is_again, epoch = true, route.epoch
  else
    epoch = math.max(epoch, route.epoch + 1)
    if route.owner ~= '' then displaced = route.raw end
  end
end
if is_mark_wanted(KEYS[#KEYS], ARGV[7]) then return {4} end
local found = read_inboxes(b)
local wanting = missing(found)
if wanting then return wanting end
if displaced ~= '' then hand_all(b, found) end
if not is_again then
  write_route(r, {epoch = epoch, high = high, low = low, instance = instance, owner = owner})
  watch(KEYS[#KEYS], ARGV[6])
end
look_everywhere(b, found)
local brought = {}
positions(function(business, term, seq, s, c)
  local state = take(b, found, business, term, seq, s, c)
  local m = found[business]
  if is_again and state == FINE and m and (term ~= 0 or seq ~= 0)
    and m[INCARNATION] == 0 and m[TAIL] == term and m[TAIL + 1] == seq then
    -- The first answer said so, and was lost.
    state = TERM_CHANGED
  end
  brought[#brought + 1] = {business, term, seq, state}
end)
return add_tails({1, epoch, displaced}, found, brought)
