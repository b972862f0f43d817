-- KEYS: leases by node. ARGV: node, boot. Ends the lease, if it is this boot's.
local held = redis.call('HGET', KEYS[1], ARGV[1])
if not held or string.sub(held, 1, 8) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
