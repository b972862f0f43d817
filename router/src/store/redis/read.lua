-- The floor, with what is over its time at the head taken as gone.
local function floor_now(m, s)
  local term, seq, index = m[FLOOR], m[FLOOR + 1], 0
  if count(m) == 0 or now < m[LOOK_AT] then return term, seq end
  while true do
    local some = entries(s, index, 16)
    for _, raw in ipairs(some) do
      if head(raw) > now then
        local pt, ps = prev_of(raw)
        if less(term, seq, pt, ps) then return pt, ps end
        return term, seq
      end
      term, seq = place(raw)
    end
    if #some < 16 then return m[TAIL], m[TAIL + 1] end
    index = index + 16
  end
end

-- ARGV from `first`: business, position to begin after, entries max, bytes max.
-- Answer: 0, tail, floor, acked, handed, overflowed to, purged to, whether there is no more, then entries.
local function read(b, s, first)
  local raw = call('HGET', b, ARGV[first])
  local m = raw and read_meta(raw)
  if not m or (ARGV[first] ~= '0' and not is_kept(m)) then
    return {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}
  end
  local entries_max, bytes_max = tonumber(ARGV[first + 3]), tonumber(ARGV[first + 4])
  local ft, fs = floor_now(m, s)
  local answer = {
    0, m[TAIL], m[TAIL + 1], ft, fs, m[ACKED], m[ACKED + 1], m[HANDED], m[HANDED + 1],
    m[OVERFLOWED_TO], m[OVERFLOWED_TO + 1], m[PURGED_TO], m[PURGED_TO + 1], 1,
  }
  local term, seq = tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2])
  if less(term, seq, ft, fs) then term, seq = ft, fs end
  if entries_max == 0 then answer[14] = 0 end
  if entries_max == 0 or count(m) == 0 then return answer end
  local found, bytes, n, some = 0, 0, #answer, nil
  local index = index_above(m, s, term, seq)
  repeat
    some = entries(s, index, 16)
    for _, raw in ipairs(some) do
      local expires, _, key, body = head(raw)
      if expires > now then
        bytes = bytes + #raw - body - 17 - key
        if found > 0 and (found >= entries_max or bytes > bytes_max) then
          answer[14] = 0
          return answer
        end
        found = found + 1
        answer[n + found] = raw
      end
    end
    index = index + #some
  until #some < 16
  return answer
end
