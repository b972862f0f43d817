-- KEYS: what was heard of the device. ARGV: business, epoch, and the session's owner if it began ('': it has
-- ended). Word of an older session changes nothing.
local call = redis.call
local known = call('HGET', KEYS[1], ARGV[1])
local epoch = tonumber(ARGV[2])
if known and struct.unpack('>I8', known) > epoch then return 0 end
if ARGV[3] == '' then
  call('HDEL', KEYS[1], ARGV[1])
else
  call('HSET', KEYS[1], ARGV[1], struct.pack('>I8', epoch) .. ARGV[3])
  call('PEXPIRE', KEYS[1], 34560000000)
end
return 1
