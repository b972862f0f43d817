-- KEYS: as of a claim. ARGV: now, owner, epoch, whether the device is marked, keys brought, how far
-- each inbox was sent.
-- Answer: whether the session was this one's; 2: it is this connection's, of another epoch; or 4:
-- to be marked first.
local r, b = KEYS[1], KEYS[2]
local route = check(r, tonumber(ARGV[3]), ARGV[2])
if not route then
  local now_there = read_route(r)
  return now_there and now_there.owner == ARGV[2] and 2 or 0
end
if is_mark_wanted(KEYS[#KEYS], ARGV[4]) then return {4} end
brought_keys(5)
positions(function(business, term, seq, s, c)
  local raw = call('HGET', b, business)
  local found = {[business] = raw and read_meta(raw) or nil}
  raise_term(b, found, business, term, seq, s, c)
  local m = found[business]
  if m then
    if less(m[TAIL], m[TAIL + 1], term, seq) then term, seq = m[TAIL], m[TAIL + 1] end
    if less(m[HANDED], m[HANDED + 1], term, seq) then
      m[HANDED], m[HANDED + 1] = term, seq
      write_meta(b, business, m)
    end
  end
end)
end_session(r, KEYS[#KEYS], route, false)
return 1
