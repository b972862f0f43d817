-- KEYS: boots that may have sessions. ARGV: boot and node.
return redis.call('SADD', KEYS[1], ARGV[1])
