-- KEYS: as of a claim. ARGV: now, owner, instance, attempt (two halves), watchers, epoch, whether the
-- epoch may be raised, whether the device is marked, keys brought, how far each inbox was sent.
-- Answer: 0 and the epoch of a newer session; 1, epoch, route of the displaced owner, and the inboxes; 3 and
-- what is missing; or 4: to be marked first.
local r, b = KEYS[1], KEYS[2]
local owner, epoch = ARGV[2], tonumber(ARGV[7])
local high, low = tonumber(ARGV[4]), tonumber(ARGV[5])
brought_keys(10)
local displaced, taken = '', epoch
local route = read_route(r)
if route then
  local is_same = route.owner == owner
  local has_ended = route.owner == ''
  local is_its_login = route.instance == ARGV[3] and route.high == high and route.low == low
  local is_its_end = has_ended and (route.epoch == epoch or is_its_login)
  if ARGV[8] == '1' and route.epoch >= epoch and (is_same or is_its_end) then
    taken = route.epoch
    if has_ended then taken = math.max(route.epoch + 1, now) end
  elseif route.epoch > epoch or (route.epoch == epoch and not has_ended and not is_same) then
    return {0, route.epoch}
  elseif not is_same and not has_ended then
    displaced = route.raw
  end
end
if is_mark_wanted(KEYS[#KEYS], ARGV[9]) then return {4} end
local found = read_inboxes(b)
local wanting = missing(found)
if wanting then return wanting end
if displaced ~= '' then hand_all(b, found) end
local brought = {}
positions(function(business, term, seq, s, c)
  raise_term(b, found, business, term, seq, s, c)
  brought[#brought + 1] = {business, term, seq, FINE}
end)
look_everywhere(b, found)
write_route(r, {
  epoch = taken, high = high, low = low, instance = ARGV[3], owner = owner,
})
watch(KEYS[#KEYS], ARGV[6])
return add_tails({1, taken, displaced}, found, brought)
