-- KEYS: as of a claim. ARGV: now, owner, epoch, keys brought, how far each inbox was sent.
-- Answer: whether the session was this one's.
local r, b = KEYS[1], KEYS[2]
local route = check(r, tonumber(ARGV[3]), ARGV[2])
if not route then return 0 end
brought_keys(4)
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
route.owner = ''
write_route(r, route)
return 1
