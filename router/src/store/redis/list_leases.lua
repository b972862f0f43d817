-- KEYS: leases by node. Answer: node, boot, for how many milliseconds the lease holds; and so on. Those that have
-- ended are let go of.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local answer, flat = {}, redis.call('HGETALL', KEYS[1])
for at = 1, #flat, 2 do
  local node, held = flat[at], flat[at + 1]
  local ends, length = struct.unpack('>I8I8', held, 9)
  if ends > now + length then
    ends = now + length
    redis.call('HSET', KEYS[1], node, string.sub(held, 1, 8) .. struct.pack('>I8I8', ends, length))
  end
  if ends > now then
    local n = #answer
    answer[n + 1], answer[n + 2], answer[n + 3] = node, string.sub(held, 1, 8), ends - now
  else
    redis.call('HDEL', KEYS[1], node)
  end
end
return answer
