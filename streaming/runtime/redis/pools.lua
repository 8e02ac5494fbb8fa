-- The waiting line and the permits of one pool over all processes. Each operation is one step: Redis runs
-- nothing else meanwhile. The order is that of streaming/core/priority.py (FairQueue), whose tests it must pass.
--
-- KEYS: the leases of all processes; then, but for `beat` and `leave`, those of the pool (pools.py: `_KEYS`).
-- ARGV: the operation; what the pool is (msgpack, pools.py: `_Pool`); the arguments (msgpack, an array); and, in
-- tests, the time in µs. All times are µs. The answer is msgpack: arrays, never maps.

local PATIENCE = 2500000 -- since it was last said to have readers: then a task is away
local UNCLAIMED = 10000000 -- handed over and not begun: then a task is back in line
local UNCOMMITTED = 10000000 -- a place without a row: then it is gone
local GONE_FOR = 60000000 -- how long a release that came before its admission is remembered
local GLANCE = 250000
local SWEEP = 1000000
local LEASE = 5000000
local FORGET_PROCESS = 60000000
local KEYS_EXPIRE = 86400 -- seconds: a pool that nobody sweeps any more goes away
local PRUNE_ABOVE = 1024
local MOST_AT_ONCE = 32

-- A place, and behind it what a ticket has besides. Positions in the stored array.
local ID, OWNER, PRIORITY, ARRIVED, VIRTUAL, TAG, SEQUENCE, HELD, GRACE, TIMEOUT, REASON, TOLD =
  1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
local PROCESS, SINCE, BEGUN = 13, 14, 15
-- VIRTUAL, TAG, SEQUENCE: as in FairQueue. HELD: since when, 0 if it is not. TOLD: when it last had a reader, minus
-- that if it is known to have none since, 0 if it never had one.

local LEASES, META, LINE, HERE, RUNNING, COUNTS, TAGS, GONE = unpack(KEYS)
local pool = cmsgpack.unpack(ARGV[2])
local given = cmsgpack.unpack(ARGV[3])
local me = pool.process

local now
if ARGV[4] then
  now = tonumber(ARGV[4])
else
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local function integer(number)
  return string.format('%.0f', number)
end

-- What is small and read by nearly every operation, and the line, are one value each. The line is one, because a
-- thousand small ones cost ten times as much to read. Both are written at the end, where they have changed.
local meta, meta_changed
local function load_meta()
  if not meta then
    local packed = redis.call('GET', META)
    meta = packed and cmsgpack.unpack(packed)
      or { sequence = 0, waiting = 0, mean = false, swept = 0, virtual = {}, seen = { 0, 0, 0 } }
  end
  return meta
end

local function change_meta()
  meta_changed = true
  return load_meta()
end

-- The places of all who wait in the shared line, in order of arrival; and the value that holds them.
local line, line_changed, packed_line
local function read_line()
  if not packed_line then
    packed_line = load_meta().waiting > 0 and redis.call('GET', LINE) or cmsgpack.pack({})
  end
  return packed_line
end

local function load_line()
  line = line or cmsgpack.unpack(read_line())
  return line
end

local function change_line()
  line_changed = true
  return load_line()
end

local function save()
  if line_changed then
    change_meta().waiting = #line
    if #line == 0 then
      redis.call('DEL', LINE)
    else
      redis.call('SET', LINE, cmsgpack.pack(line), 'EX', KEYS_EXPIRE)
    end
  end
  if meta_changed then
    redis.call('SET', META, cmsgpack.pack(meta), 'EX', KEYS_EXPIRE)
  end
end

-- Counts: `o:<owner>` all tickets of an owner; `p:<process>` tickets in RUNNING, `p:` those handed to no process
-- in particular.
local function count(field)
  return tonumber(redis.call('HGET', COUNTS, field) or 0)
end

local function add(field, change)
  if redis.call('HINCRBY', COUNTS, field, change) == 0 then
    redis.call('HDEL', COUNTS, field)
  end
end

