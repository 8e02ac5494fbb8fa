-- Put a message into an inbox. KEYS: the inbox. ARGV: field, value, how many messages it holds about, seconds
-- that it stays.
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
