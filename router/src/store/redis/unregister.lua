-- KEYS: sessions of a boot, some of them. ARGV: device, slot and generation. Another connection of this boot may
-- have been registered since.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
