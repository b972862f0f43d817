-- KEYS: the log of changes. ARGV: the last entry that was seen. Answer: 0, the last entry now, and the groups since;
-- or 1 and the last entry now: that one is not there any more, or never was.
local log, mark = KEYS[1], ARGV[1]
local found = mark ~= '' and redis.call('XRANGE', log, mark, '+') or {}
if found[1] and found[1][1] == mark then
  local answer = {0, found[#found][1]}
  for at = 2, #found do answer[at + 1] = found[at][2][2] end
  return answer
end
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
-- A log that was lost begins with a mark that nobody has seen.
return {1, last and last[1] or redis.call('XADD', log, '*', 'g', '')}
