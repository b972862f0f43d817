-- KEYS: route, inboxes, entries, push id, collapse keys; of a history also the group itself.
-- ARGV: now, business (0: a history), expires, priority, digest, collapse key, body, entries max, bytes max,
-- drops oldest, remembered for; of a history also how the group is believed to be.
-- Answer: what came of it, incarnation, position, position before, route.
local r, b, s, k, c = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local business, expires, priority = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local key, body = ARGV[6], ARGV[7]
local entries_max, bytes_max = tonumber(ARGV[8]), tonumber(ARGV[9])
local added = weight_of_body(#body)
local is_history = business == '0'

-- Read here and nowhere else: clients connect again in silence, and each would remember another one.
-- It changes when a replica is promoted and when the server starts.
local function incarnation()
  return tonumber(string.match(call('INFO', 'replication'), 'master_replid:(%x%x%x%x%x%x%x%x%x%x%x%x%x)'), 16)
end

-- The older entry of the same kind, and where it is.
local function held_by_collapse(m)
  if key == '' then return nil end
  local held = call('HGET', c, key)
  if not held then return nil end
  local term, seq = struct.unpack('>I7I7', held)
  local index = index_above(m, s, term, seq - 1)
  local raw = call('LINDEX', s, index)
  if raw and string.sub(raw, 1, 14) == held then return raw, index end
end

local function is_full(m, replaced)
  local entries = count(m)
  local bytes = m[BYTES] + m[BYTES + 1] + m[BYTES + 2]
  if replaced then
    entries = math.max(0, entries - 1)
    bytes = math.max(0, bytes - weight(replaced))
  end
  return entries + 1 > entries_max or bytes + added > bytes_max
end

local function lowest_of(m)
  for of = 0, 2 do
    if m[COUNTS + of] > 0 then return of end
  end
end

-- Gives the entries of one priority, the oldest first, and where they stand.
local function oldest_of(m, of, total)
  local term, seq = m[ABOVE + 2 * of], m[ABOVE + 2 * of + 1]
  if less(term, seq, m[FLOOR], m[FLOOR + 1]) then term, seq = m[FLOOR], m[FLOOR + 1] end
  local index, some, at = index_above(m, s, term, seq, total), {}, 0
  return function()
    while true do
      at = at + 1
      if at > #some then
        index, at = index + #some, 1
        some = entries(s, index, 16)
        if #some == 0 then return nil end
      end
      local _, priority = head(some[at])
      if priority == of then return some[at], index + at - 1 end
    end
  end
end

-- Lets the oldest of the lowest priority go until the new entry fits. They are found first, and leave
-- together.
local function make_room(m)
  if ARGV[10] ~= '1' then return false end
  local least = {unpack(m)}
  for of = 0, priority do least[COUNTS + of], least[BYTES + of] = 0, 0 end
  local replaced = held_by_collapse(m)
  local kept = replaced
  if kept then
    local _, of = head(kept)
    if of <= priority then kept = nil end
  end
  if is_full(least, kept) then return false end
  local total, oldest, gone = count(m), {}, {}
  while is_full(m, replaced) do
    local of = lowest_of(m)
    if not of then break end
    oldest[of] = oldest[of] or oldest_of(m, of, total)
    local victim, index = oldest[of]()
    if not victim then break end
    count_out(m, c, victim)
    gone[#gone + 1] = index
    if victim == replaced then replaced = nil end
    local term, seq = place(victim)
    m[ABOVE + 2 * of], m[ABOVE + 2 * of + 1] = term, seq
    m[OVERFLOWED] = m[OVERFLOWED] + 1
    raise(m, OVERFLOWED_TO, term, seq)
  end
  if #gone > 0 then
    table.sort(gone)
    take_out(m, s, c, gone)
    settle_floor(m, s)
  end
  return not is_full(m, replaced)
end

local function has_room(m)
  if not is_full(m, (held_by_collapse(m))) then return true end
  local before = count(m)
  remove_head(m, s, c, function(raw) return head(raw) <= now end)
  if count(m) ~= before then settle_floor(m, s) end
  if not is_full(m, (held_by_collapse(m))) then return true end
  drop_expired(m, s, c)
  return not is_full(m, (held_by_collapse(m))) or make_room(m)
end

local raw = call('HGET', b, business)
local m = raw and read_meta(raw)
-- Another router may have deleted the group, and another business made one of its name.
if is_history and (not m or call('GET', KEYS[6]) ~= ARGV[12]) then return {5} end
local known = call('GET', k)
if known then
  local until_ms, term, seq, born = struct.unpack('>I8I8I8I8', known)
  -- A group that was deleted and made again knows nothing of what its name was used for before.
  if until_ms > now and (not is_history or born == m[BORN]) then
    if string.sub(known, 33) ~= ARGV[5] then return {2} end
    return {1, incarnation(), term, seq}
  end
end
if expires <= now then return {3} end
if added > bytes_max or entries_max == 0 then return {4} end
if m and not is_history and not is_kept(m) then
  call('HDEL', b, business)
  raw, m = nil, nil
end
if not m then
  call('DEL', s, c)
  m = new_meta()
elseif is_history and count(m) > 0 and now >= m[KEPT] * HOUR + META_KEEP and call('EXISTS', s) == 0 then
  -- The list has expired, and all in it before.
  call('DEL', c)
  for at = COUNTS, BYTES + 2 do m[at] = 0 end
  raise(m, FLOOR, m[TAIL], m[TAIL + 1])
end
if not has_room(m) then
  if raw then write_meta(b, business, m) end
  return {4}
end
local replaced, index = held_by_collapse(m)
if replaced then
  count_out(m, c, replaced)
  take_out(m, s, c, {index})
  settle_floor(m, s)
end
local life = incarnation()
if m[INCARNATION] ~= life then
  m[INCARNATION], m[TERM], m[SEQ] = life, math.max(now, m[TERM] + 1), 0
end
m[SEQ] = m[SEQ] + 1
local term, seq, pt, ps = m[TERM], m[SEQ], m[TAIL], m[TAIL + 1]
m[TAIL], m[TAIL + 1] = term, seq
local is_first = count(m) == 0
if is_first then m[FLOOR], m[FLOOR + 1] = pt, ps end
local look_at = math.max(expires, now + LOOK_INTERVAL)
m[LOOK_AT] = is_first and look_at or math.min(m[LOOK_AT], look_at)
if m[COUNTS + priority] == 0 then
  m[ABOVE + 2 * priority], m[ABOVE + 2 * priority + 1] = pt, ps
end
m[COUNTS + priority] = m[COUNTS + priority] + 1
m[BYTES + priority] = m[BYTES + priority] + added
m[TOUCHED] = now
local at = position_bytes(term, seq)
local is_plain = pt == term and ps == seq - 1
call('RPUSH', s, at .. (is_plain and '\0' or '\1' .. position_bytes(pt, ps)) .. body)
local hour = math.floor(now / HOUR)
local is_due = m[KEPT] ~= hour
m[KEPT] = hour
if is_first or is_due then call('PEXPIRE', s, KEY_KEEP) end
if key ~= '' then
  call('HSET', c, key, at)
  call('PEXPIRE', c, KEY_KEEP)
end
call('SET', k, struct.pack('>I8I8I8I8', now + ARGV[11], term, seq, m[BORN]) .. ARGV[5], 'PX', ARGV[11])
write_meta(b, business, m)
if is_due and not is_history then call('PEXPIRE', b, KEY_KEEP) end
return {0, life, term, seq, pt, ps, not is_history and call('GET', r) or ''}
