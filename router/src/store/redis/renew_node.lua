-- KEYS: leases by node, boots that may have sessions. ARGV: node, boot (eight bytes), for how many milliseconds.
-- Answer: whether the lease is this boot's. A lease is: boot, when it ends by this server's clock, its length. One
-- that another router has renewed for longer stays as it is.
local time = redis.call('TIME')
local now, lease = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000), tonumber(ARGV[3])
local held = redis.call('HGET', KEYS[1], ARGV[1])
local until_when = now + lease
if held then
  local ends, length = struct.unpack('>I8I8', held, 9)
  if string.sub(held, 1, 8) ~= ARGV[2] then
    -- The clock went back: it holds for no longer than it was given.
    if ends > now + length then
      redis.call('HSET', KEYS[1], ARGV[1], string.sub(held, 1, 8) .. struct.pack('>I8I8', now + length, length))
    end
    if ends > now then return 0 end
  elseif ends > until_when then
    until_when, lease = math.min(ends, now + length), math.max(length, lease)
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. struct.pack('>I8I8', until_when, lease))
redis.call('SADD', KEYS[2], ARGV[2] .. ARGV[1])
return 1
