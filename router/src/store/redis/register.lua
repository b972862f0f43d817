-- KEYS: sessions of a boot, some of them. ARGV: device, slot and generation of the connection and a number of this
-- registration, for how long all of it is kept without another one.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
