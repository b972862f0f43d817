-- KEYS: leases by node, boots that may have sessions. ARGV: node, boot (eight bytes), for how many milliseconds.
-- Answer: whether the lease is this boot's. A lease is: boot, when it ends by this server's clock, its length.
local time = redis.call('TIME')
local now, lease = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000), tonumber(ARGV[3])
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held and string.sub(held, 1, 8) ~= ARGV[2] then
  local ends, length = struct.unpack('>I8I8', held, 9)
  -- The clock went back: it holds for no longer than it was given.
  if ends > now + length then
    redis.call('HSET', KEYS[1], ARGV[1], string.sub(held, 1, 8) .. struct.pack('>I8I8', now + length, length))
  end
  if ends > now then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. struct.pack('>I8I8', now + lease, lease))
redis.call('SADD', KEYS[2], ARGV[2] .. ARGV[1])
return 1
