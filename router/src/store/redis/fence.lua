-- KEYS: any key of a slot of this primary. Writes, so that what waits for a replica on this connection waits
-- for everything that this primary wrote before. Answer: its incarnation.
redis.call('SET', KEYS[1], '', 'PX', 60000)
return tonumber(string.match(redis.call('INFO', 'replication'), 'master_replid:(%x%x%x%x%x%x%x%x%x%x%x%x%x)'), 16)
