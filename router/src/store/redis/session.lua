-- What the scripts of sessions share: the route, all inboxes of a device, cursors.
local ROUTE_KEEP, ROUTE_OWNED_KEEP = 24 * HOUR, 30 * 24 * HOUR
local TOUCH_INTERVAL, AHEAD, SEQ_MAX = HOUR, 300000, 9007199254740991
local FINE, TERM_CHANGED, REFUSED = 0, 1, 2

-- A route is: epoch, when, attempt (two halves: it may be any number), instance, owner ('': released).
local function read_route(r)
  local raw = call('GET', r)
  if not raw then return nil end
  local epoch, at, high, low = struct.unpack('>I8I8I4I4', raw)
  local owner = string.sub(raw, 41)
  if at + (owner == '' and ROUTE_KEEP or ROUTE_OWNED_KEEP) <= now then return nil end
  return {
    epoch = epoch, at = at, high = high, low = low,
    instance = string.sub(raw, 25, 40), owner = owner, raw = raw,
  }
end

local function write_route(r, route)
  local keep = (route.owner == '' and ROUTE_KEEP or ROUTE_OWNED_KEEP) + HOUR
  local fixed = struct.pack('>I8I8I4I4', route.epoch, now, route.high, route.low)
  call('SET', r, fixed .. route.instance .. route.owner, 'PX', format('%.0f', keep))
end

-- For how long it is kept who has heard of a device that never comes again, in milliseconds.
local HEARD_KEEP = 400 * 24 * HOUR

-- Whether the device has to be marked first: a business may have to hear of what is to be done.
local function is_mark_wanted(e, is_marked)
  return is_marked == '0' and call('EXISTS', e) == 1
end

-- Of a session that begins: who wants to hear of it, as numbers of businesses of four bytes each.
local function watch(e, watchers)
  call('HDEL', e, 'w', 'l')
  if watchers == '' then return end
  call('HSET', e, 'w', watchers)
  call('PEXPIRE', e, HEARD_KEEP)
end

-- Ends the session of a route; `by_loss`: its node died.
local function end_session(r, e, route, by_loss)
  route.owner = ''
  write_route(r, route)
  call('HDEL', e, 'w', 'l')
  if by_loss and call('EXISTS', e) == 1 then call('HSET', e, 'l', 1) end
end

-- The route, if it names this session; else 1: a newer one is known, 2: an older one, none, or this one
-- of another epoch, or one that has ended.
local function check(r, epoch, owner)
  local route = read_route(r)
  if not route then return nil, 2 end
  if route.epoch == epoch and route.owner == owner then return route end
  if route.epoch >= epoch and route.owner ~= '' and route.owner ~= owner then return nil, 1 end
  return nil, 2
end

-- ARGV[at]: how many inboxes' keys were brought, then their businesses; two keys of each from KEYS[3] on.
-- Behind them stand business, term and number of positions.
local keys, first = {}, nil
local function brought_keys(at)
  local n = tonumber(ARGV[at])
  for i = 1, n do
    keys[tonumber(ARGV[at + i])] = {KEYS[2 * i + 1], KEYS[2 * i + 2]}
  end
  first = at + n + 1
end

local function positions(act)
  for at = first, #ARGV, 3 do
    local business = tonumber(ARGV[at])
    act(business, tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), keys[business][1], keys[business][2])
  end
end

-- All inboxes of a device by business.
local function read_inboxes(b)
  local found, flat = {}, call('HGETALL', b)
  for at = 1, #flat, 2 do found[tonumber(flat[at])] = read_meta(flat[at + 1]) end
  return found
end

local function is_due(m)
  return is_kept(m) and count(m) > 0 and now >= m[LOOK_AT]
end

