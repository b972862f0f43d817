-- KEYS: the group, and of its history: inboxes, entries, collapse keys; groups of its name that are no more.
-- ARGV: now, how the group is to be ('': none), how it is believed to be, whether it has a history, when it was
-- created, whether it goes on with the history that is there, whether it stays away if it was deleted, how long
-- that is remembered.
-- Answer: 0 and how it is, or 1 and whether it was so before.
local g, b, s, c, d = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
-- A name that is used anew all the time: no router is that far behind.
local TOMBSTONES_MAX = 64
local wanted, believed = ARGV[2], ARGV[3]
local known = call('GET', g) or ''
if known ~= wanted and known ~= believed then return {0, known} end
if known == '' and wanted ~= '' and call('ZSCORE', d, wanted) then
  -- A router that has not heard of the deletion wants it back.
  if ARGV[7] == '1' then return {0, ''} end
  call('ZREM', d, wanted)
end
if wanted == '' or (known ~= wanted and ARGV[6] ~= '1') then call('UNLINK', b, s, c) end
if known ~= wanted then
  if known ~= '' then
    call('ZADD', d, call('TIME')[1], known)
    call('ZREMRANGEBYRANK', d, 0, -TOMBSTONES_MAX - 1)
    call('PEXPIRE', d, ARGV[8])
  end
  if wanted == '' then call('DEL', g) else call('SET', g, wanted) end
end
if ARGV[4] == '1' and call('HEXISTS', b, '0') == 0 then
  -- A history begins. Push ids that were remembered before it was born are not its own.
  call('DEL', s, c)
  local m, created, time = new_meta(), tonumber(ARGV[5]), call('TIME')
  m[TERM], m[TAIL], m[FLOOR] = created, created, created
  m[BORN] = tonumber(time[1]) * 1000000 + tonumber(time[2])
  write_meta(b, '0', m)
end
return {1, known == wanted and 1 or 0}
