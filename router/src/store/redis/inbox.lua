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

-- Entries stand in a list, in order, all above the floor: a stream would take 4 KiB for the first of them.
-- An entry is: term, number, 0 or 1, with 1 the position before it (else that is plain), and the body: when
-- it was stored, when it expires, priority, length of the collapse key, key, blob.
local function position_bytes(term, seq)
  return struct.pack('>I7I7', term, seq)
end

local function place(raw)
  local term, seq = struct.unpack('>I7I7', raw)
  return term, seq
end

local function prev_of(raw)
  local term, seq, is_told = struct.unpack('>I7I7B', raw)
  if is_told == 0 then return term, seq - 1 end
  term, seq = struct.unpack('>I7I7', raw, 16)
  return term, seq
end

local function head(raw)
  local body = string.byte(raw, 15) == 0 and 16 or 30
  local _, expires, priority, key = struct.unpack('>I8I8BB', raw, body)
  return expires, priority, key, body
end

-- By the rules: 64, and the bytes of collapse key and blob.
local function weight_of_body(bytes)
  return 46 + bytes
end

local function weight(raw)
  local _, _, _, body = head(raw)
  return weight_of_body(#raw - body + 1)
end

-- Where the entries above a position begin. `total`: how many stand in the list, if some of them are counted
-- out already.
local function index_above(m, s, term, seq, total)
  local low, high = 0, total or count(m)
  if not less(m[FLOOR], m[FLOOR + 1], term, seq) then return 0 end
  if not less(term, seq, m[TAIL], m[TAIL + 1]) then return high end
  while low < high do
    local middle = math.floor((low + high) / 2)
    local raw = call('LINDEX', s, middle)
    if not raw or less(term, seq, place(raw)) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

local function entries(s, from, max)
  return call('LRANGE', s, from, from + max - 1)
end

-- Counts an entry out; taking it from the list is left to the caller.
local function count_out(m, c, raw)
  local _, priority, key, body = head(raw)
  m[COUNTS + priority] = math.max(0, m[COUNTS + priority] - 1)
  m[BYTES + priority] = math.max(0, m[BYTES + priority] - weight(raw))
  if key > 0 then
    local held = string.sub(raw, body + 18, body + 17 + key)
    if call('HGET', c, held) == string.sub(raw, 1, 14) then call('HDEL', c, held) end
  end
end

-- Takes entries that are counted out from the list: where they stand, from the head on. However many, the list
-- is gone through once. The floor is left to the caller.
local function take_out(m, s, c, gone)
  if count(m) == 0 then return call('DEL', s, c) end
  local first = 0
  while gone[first + 1] == first do first = first + 1 end
  if first > 0 then call('LTRIM', s, first, -1) end
  if first == #gone then return end
  for at = first + 1, #gone do call('LSET', s, gone[at] - first, '') end
  call('LREM', s, #gone - first, '')
end

-- After a removal: everything below the first entry is gone.
local function settle_floor(m, s)
  local first = count(m) > 0 and call('LINDEX', s, 0)
  if first then
    raise(m, FLOOR, prev_of(first))
  else
    raise(m, FLOOR, m[TAIL], m[TAIL + 1])
  end
end

-- Removes entries from the head on, as long as they are to leave.
local function remove_head(m, s, c, leaves)
  while count(m) > 0 do
    local some, gone = entries(s, 0, 16), 0
    for _, raw in ipairs(some) do
      if not leaves(raw) then break end
      count_out(m, c, raw)
      gone = gone + 1
    end
    if gone > 0 then m[FLOOR], m[FLOOR + 1] = place(some[gone]) end
    if count(m) == 0 then
      call('DEL', s, c)
    elseif gone > 0 then
      call('LTRIM', s, gone, -1)
    end
    if gone < 16 then return end
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
  local index, next_ms, gone, some = 0, 9007199254740991, {}, nil
  repeat
    some = entries(s, index, 16)
    for at, raw in ipairs(some) do
      local expires = head(raw)
      if expires <= now then
        count_out(m, c, raw)
        gone[#gone + 1] = index + at - 1
      else
        next_ms = math.min(next_ms, expires)
      end
    end
    index = index + #some
  until #some < 16
  take_out(m, s, c, gone)
  m[LOOK_AT] = math.max(next_ms, now + LOOK_INTERVAL)
  settle_floor(m, s)
end