-- Businesses of inboxes that have to be looked through, and whose keys were not brought. A script may only
-- touch what it names, or it could fail half-way while a slot moves; so it is called again with these.
local function missing(found)
  local answer = {3}
  for business, m in pairs(found) do
    if is_due(m) and not keys[business] then answer[#answer + 1] = business end
  end
  return answer[2] and answer or nil
end

local function look_everywhere(b, found)
  for business, m in pairs(found) do
    if is_due(m) then
      drop_expired(m, keys[business][1], keys[business][2])
      write_meta(b, business, m)
    end
  end
end

local function known_mut(b, business, m, s, c)
  if m and is_kept(m) then return m end
  call('DEL', s, c)
  if m then call('HDEL', b, business) end
  return nil
end

local function hand_all(b, found)
  for business, m in pairs(found) do
    if not is_kept(m) then
      call('HDEL', b, business)
      found[business] = nil
    elseif m[HANDED] ~= m[TAIL] or m[HANDED + 1] ~= m[TAIL + 1] then
      m[HANDED], m[HANDED + 1] = m[TAIL], m[TAIL + 1]
      write_meta(b, business, m)
    end
  end
end

local function is_believable(m, term, seq)
  return not less(m[TAIL], m[TAIL + 1], term, seq) or (term <= math.max(now + AHEAD, m[TERM]) and seq <= SEQ_MAX)
end

local function begin_above(m, term)
  m[TERM], m[SEQ], m[INCARNATION] = math.max(m[TERM], term), SEQ_MAX, 0
end

local function write_used(b, business, m)
  local is_first = math.floor(m[TOUCHED] / HOUR) ~= math.floor(now / HOUR)
  m[TOUCHED] = now
  write_meta(b, business, m)
  if is_first then call('PEXPIRE', b, KEY_KEEP) end
end

-- The device has taken everything up to a position, as far as it can be believed.
local function take(b, found, business, term, seq, s, c)
  if term == 0 and seq == 0 then return FINE end
  local m = known_mut(b, business, found[business], s, c)
  local is_known = m ~= nil
  m = m or new_meta()
  found[business] = is_known and m or nil
  if not is_believable(m, term, seq) then return REFUSED end
  local is_ahead = less(m[TAIL], m[TAIL + 1], term, seq)
  local is_news = not is_known or less(m[ACKED], m[ACKED + 1], term, seq)
  if is_news then
    m[ACKED], m[ACKED + 1] = term, seq
    if less(m[FLOOR], m[FLOOR + 1], term, seq) then trim(m, s, c, term, seq) end
    if is_ahead then
      m[TAIL], m[TAIL + 1], m[FLOOR], m[FLOOR + 1] = term, seq, term, seq
      begin_above(m, term)
    end
  end
  if is_news or m[TOUCHED] + TOUCH_INTERVAL <= now then
    found[business] = m
    write_used(b, business, m)
  end
  return is_ahead and TERM_CHANGED or FINE
end

-- Positions up to this one were written to a link: what is appended from now on lies above it.
local function raise_term(b, found, business, term, seq, s, c)
  local m = known_mut(b, business, found[business], s, c)
  found[business] = m
  m = m or new_meta()
  local gt, gs = m[TAIL], m[TAIL + 1]
  if less(gt, gs, m[TERM], m[SEQ]) then gt, gs = m[TERM], m[SEQ] end
  if less(gt, gs, term, seq) and is_believable(m, term, seq) then
    begin_above(m, term)
    found[business] = m
    write_used(b, business, m)
  end
end

-- Adds a row for each inbox that holds something, or of which there is something to say to a device that
-- brought these cursors: {business, term, number, state}.
local function add_tails(answer, found, brought)
  local first_of, added = {}, {}
  for _, one in ipairs(brought) do
    if not first_of[one[1]] then first_of[one[1]] = one end
  end
  local function add(business, m, state)
    local n, priority = #answer, 1
    for of = 0, 2 do
      if m[COUNTS + of] > 0 then priority = of end
    end
    answer[n + 1], answer[n + 2], answer[n + 3] = business, m[TAIL], m[TAIL + 1]
    answer[n + 4], answer[n + 5], answer[n + 6] = m[FLOOR], m[FLOOR + 1], count(m)
    answer[n + 7], answer[n + 8] = state, priority
    added[business] = true
  end
  for business, m in pairs(found) do
    if is_kept(m) then
      local one = first_of[business]
      local state = one and one[4] or FINE
      local is_behind = one and less(one[2], one[3], m[TAIL], m[TAIL + 1])
      if count(m) > 0 or is_behind or state ~= FINE then add(business, m, state) end
    end
  end
  -- A cursor that was refused, and no inbox: the device has to begin at the start.
  for _, one in ipairs(brought) do
    if one[4] == REFUSED and not added[one[1]] then add(one[1], new_meta(), REFUSED) end
  end
  return answer
end
