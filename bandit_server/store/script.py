"""The one script: compare, then append.

Plain XADD with explicit ids refuses a version that is there already, but accepts a gap, and knows neither
incarnations nor tombstones; a transaction with WATCH takes three round trips.
"""

# KEYS  events, incarnation, tombstone, and the caller's sign of life if it is a worker
# ARGV  expected version, expected incarnation, expected last event's fingerprint or "", new incarnation or "",
#       seconds of the sign of life, event …
APPEND = """
if redis.call('EXISTS', KEYS[3]) == 1 then return 'deleted' end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local version = last and last[1]:match('^(%d+)-') or '0'
local incarnation = redis.call('GET', KEYS[2]) or ''
if version ~= ARGV[1] or incarnation ~= ARGV[2] then return 'changed' end
if ARGV[3] ~= '' and last and redis.sha1hex(last[2][2]) ~= ARGV[3] then return 'changed' end
for i = 6, #ARGV do
  redis.call('XADD', KEYS[1], string.format('%.0f-0', tonumber(version) + i - 5), 'e', ARGV[i])
end
if ARGV[4] ~= '' then redis.call('SET', KEYS[2], ARGV[4]) end
if KEYS[4] and redis.call('EXPIRE', KEYS[4], ARGV[5]) == 0 then
  redis.call('SET', KEYS[4], '', 'EX', ARGV[5])
end
return 'stored'
"""
