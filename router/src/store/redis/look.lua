-- KEYS: route, what was heard of the device. Answer: both.
return {redis.call('GET', KEYS[1]), redis.call('HGETALL', KEYS[2])}
