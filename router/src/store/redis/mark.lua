-- KEYS: marks of a shard. ARGV: device. Each mark is above all that are there, whatever the clock does.
local call = redis.call
local time = call('TIME')
local at = tonumber(time[1]) * 1000000 + tonumber(time[2])
local last = call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
if last[2] then at = math.max(at, tonumber(last[2]) + 1) end
call('ZADD', KEYS[1], string.format('%.0f', at), ARGV[1])
return 1
