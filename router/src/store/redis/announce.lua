-- KEYS: as of a claim. ARGV: now, owner, instance, attempt (two halves), watchers, epoch,
-- whether the device is marked, keys brought, how far each inbox was sent.
-- Answer: 0 and the epoch of a newer session; 1, 0, route of the displaced owner, and the inboxes; 3 and
-- what is missing; or 4: to be marked first.
local r, b = KEYS[1], KEYS[2]
local owner, epoch = ARGV[2], tonumber(ARGV[7])
brought_keys(9)
local displaced = ''
local route = read_route(r)
if route then
  local is_same = route.owner == owner
  if route.epoch > epoch or (route.epoch == epoch and route.owner ~= '' and not is_same) then
    return {0, route.epoch}
  end
  if not is_same and route.owner ~= '' then displaced = route.raw end
end
if is_mark_wanted(KEYS[#KEYS], ARGV[8]) then return {4} end
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
  epoch = epoch, high = tonumber(ARGV[4]), low = tonumber(ARGV[5]), instance = ARGV[3], owner = owner,
})
watch(KEYS[#KEYS], ARGV[6])
return add_tails({1, 0, displaced}, found, brought)
