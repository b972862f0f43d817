-- KEYS: route, what was heard of the device. ARGV: business, epoch, and the session's owner if it began ('': it
-- has ended). Word of an older session changes nothing, nor does the beginning of one that is not known here.
local call = redis.call
local epoch = tonumber(ARGV[2])
local route = ARGV[3] ~= '' and call('GET', KEYS[1])
if ARGV[3] ~= '' and (not route or struct.unpack('>I8', route) < epoch) then return 0 end
local known = call('HGET', KEYS[2], ARGV[1])
if known and struct.unpack('>I8', known) > epoch then return 0 end
if ARGV[3] == '' then
  call('HDEL', KEYS[2], ARGV[1])
else
  call('HSET', KEYS[2], ARGV[1], struct.pack('>I8', epoch) .. ARGV[3])
  call('PEXPIRE', KEYS[2], 34560000000)
end
return 1
