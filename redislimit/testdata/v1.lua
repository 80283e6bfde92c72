-- Reserves instants at which requests may go, by the generic cell rate algorithm
-- (GCRA) on Redis's own clock. Times are microseconds, instants since 2025, so
-- that a double holds fractions of them.
--
-- KEYS[1]     "v1 <clock> <ahead> <pause>": how far the theoretical arrival time
--             (tat) of the last token reserved was ahead of the clock, which is
--             all that GCRA needs, and how long a pause had to go.
-- ARGV[1..2]  interval between tokens, burst
-- ARGV[3..5]  what the caller knows, lest it be lost with the key: the clock it
--             saw last, its last tat, the end of the pause; "" for nothing
-- ARGV[6]     how long a pause to begin now; 0 for none
-- ARGV[7]     how many of the caller's last tokens to take back
-- ARGV[8..]   the longest wait of each waiter, in their order
--
-- Returns the clock, how long the pause has to go, how many tokens were taken
-- back, and for each waiter how far the tat of its token is ahead, or minus the
-- wait that would be too long for it. As text: a number in a reply is cut to an
-- integer.
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = (time[1] - 1735689600) * 1000000 + time[2]
local tat, pause = now, now

-- A clock that is behind the one seen before was set back, or is another
-- server's. What was to be waited then still is.
local function recall(seen, t, p)
  local back = math.max(seen - now, 0)
  tat, pause = math.max(tat, t - back), math.max(pause, p - back)
end

local held = redis.call('GET', KEYS[1])
if held then
  local seen, ahead, paused = string.match(held, '^v1 (%S+) (%S+) (%S+)$')
  if not seen then
    return redis.error_reply('ERR the key holds something other than a limit')
  end
  seen = tonumber(seen)
  recall(seen, seen + ahead, seen + paused)
end
local mine
if ARGV[3] ~= '' then
  local seen = tonumber(ARGV[3])
  mine = tonumber(ARGV[4]) - math.max(seen - now, 0)
  recall(seen, tonumber(ARGV[4]), tonumber(ARGV[5]))
end

-- A pause leaves nothing of the burst: the first token falls due at its end, and
-- the others follow one by one.
pause = math.max(pause, now + ARGV[6])
if pause > now then
  tat = math.max(tat, pause + (burst - 1) * interval)
end

-- Only the very last tokens can be taken back. Others have been followed by some
-- of another process.
local back = tonumber(ARGV[7])
if mine and tat < mine + interval / 2 then
  tat = tat - back * interval
else
  back = 0
end

local reply = { string.format('%.0f', now), string.format('%.3f', pause - now), string.format('%d', back) }
for i = 8, #ARGV do
  local wait = tat + interval * (1 - burst) - now
  if wait <= tonumber(ARGV[i]) then
    tat = tat + interval
    reply[#reply + 1] = string.format('%.3f', tat - now)
  else
    reply[#reply + 1] = string.format('%.3f', -wait)
  end
end

-- The key stays for as long as it says more than its absence would, and a second
-- longer, in which a clock that is set back is noticed.
local ahead = math.max(tat - now, 0)
if held or ahead > 0 then
  redis.call('SET', KEYS[1], string.format('v1 %.0f %.3f %.0f', now, ahead, pause - now),
    'PX', string.format('%.0f', math.ceil(ahead / 1000) + 1000))
end
return reply
