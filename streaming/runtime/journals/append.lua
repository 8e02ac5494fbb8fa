-- Append frames to a stream, as one step. Sending the same twice changes nothing.
--
-- KEYS: the stream, its fence.
-- ARGV: the writer's epoch; the id that the writer takes for the stream's last; the id of the first frame, the
-- others follow without holes; the oldest id that is kept; seconds that the stream stays; seconds that the
-- fence stays; "new" where the stream begins anew; the frames.
--
-- Returns {what, id}: 1 written (the stream's last id now); 0 hole (the last id it has; nothing was written);
-- -1 fenced (the epoch seen); 2 raised: the fence stands at the writer's epoch now, and the stream has entries
-- of an older one (its last id, its last frame, which may be missing; nothing was written).

local stream, fence = KEYS[1], KEYS[2]
local epoch, after, first = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local FRAMES = 8

local seen = tonumber(redis.call('GET', fence) or '-1')
if epoch < seen then
  return {-1, seen}
end

local last = 0
if redis.call('EXISTS', stream) == 1 then
  if ARGV[7] == 'new' then
    redis.call('DEL', stream)
  else
    local info = redis.call('XINFO', 'STREAM', stream)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then
        last = tonumber(string.match(info[i + 1], '^%d+'))
      end
    end
  end
end

if epoch > seen then
  redis.call('SET', fence, epoch, 'EX', ARGV[6])
  if last > 0 then
    local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    return {2, last, newest and newest[2][2]}
  end
end

if last < after then
  return {0, last}
end

for i = FRAMES, #ARGV do
  local id = first + i - FRAMES
  if id > last then
    redis.call('XADD', stream, string.format('%d-0', id), 'f', ARGV[i])
    last = id
  end
end
redis.call('XTRIM', stream, 'MINID', string.format('%d-0', ARGV[4]))
redis.call('EXPIRE', stream, ARGV[5])
redis.call('EXPIRE', fence, ARGV[6])
return {1, last}
