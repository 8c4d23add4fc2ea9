"""The one script: compare, then append.

Plain XADD with explicit ids refuses a version that is there already, but accepts a gap, and knows neither
incarnations nor tombstones; a transaction with WATCH takes three round trips. What can be made outside is given, ids
for example: a script's own arithmetic takes the store longer than its commands.
"""

# KEYS  events, incarnation, tombstone, and the caller's sign of life if it is to be refreshed
# ARGV  id of the expected last event or 0-0, expected incarnation, expected last event's fingerprint or "",
#       new incarnation or "", seconds of the sign of life, and of each event its id and itself
APPEND = """
local told = redis.call('MGET', KEYS[3], KEYS[2])
if told[1] then return 'deleted' end
if (told[2] or '') ~= ARGV[2] then return 'changed' end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if (last and last[1] or '0-0') ~= ARGV[1] then return 'changed' end
if ARGV[3] ~= '' and last and redis.sha1hex(last[2][2]) ~= ARGV[3] then return 'changed' end
for i = 6, #ARGV, 2 do redis.call('XADD', KEYS[1], ARGV[i], 'e', ARGV[i + 1]) end
if ARGV[4] ~= '' then redis.call('SET', KEYS[2], ARGV[4]) end
if KEYS[4] and redis.call('EXPIRE', KEYS[4], ARGV[5]) == 0 then
  redis.call('SET', KEYS[4], '', 'EX', ARGV[5])
end
return 'stored'
"""
