-- What the scripts share: positions, what is known of an inbox, its entries. The rules are those of
-- inbox/rules, function by function and under the same names. ARGV[1] is the caller's clock, in milliseconds.
local now = tonumber(ARGV[1])
local call, format = redis.call, string.format
local HOUR = 3600000
local META_KEEP, LOOK_INTERVAL = 8 * 24 * HOUR, 1000
-- Keys outlive what stands in them by the rules: by the hour in which their end is not moved on, and one.
local KEY_KEEP = format('%.0f', META_KEEP + 2 * HOUR)

-- What is known of an inbox is an array; a position takes two places, term and number.
local INCARNATION, TERM, SEQ, TAIL, FLOOR, ACKED, HANDED = 1, 2, 3, 4, 6, 8, 10
local OVERFLOWED_TO, OVERFLOWED, PURGED_TO, COUNTS, BYTES = 12, 14, 15, 17, 20
local ABOVE, LOOK_AT, TOUCHED, BORN, KEPT = 23, 29, 30, 31, 32
local POSITIONS = {TAIL, FLOOR, ACKED, HANDED, OVERFLOWED_TO, PURGED_TO, ABOVE, ABOVE + 2, ABOVE + 4}

local function less(at, as, bt, bs)
  return at < bt or (at == bt and as < bs)
end

local function id(term, seq)
  return format('%.0f-%.0f', term, seq)
end

local function count(m)
  return m[COUNTS] + m[COUNTS + 1] + m[COUNTS + 2]
end

local function raise(m, at, term, seq)
  if less(m[at], m[at + 1], term, seq) then m[at], m[at + 1] = term, seq end
end

-- Terms are kept as distances to the newest one: a byte each instead of nine.
local function turn_terms(m)
  local base = m[TERM] + 1
  for i = 1, 9 do
    local at = POSITIONS[i]
    if m[at] ~= 0 then m[at] = base - m[at] end
  end
  return m
end

local function read_meta(raw)
  return turn_terms(cmsgpack.unpack(raw))
end

local function write_meta(b, business, m)
  call('HSET', b, business, cmsgpack.pack(turn_terms(m)))
  turn_terms(m)
end

local function new_meta()
  local m = {}
  for at = 1, 32 do m[at] = 0 end
  return m
end

-- A history ends with its group, an inbox when it has been out of use.
local function is_kept(m)
  return m[TOUCHED] + META_KEEP > now
end

-- Entries above a position, at most `max`.
local function entries(s, term, seq, max)
  return call('XRANGE', s, '(' .. id(term, seq), '+', 'COUNT', max)
end

local function place(raw)
  local dash = string.find(raw[1], '-', 1, true)
  return tonumber(string.sub(raw[1], 1, dash - 1)), tonumber(string.sub(raw[1], dash + 1))
end

-- The position before it when it was stored. Nothing is kept where that is plain.
local function prev_of(raw)
  local p = raw[2][2]
  if p == '' then
    local term, seq = place(raw)
    return term, seq - 1
  end
  local term, seq = struct.unpack('>I8I8', p)
  return term, seq
end

-- An entry is: when it was stored, when it expires, priority, length of the collapse key, key, blob.
local function head(raw)
  local _, expires, priority, key = struct.unpack('>I8I8BB', raw[2][4])
  return expires, priority, key
end

-- By the rules: 64, and the bytes of collapse key and blob.
local function weight(e)
  return 46 + #e
end

-- Takes entries away, wherever they stand. The floor is left to the caller.
local function drop(m, s, c, gone)
  local ids = {}
  for i, raw in ipairs(gone) do
    local _, priority, key = head(raw)
    local e = raw[2][4]
    m[COUNTS + priority] = math.max(0, m[COUNTS + priority] - 1)
    m[BYTES + priority] = math.max(0, m[BYTES + priority] - weight(e))
    if key > 0 then
      local held = string.sub(e, 19, 18 + key)
      if call('HGET', c, held) == raw[1] then call('HDEL', c, held) end
    end
    ids[i] = raw[1]
  end
  if count(m) == 0 then
    call('DEL', s, c)
  elseif #ids > 0 then
    call('XDEL', s, unpack(ids))
  end
end

-- After a removal: everything below the first entry is gone.
local function settle_floor(m, s)
  local first = count(m) > 0 and entries(s, m[FLOOR], m[FLOOR + 1], 1)[1]
  if first then
    raise(m, FLOOR, prev_of(first))
  else
    raise(m, FLOOR, m[TAIL], m[TAIL + 1])
  end
end

-- Removes entries from the head on, as long as they are to leave.
local function remove_head(m, s, c, leaves)
  while count(m) > 0 do
    local some, gone = entries(s, m[FLOOR], m[FLOOR + 1], 16), {}
    for i, raw in ipairs(some) do
      if not leaves(raw) then break end
      gone[i] = raw
    end
    drop(m, s, c, gone)
    if #gone > 0 then m[FLOOR], m[FLOOR + 1] = place(gone[#gone]) end
    if #gone < 16 then return end
  end
end

-- Removes all entries up to and with a position.
local function trim(m, s, c, term, seq)
  remove_head(m, s, c, function(raw)
    return not less(term, seq, place(raw))
  end)
  if less(m[TAIL], m[TAIL + 1], term, seq) then term, seq = m[TAIL], m[TAIL + 1] end
  raise(m, FLOOR, term, seq)
  if count(m) == 0 then
    m[FLOOR], m[FLOOR + 1], m[OVERFLOWED] = m[TAIL], m[TAIL + 1], 0
  end
end

-- Removes every entry whose time is over, wherever it stands.
local function drop_expired(m, s, c)
  if now < m[LOOK_AT] then return end
  -- Where no entry is left, the next one says when to look.
  local term, seq, next_ms, some = m[FLOOR], m[FLOOR + 1], 9007199254740991, nil
  repeat
    some = entries(s, term, seq, 16)
    local gone = {}
    for _, raw in ipairs(some) do
      local expires = head(raw)
      if expires <= now then
        gone[#gone + 1] = raw
      else
        next_ms = math.min(next_ms, expires)
      end
    end
    if #some > 0 then term, seq = place(some[#some]) end
    if #gone > 0 then drop(m, s, c, gone) end
  until #some < 16
  m[LOOK_AT] = math.max(next_ms, now + LOOK_INTERVAL)
  settle_floor(m, s)
end