local function store(key, record)
  redis.call('HSET', key, record[ID], cmsgpack.pack(record))
end

local function fetch(key, id)
  local packed = redis.call('HGET', key, id)
  return packed and cmsgpack.unpack(packed)
end

local function running()
  return redis.call('HLEN', RUNNING)
end

local function waiting()
  return (line and #line or load_meta().waiting) + redis.call('HLEN', HERE)
end

-- Processes

-- Living processes: what each offers, {permits, slots}.
local function offers()
  local living, flat = {}, redis.call('HGETALL', LEASES)
  for i = 1, #flat, 2 do
    local lease = cmsgpack.unpack(flat[i + 1])
    if lease[1] >= now then
      living[flat[i]] = lease[2][pool.name] or { 0, 0 }
    end
  end
  return living
end

-- How many could run at once, at least 1; and how many slots of workers are free.
local function capacity()
  local total, free, any = 0, 0, false
  for process, offer in pairs(offers()) do
    total = total + offer[1] + offer[2]
    if offer[2] > 0 then
      any = true
      free = free + math.max(0, offer[2] - count('p:' .. process))
    end
  end
  if any then
    free = math.max(0, free - count('p:'))
  end
  if pool.max_running > 0 then
    total = math.min(total, pool.max_running)
  end
  return math.max(total, 1), free
end

local function below_cap()
  return pool.max_running == 0 or running() < pool.max_running
end

-- The order

local function is_away(place)
  local told = place[TOLD]
  return told ~= 0 and place[GRACE] < math.huge and (told < 0 or now - told > PATIENCE)
end

-- Who can be served, in order of arrival.
local function eligible()
  local present = {}
  for _, place in ipairs(load_line()) do
    if place[HELD] == 0 and not is_away(place) then
      present[#present + 1] = place
    end
  end
  return present
end

-- Its place, and where that stands.
local function find(id)
  -- To see that it does not wait, nothing need be unpacked.
  if line or string.find(read_line(), id, 1, true) then
    for number, place in ipairs(load_line()) do
      if place[ID] == id then
        return place, number
      end
    end
  end
end

-- Where it stands by when it came.
local function insert(place)
  local places = change_line()
  local at = #places + 1
  while at > 1 do
    local before = places[at - 1]
    if before[ARRIVED] < place[ARRIVED]
      or (before[ARRIVED] == place[ARRIVED] and before[SEQUENCE] < place[SEQUENCE]) then
      break
    end
    at = at - 1
  end
  table.insert(places, at, place)
end

local function virtual_time(priority)
  return load_meta().virtual[priority] or 0
end

local function serve(priority, tag)
  if tag > virtual_time(priority) then
    change_meta().virtual[priority] = tag
  end
end

local function tag_field(owner, priority)
  return integer(priority) .. ':' .. owner
end

local function last_tag(field)
  return tonumber(redis.call('HGET', TAGS, field) or -1)
end

local function set_tag(field, tag)
  redis.call('HSET', TAGS, field, integer(tag))
end

-- Forget the last tags that could not matter first; then those of all who do not wait.
local function prune()
  local flat = redis.call('HGETALL', TAGS)
  local left = #flat / 2
  for i = 1, #flat, 2 do
    local priority = tonumber(string.match(flat[i], '^%d+'))
    if tonumber(flat[i + 1]) < virtual_time(priority) then
      redis.call('HDEL', TAGS, flat[i])
      left = left - 1
    end
  end
  if left > PRUNE_ABOVE / 2 then
    local needed = {}
    for _, place in ipairs(load_line()) do
      needed[tag_field(place[OWNER], place[PRIORITY])] = true
    end
    for i = 1, #flat, 2 do
      if not needed[flat[i]] then
        redis.call('HDEL', TAGS, flat[i])
      end
    end
  end
end

local function next_tag(owner, priority)
  if redis.call('HLEN', TAGS) >= PRUNE_ABOVE then
    prune()
  end
  local field = tag_field(owner, priority)
  local tag = math.max(virtual_time(priority), last_tag(field) + 1)
  set_tag(field, tag)
  return tag
end

local function next_sequence()
  change_meta().sequence = load_meta().sequence + 1
  return meta.sequence
end

-- Its owner's share is used, without a wait.
local function charge(owner, priority)
  local virtual, tag = virtual_time(priority), next_tag(owner, priority)
  serve(priority, tag)
  return virtual, tag, next_sequence()
end

-- Those of the same owner and class, in order of arrival; and where among them it is itself.
local function turns_of(place)
  local turns, at = {}, nil
  for _, each in ipairs(change_line()) do
    if each[OWNER] == place[OWNER] and each[PRIORITY] == place[PRIORITY] then
      turns[#turns + 1] = each
      if each == place then
        at = #turns
      end
    end
  end
  return turns, at
end

local function retag(turns, from, tag)
  for number = from, #turns do
    tag = math.max(turns[number][VIRTUAL], tag + 1)
    turns[number][TAG] = tag
  end
  return tag
end

-- A task that never ran costs its owner nothing: the later ones get tags as if it had not come. It is in line still.
local function refund(place)
  local turns, at = turns_of(place)
  local field = tag_field(place[OWNER], place[PRIORITY])
  local was_last = last_tag(field) == turns[#turns][TAG]
  local tag = retag(turns, at + 1, place[TAG] - 1)
  if was_last then
    set_tag(field, tag)
  end
end

-- A turn among those of its owner and class, in order of arrival: the later ones move back. It is in line already.
local function take_turn(place)
  local turns, at = turns_of(place)
  if #turns == 1 then
    place[TAG] = next_tag(place[OWNER], place[PRIORITY])
    return
  end
  -- Who came later has not seen an earlier time; else the turn could not be given back in full.
  for number = at, #turns do
    place[VIRTUAL] = math.min(place[VIRTUAL], turns[number][VIRTUAL])
  end
  local tag = retag(turns, at, at > 1 and turns[at - 1][TAG] or turns[2][TAG] - 1)
  local field = tag_field(place[OWNER], place[PRIORITY])
  set_tag(field, math.max(last_tag(field), tag))
end

-- What nobody's wait shall exceed: longest and pace, in µs; nil without a promise.
local function promise(places)
  local mean = load_meta().mean
  if not mean or mean == 0 or pool.longest_wait == math.huge then
    return nil
  end
  local longest = math.max(pool.longest_wait - pool.haste, pool.queue_size / places + pool.full_line_and)
  return longest * mean, mean / places
end

-- How many of `present`, in order of arrival, go before all others.
local function overdue(present, longest, pace)
  local found = 0
  if longest then
    for number, place in ipairs(present) do
      if now - place[ARRIVED] + number * pace > longest then
        found = number
      end
    end
  end
  return found
end

local function class_now(place)
  return place[PRIORITY] - math.floor((now - place[ARRIVED]) / pool.aging)
end

-- Where in `present` (not empty) the next one stands.
local function best(present, longest, pace)
  if overdue(present, longest, pace) > 0 then
    return 1
  end
  local found, class, tag = nil, 0, 0
  for number, place in ipairs(present) do
    local its = class_now(place)
    if not found or its < class or (its == class and place[TAG] < tag) then
      found, class, tag = number, its, place[TAG]
    end
  end
  return found
end

-- Changes

-- A record becomes the ticket of a permit; of one that has waited, the wait is over now.
local function run(record, process, begun)
  if begun == 1 then
    record[TOLD] = 0
  end
  record[PROCESS], record[SINCE], record[BEGUN] = process, record[SINCE] or now, begun
  store(RUNNING, record)
  add('p:' .. process, 1)
end

local function stop(ticket)
  redis.call('HDEL', RUNNING, ticket[ID])
  add('p:' .. ticket[PROCESS], -1)
end

-- Out of the line, because its turn has come.
local function take(place)
  local _, at = find(place[ID])
  table.remove(change_line(), at)
  serve(place[PRIORITY], place[TAG])
end

-- Out of the line, without its turn.
local function drop(place)
  refund(place)
  local _, at = find(place[ID])
  table.remove(line, at)
  add('o:' .. place[OWNER], -1)
end

-- A ticket that was handed over and not begun stands again where it stood.
local function back(ticket)
  stop(ticket)
  if ticket[TOLD] ~= 0 then
    ticket[TOLD] = now
  end
  insert({ unpack(ticket, 1, TOLD) })
end

-- Whether it has readers, at the moment from which on that matters.
local function let_read(place, attended)
  if place[GRACE] == math.huge then
    return
  elseif attended then
    place[TOLD] = now
  elseif place[GRACE] > 0 and place[TOLD] == 0 then
    -- Nobody reads it, and that is known: its grace runs. One without any counts from its first reader on.
    place[TOLD] = -now
  end
end

local function let_go(place)
  place[HELD] = 0
  change_line()
end

local function observe(duration)
  local mean = load_meta().mean
  change_meta().mean = mean and mean + pool.weight * (duration - mean) or duration
end

local function ages()
  local found = {}
  for _, packed in ipairs(redis.call('HVALS', RUNNING)) do
    found[#found + 1] = now - cmsgpack.unpack(packed)[SINCE]
  end
  return found
end

-- Operations: each answers with something that msgpack can hold

local operations = {}

function operations.beat()
  local lease = given[1]
  local packed = redis.call('HGET', LEASES, me)
  local alive = packed and cmsgpack.unpack(packed)[1] >= now
  redis.call('HSET', LEASES, me, cmsgpack.pack({ now + LEASE, given[2] }))
  redis.call('SET', KEYS[2], lease, 'PX', integer(LEASE / 1000))
  return alive or false
end

function operations.leave()
  redis.call('HDEL', LEASES, me)
  redis.call('DEL', KEYS[2])
  return true
end

-- How many can be served, for how long the first of them has waited, and how many of a class or a higher one.
local function look(priority)
  local present = eligible()
  local ahead = 0
  for _, place in ipairs(present) do
    if place[PRIORITY] <= priority then
      ahead = ahead + 1
    end
  end
  local oldest = #present > 0 and math.max(0, now - present[1][ARRIVED]) or 0
  return #present, oldest, ahead
end

-- The same for those who are refused, whatever it is: a quarter of a second old at most. Refusing must be cheap,
-- most of all while the line is long.
local function glance()
  local seen = load_meta().seen
  if now - seen[1] > GLANCE or now < seen[1] then
    local number, oldest = look(0)
    seen = { now, number, oldest }
    change_meta().seen = seen
  end
  return seen[2], seen[3], 0
end

function operations.admit()
  local id, owner, priority, grace, timeout, permit, here = unpack(given)
  local places = capacity()
  local mine, owned, before, now_waiting = count('p:' .. me), count('o:' .. owner), running(), waiting()

  local function answer(route, reason, number, oldest, ahead)
    local mean, out = load_meta().mean, {}
    if route == 'rejected' and (reason == 'queue_full' or not mean) then
      out = ages()
    end
    return { route, reason, before, now_waiting, places, mine, owned, oldest, number, ahead, mean or -1, out }
  end

  -- Said again: the first answer holds.
  if redis.call('HEXISTS', RUNNING, id) == 1 then
    return answer('direct', 'worker_free', look(priority))
  end
  local known = find(id) or fetch(HERE, id)
  if known then
    return answer('queued', known[REASON], look(priority))
  end
  if redis.call('ZSCORE', GONE, id) then
    return answer('rejected', 'draining', glance())
  end

  if owned >= pool.per_owner then
    return answer('rejected', 'owner_limit', glance())
  end
  local free = permit and mine < pool.max_workers and below_cap()
  if not free and now_waiting >= pool.queue_size then
    return answer('rejected', 'queue_full', glance())
  end
  local number, oldest, ahead = look(priority)
  if free and number == 0 then
    local virtual, tag, sequence = charge(owner, priority)
    run({ id, owner, priority, now, virtual, tag, sequence, 0, grace, timeout, '', 0 }, me, 1)
    add('o:' .. owner, 1)
    return answer('direct', 'worker_free', number, oldest, ahead)
  end
  if now_waiting >= pool.queue_size then
    return answer('rejected', 'queue_full', number, oldest, ahead)
  end
  local reason = free and 'others_waiting' or 'workers_busy'
  if here then
    store(HERE, { id, owner, priority, now, 0, 0, 0, 0, grace, timeout, reason, 0, me })
  else
    local virtual, tag = virtual_time(priority), next_tag(owner, priority)
    insert({ id, owner, priority, now, virtual, tag, next_sequence(), now, grace, timeout, reason, 0 })
  end
  add('o:' .. owner, 1)
  return answer('queued', reason, number, oldest, ahead)
end

function operations.let_go()
  local id, attended = unpack(given)
  local place = find(id)
  if not place then
    return false
  end
  if place[HELD] > 0 then
    let_go(place)
    let_read(place, attended)
  end
  return true
end

function operations.dispatch()
  local places, free = capacity()
  if pool.max_running > 0 then
    free = math.min(free, pool.max_running - running())
  end
  local found = {}
  if free <= 0 then
    return found
  end
  local present = eligible()
  local longest, pace = promise(places)
  for _ = 1, math.min(free, #present, MOST_AT_ONCE) do
    local place = table.remove(present, best(present, longest, pace))
    take(place)
    run(place, '', 0)
    found[#found + 1] = place[ID]
  end
  return found
end

function operations.pull()
  if load_meta().waiting == 0 or count('p:' .. me) >= pool.max_workers or not below_cap() then
    return ''
  end
  local places, free = capacity()
  local present = eligible()
  -- The best ones are the workers', as far as they have slots for them.
  if #present <= free then
    return ''
  end
  local longest, pace = promise(places)
  local place = present[best(present, longest, pace)]
  take(place)
  run(place, me, 0)
  return place[ID]
end

function operations.begin()
  local id = given[1]
  local ticket = fetch(RUNNING, id)
  if ticket then
    if ticket[PROCESS] ~= me or ticket[BEGUN] == 0 then
      stop(ticket)
      run(ticket, me, 1)
    end
    return true
  end
  local place = find(id)
  if place then
    take(place)
    run(place, me, 1)
    return true
  end
  place = fetch(HERE, id)
  if not place or not below_cap() then
    return false
  end
  redis.call('HDEL', HERE, id)
  place[VIRTUAL], place[TAG], place[SEQUENCE] = charge(place[OWNER], place[PRIORITY])
  run(place, me, 1)
  return true
end

-- `owed`: it was not known whether something was taken, or it could not be said in time. What has gone on since is
-- somebody else's.
local function release(id, owed)
  local ticket = fetch(RUNNING, id)
  if ticket then
    if ticket[PROCESS] ~= me and (ticket[PROCESS] ~= '' or owed) then
      return false
    end
    stop(ticket)
    add('o:' .. ticket[OWNER], -1)
    if ticket[BEGUN] == 1 and not owed then
      observe(now - ticket[SINCE])
    end
    return true
  end
  local place = find(id)
  if place then
    if owed and place[HELD] == 0 then
      return false
    end
    drop(place)
    return true
  end
  place = fetch(HERE, id)
  if place then
    redis.call('HDEL', HERE, id)
    add('o:' .. place[OWNER], -1)
    return true
  end
  -- Its admission may come yet: an answer was not awaited, and Redis may take up connections in any order.
  redis.call('ZADD', GONE, integer(now), id)
  redis.call('ZREMRANGEBYSCORE', GONE, '-inf', integer(now - GONE_FOR))
  return false
end

function operations.release()
  return release(unpack(given))
end

function operations.put_back()
  local id, owner, priority, grace, timeout, arrived, attended, former = unpack(given)
  redis.call('ZREM', GONE, id)
  local place = find(id)
  if place then
    if place[HELD] > 0 then
      let_go(place)
    end
    return true
  end
  local ticket, told = fetch(RUNNING, id), 0
  if ticket then
    local its = ticket[PROCESS]
    -- Without a former process, what is handed over is not given back by who only sees its row.
    local void = its == me or (former ~= '' and (its == former or ticket[BEGUN] == 0))
    if not void and (its == '' or offers()[its]) then
      return false
    end
    stop(ticket)
    told = ticket[TOLD]
  else
    ticket = fetch(HERE, id)
    redis.call('HDEL', HERE, id)
  end
  if ticket then
    add('o:' .. ticket[OWNER], -1)
  end
  add('o:' .. owner, 1)
  place = {
    id, owner, priority, math.min(arrived, now), virtual_time(priority), 0, next_sequence(), 0, grace, timeout,
    'workers_busy', told,
  }
  let_read(place, attended)
  insert(place)
  take_turn(place)
  return true
end

function operations.remove()
  local place = find(given[1])
  if not place then
    return false
  end
  drop(place)
  return true
end

function operations.attend()
  local told = {}
  for _, id in ipairs(given[1]) do
    told[id] = true
  end
  for _, place in ipairs(load_line()) do
    if told[place[ID]] then
      place[TOLD] = now
      change_line()
    end
  end
  return true
end

function operations.move()
  local id, priority = unpack(given)
  local place = find(id)
  if not place or place[PRIORITY] == priority then
    return false
  end
  refund(place)
  place[PRIORITY] = priority
  place[VIRTUAL] = virtual_time(priority)
  take_turn(place)
  return true
end

function operations.line()
  local places = capacity()
  local present = eligible()
  local longest, pace = promise(places)
  local first = overdue(present, longest, pace)
  local ids, classes, lowest_class, lowest_tag, highest_tag = {}, {}, math.huge, math.huge, 0
  for number, place in ipairs(present) do
    classes[number] = class_now(place)
    lowest_class = math.min(lowest_class, classes[number])
    lowest_tag, highest_tag = math.min(lowest_tag, place[TAG]), math.max(highest_tag, place[TAG])
  end
  -- By class, tag and arrival: one number each, as those are sorted without a call for each comparison.
  local keys, tags, count_all = {}, highest_tag - lowest_tag + 1, #present + 1
  for number, place in ipairs(present) do
    if number <= first then
      ids[number] = place[ID]
    else
      keys[#keys + 1] = ((classes[number] - lowest_class) * tags + place[TAG] - lowest_tag) * count_all + number
    end
  end
  table.sort(keys)
  for _, key in ipairs(keys) do
    ids[#ids + 1] = present[key % count_all][ID]
  end
  return { ids, ages(), load_meta().mean or -1, places }
end

function operations.sweep()
  load_meta()
  if now - meta.swept < SWEEP and now >= meta.swept then
    return { {}, {}, {}, {}, {} }
  end
  change_meta().swept = now
  local left, late, unclaimed, stale, dead, seen = {}, {}, {}, {}, {}, {}
  local living = offers()
  local counts = {}
  local function tally(field)
    counts[field] = (counts[field] or 0) + 1
  end
  local function died(process)
    if not seen[process] then
      seen[process] = true
      dead[#dead + 1] = process
    end
  end

  local flat = redis.call('HGETALL', RUNNING)
  for i = 1, #flat, 2 do
    local id, ticket = flat[i], cmsgpack.unpack(flat[i + 1])
    local process = ticket[PROCESS]
    local gone = process ~= '' and not living[process]
    if gone then
      died(process)
    end
    if ticket[BEGUN] == 0 and (gone or now - ticket[SINCE] > UNCLAIMED) then
      back(ticket)
      unclaimed[#unclaimed + 1] = id
    elseif gone then
      stop(ticket)
      add('o:' .. ticket[OWNER], -1)
    else
      tally('p:' .. process)
      tally('o:' .. ticket[OWNER])
    end
  end

  flat = redis.call('HGETALL', HERE)
  for i = 1, #flat, 2 do
    local place = cmsgpack.unpack(flat[i + 1])
    if living[place[PROCESS]] then
      tally('o:' .. place[OWNER])
    else
      died(place[PROCESS])
      redis.call('HDEL', HERE, flat[i])
      add('o:' .. place[OWNER], -1)
    end
  end

  for _, place in ipairs(load_line()) do
    if place[HELD] > 0 and now - place[HELD] > UNCOMMITTED and #stale < MOST_AT_ONCE then
      stale[#stale + 1] = place
    else
      tally('o:' .. place[OWNER])
      if place[HELD] > 0 then
        -- Nobody knows it but who admitted it.
      elseif is_away(place) and now - math.abs(place[TOLD]) >= place[GRACE] then
        left[#left + 1] = place[ID]
      elseif now - place[ARRIVED] >= place[TIMEOUT] then
        late[#late + 1] = place[ID]
      end
    end
  end
  for number, place in ipairs(stale) do
    drop(place)
    stale[number] = place[ID]
  end

  -- Everything was counted just now: were a number wrong, it is right again.
  flat = redis.call('HGETALL', COUNTS)
  for i = 1, #flat, 2 do
    if not counts[flat[i]] then
      redis.call('HDEL', COUNTS, flat[i])
    elseif counts[flat[i]] ~= tonumber(flat[i + 1]) then
      redis.call('HSET', COUNTS, flat[i], integer(counts[flat[i]]))
    end
    counts[flat[i]] = nil
  end
  for field, number in pairs(counts) do
    redis.call('HSET', COUNTS, field, integer(number))
  end

  flat = redis.call('HGETALL', LEASES)
  for i = 1, #flat, 2 do
    if now - cmsgpack.unpack(flat[i + 1])[1] > FORGET_PROCESS then
      redis.call('HDEL', LEASES, flat[i])
    end
  end
  for i = 2, #KEYS do
    redis.call('EXPIRE', KEYS[i], KEYS_EXPIRE)
  end
  return { left, late, dead, unclaimed, stale }
end

function operations.restate()
  for _, stated in ipairs(given[1]) do
    local id, owner, priority, grace, timeout, runs, age = unpack(stated)
    local ticket = fetch(RUNNING, id)
    local record = { id, owner, priority, now - age, 0, 0, 0, 0, grace, timeout, 'workers_busy', 0, me }
    if ticket and runs and (ticket[PROCESS] ~= me or ticket[BEGUN] == 0) then
      stop(ticket)
      run(ticket, me, 1)
    elseif not ticket then
      local place = find(id)
      local known = place or fetch(HERE, id)
      if runs or not known then
        if known then
          add('o:' .. known[OWNER], -1)
        end
        add('o:' .. owner, 1)
      end
      if runs then
        if place then
          take(place)
        end
        redis.call('HDEL', HERE, id)
        record[SINCE] = now - age
        run(record, me, 1)
      elseif not known then
        store(HERE, record)
      end
    end
  end
  return true
end

function operations.statistics()
  local places = capacity()
  local away, oldest, classes, place_of = 0, 0, {}, {}
  local function class(priority)
    if not place_of[priority] then
      place_of[priority] = { priority, 0, -1 }
      classes[#classes + 1] = place_of[priority]
    end
    return place_of[priority]
  end
  for _, place in ipairs(load_line()) do
    local its, gone = class(place[PRIORITY]), is_away(place)
    its[2] = its[2] + 1
    away = away + (gone and 1 or 0)
    if not gone and place[HELD] == 0 then
      local wait = now - place[ARRIVED]
      oldest = math.max(oldest, wait)
      its[3] = math.max(its[3], wait)
    end
  end
  for _, packed in ipairs(redis.call('HVALS', HERE)) do
    local its = class(cmsgpack.unpack(packed)[PRIORITY])
    its[2] = its[2] + 1
  end
  return { running(), waiting(), away, places, oldest, load_meta().mean or -1, classes }
end

local answer = operations[ARGV[1]]()
save()
return cmsgpack.pack(answer)
