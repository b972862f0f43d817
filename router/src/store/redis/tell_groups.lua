-- KEYS: the log of changes. ARGV: how many are kept, about; groups.
for at = 2, #ARGV do redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'g', ARGV[at]) end
return 1
