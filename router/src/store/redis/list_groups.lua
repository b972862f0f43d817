-- KEYS: ids of a business's groups in order, what is known of each. ARGV: begin after ('': at the start), at
-- most how many, and whether what is known is wanted.
local ids = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1] == '' and '-' or '(' .. ARGV[1], '+', 'LIMIT', 0, ARGV[2])
if ARGV[3] ~= '1' or #ids == 0 then return {ids, {}} end
return {ids, redis.call('HMGET', KEYS[2], unpack(ids))}
