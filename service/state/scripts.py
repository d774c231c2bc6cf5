"""The two Lua scripts that change a timeline, each atomic for its owner (Redis 6.2 commands only).

Both take the three keys of one owner, which share a hash tag and therefore a slot:

    h   ZSET    score = ts, member = 12-digit arrival + ":" + JSON [event_id, type, item_id, other owner's id or null]
    d   ZSET    event_id -> time of first arrival, for as long as a repeat is a no-op
    n   string  arrivals so far

A key of a type that is not ours can only be damage: it is deleted, counted and reported, so that one bad key cannot
keep its owner's events out for ever. A lost or unreadable `n` is found again from `h`.
"""

from __future__ import annotations

# ARGV: now, repeats count from (now - dedupe_s), max_events, ttl_ms, dedupe_ms, max_dedupe, look_in_history (0 or 1),
# then event_id, ts, payload per event. Numbers that are stored travel as text: Lua would keep 14 digits of them.
# Returns: keys deleted as damaged, then 1 (new) or 0 per event.
# ZADD on `h` is the first write on purpose: when memory is full Redis refuses it before anything has changed.
APPEND = """
local h, d, n = KEYS[1], KEYS[2], KEYS[3]
local max_events, max_dedupe = tonumber(ARGV[3]), tonumber(ARGV[6])
local result = {0}

for key, expected in pairs({[h] = 'zset', [d] = 'zset', [n] = 'string'}) do
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= expected then
    redis.call('DEL', key)
    result[1] = result[1] + 1
  end
end

local function sound(count)  -- a count that leaves room within 12 digits; damage can look like any number
  return count and count >= 0 and count <= 1e11 and count == math.floor(count)
end
local last = tonumber(redis.call('GET', n))
if not sound(last) then
  last = 0
  for _, member in ipairs(redis.call('ZRANGE', h, -max_events, -1)) do
    local arrival = tonumber(string.match(member, '^(%d%d%d%d%d%d%d%d%d%d%d%d):'))
    if sound(arrival) and arrival > last then last = arrival end
  end
end

local present = {}
if ARGV[7] == '1' then
  for _, member in ipairs(redis.call('ZRANGE', h, -max_events, -1)) do
    local readable, fields = pcall(cjson.decode, string.sub(member, 14))
    if readable and type(fields) == 'table' and fields[1] then present[fields[1]] = true end
  end
end

local any_new = false
for i = 8, #ARGV, 3 do
  local event_id, ts, payload = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local arrived = tonumber(redis.call('ZSCORE', d, event_id))
  if present[event_id] or (arrived and arrived > tonumber(ARGV[2])) then
    result[#result + 1] = 0
  else
    last = last + 1
    redis.call('ZADD', h, ts, string.format('%012.0f:', last) .. payload)
    redis.call('ZADD', d, ARGV[1], event_id)
    result[#result + 1] = 1
    any_new = true
  end
end

if any_new then
  redis.call('ZREMRANGEBYRANK', h, 0, -max_events - 1)
  redis.call('ZREMRANGEBYSCORE', d, '-inf', ARGV[2])
  redis.call('ZREMRANGEBYRANK', d, 0, -max_dedupe - 1)
  redis.call('SET', n, string.format('%.0f', last), 'PX', ARGV[4])
  redis.call('PEXPIRE', h, ARGV[4])
  redis.call('PEXPIRE', d, ARGV[5])
end
return result
"""

# ARGV: members of `h` that have been copied elsewhere. Removes them, and every key of the owner if none is left.
# Returns: members left. An event that arrived between the copy and this call is thereby kept.
DROP = """
local h = KEYS[1]
local found = redis.call('TYPE', h).ok
if found == 'zset' then
  for _, member in ipairs(ARGV) do redis.call('ZREM', h, member) end
  local left = redis.call('ZCARD', h)
  if left > 0 then return left end
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return 0
"""
