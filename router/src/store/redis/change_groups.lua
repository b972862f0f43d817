-- KEYS: ids of a business's groups in order, what is known of each.
-- ARGV: group id and what is known of it, '' if it is deleted; and so on.
for at = 1, #ARGV, 2 do
  if ARGV[at + 1] == '' then
    redis.call('ZREM', KEYS[1], ARGV[at])
    redis.call('HDEL', KEYS[2], ARGV[at])
  else
    redis.call('ZADD', KEYS[1], 0, ARGV[at])
    redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
  end
end
return 1
