-- KEYS: ids of a business's groups in order, how each was when it was listed last.
-- ARGV: group id, how it is, and '+' to list it, '-' to take it from the list if it is listed as this, or how it
-- was listed for another word about one that is listed.
local id, meta = ARGV[1], ARGV[2]
if ARGV[3] == '+' then
  redis.call('ZADD', KEYS[1], 0, id)
  redis.call('HSET', KEYS[2], id, meta)
elseif ARGV[3] == '-' then
  if redis.call('HGET', KEYS[2], id) ~= meta then return 0 end
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
elseif redis.call('HGET', KEYS[2], id) == ARGV[3] then
  redis.call('HSET', KEYS[2], id, meta)
end
return 1
