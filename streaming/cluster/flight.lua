-- Claim the making of a text for a task, unless another one makes it already, as one step.
-- KEYS: the flight. ARGV: the task, "" to give the claim up; the task that the flight is taken over from, or "";
-- seconds that it stays.
-- Returns the id of the task that makes it, or false if the claim was made.
local task = redis.call('GET', KEYS[1])
if task and task ~= ARGV[1] and task ~= ARGV[2] then
  return task
end
if ARGV[1] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
end
return false
