-- KEYS: sessions of a boot, some of them. ARGV: device, slot and generation, or all that was registered: the
-- beginning of it. Another connection of this boot, or the same one, may have been registered since.
local known = redis.call('HGET', KEYS[1], ARGV[1])
if not known or string.sub(known, 1, #ARGV[2]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
