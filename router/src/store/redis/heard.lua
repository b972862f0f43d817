-- KEYS: route, what was heard of the device. ARGV: business, epoch, the session's owner if it began ('': it has
-- ended), whether the business has confirmed it; else it is about to be told that it began. Word of an older
-- session changes nothing, nor does the beginning of one that is not known here. Answer: whether it is noted.
local call = redis.call
local epoch = tonumber(ARGV[2])
local route = ARGV[3] ~= '' and call('GET', KEYS[1])
if ARGV[3] ~= '' and (not route or struct.unpack('>I8', route) < epoch) then return 0 end
local known = call('HGET', KEYS[2], ARGV[1])
if known then
  local of, is_confirmed = struct.unpack('>I8B', known)
  -- The end of another session is due first; what was confirmed stays so.
  if of > epoch or (ARGV[4] == '0' and of ~= epoch) then return 0 end
  if ARGV[4] == '0' and is_confirmed == 1 then return 1 end
end
if ARGV[3] == '' then
  call('HDEL', KEYS[2], ARGV[1])
else
  call('HSET', KEYS[2], ARGV[1], struct.pack('>I8B', epoch, tonumber(ARGV[4])) .. ARGV[3])
  call('PEXPIRE', KEYS[2], 34560000000)
end
return 1
