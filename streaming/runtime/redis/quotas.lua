-- What one owner uses, over all processes, as one step: tell what was used and what is active, then ask for one
-- task more. The law of rates is that of streaming/core/quota.py (Spending), whose histories it must follow.
--
-- KEYS: what was used, by quota; the owner's running tasks and its waiting ones, by the time until which they
-- count. ARGV: JSON (quotas.py: `_Step`), and, in tests, the time. All times are seconds.
-- Returns JSON: admitted, now, streams and places in use before, and by quota when all is paid and what was
-- used by slot, as pairs.

local USED, RUNNING, WAITING = unpack(KEYS)
local step = cjson.decode(ARGV[1])
local now
if ARGV[2] then
  now = tonumber(ARGV[2])
else
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1000000
end

local function exact(number)
  return string.format('%.6f', number)
end

-- What is active, and what is not any more
for _, id in ipairs(step.left) do
  redis.call('ZREM', RUNNING, id)
  redis.call('ZREM', WAITING, id)
end
for _, each in ipairs(step.active) do
  local id, waits, seconds = unpack(each)
  redis.call('ZREM', waits and RUNNING or WAITING, id)
  redis.call('ZADD', waits and WAITING or RUNNING, exact(now + seconds), id)
end
for _, key in ipairs({ RUNNING, WAITING }) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', exact(now))
  redis.call('ZREMRANGEBYSCORE', key, exact(now + step.expire), '+inf')
end

-- What was used
local stored = redis.call('HGETALL', USED)
local known = {}
for at = 1, #stored, 2 do
  known[stored[at]] = cjson.decode(stored[at + 1])
end
local answer = { now = now, spent = {} }
local longest = 0
for name, rate in pairs(step.rates) do
  local quota, window = rate[1], rate[2]
  local current = math.floor(now * step.slots / window)
  local amount = step.charges[name] or 0
  local was = known[name] or { 0, {} }
  local paid, used = was[1], {}
  -- After a leap of the clock nobody is shut out for longer than by any debt.
  local leapt = paid > now + (1 + step.debt) * window + 1
  if leapt then
    paid = now + (1 + step.debt) * window
  end
  for _, pair in ipairs(was[2]) do
    if pair[1] >= current - step.slots and pair[1] <= current + 1 then
      used[#used + 1] = pair
    end
  end
  if amount > 0 then
    local last = used[#used]
    if last and last[1] >= current then
      last[2] = last[2] + amount
    else
      used[#used + 1] = { current, amount }
    end
    paid = math.min(math.max(paid, now) + amount * window / quota, now + (1 + step.debt) * window)
  elseif amount < 0 then
    local back = -amount
    paid = math.max(paid - back * window / quota, math.min(paid, now))
    while back > 0 and #used > 0 do
      local last = used[#used]
      local taken = math.min(back, last[2])
      back, last[2] = back - taken, last[2] - taken
      if last[2] <= 0 then
        table.remove(used)
      end
    end
  end
  if amount ~= 0 or leapt then
    redis.call('HSET', USED, name, cjson.encode({ paid, used }))
  end
  answer.spent[name] = { paid, used }
  longest = math.max(longest, window)
end
if longest > 0 then
  redis.call('EXPIRE', USED, math.ceil((step.debt + 2) * longest))
end

-- One more
local running, waiting = redis.call('ZCARD', RUNNING), redis.call('ZCARD', WAITING)
answer.streams, answer.places, answer.admitted = running + waiting, waiting, true
local ask = step.ask
if ask and ask ~= cjson.null then
  for _, name in ipairs(ask.quotas) do
    local limit = step.counts[name]
    local rate = step.rates[name]
    if limit and answer[name] >= limit then
      answer.admitted = false
    elseif rate then
      local paid, used, total = answer.spent[name][1], answer.spent[name][2], 0
      for _, pair in ipairs(used) do
        total = total + pair[2]
      end
      if paid - now >= rate[2] or total >= rate[1] then
        answer.admitted = false
      end
    end
  end
  if answer.admitted then
    redis.call('ZADD', ask.waits and WAITING or RUNNING, exact(now + ask.seconds), ask.id)
  end
end
redis.call('EXPIRE', RUNNING, step.expire)
redis.call('EXPIRE', WAITING, step.expire)
return cjson.encode(answer)
