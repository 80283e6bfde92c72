-- Reserves instants at which requests may go, by the generic cell rate algorithm
-- (GCRA) on Redis's own clock. Times are microseconds, instants since 2025, so
-- that a double holds fractions of them.
--
-- KEYS[1]      "v1 <clock> <ahead> <pause>": how far the theoretical arrival time
--              (tat) of the last token reserved was ahead of the clock, which is
--              all that GCRA needs, and how long a pause had to go.
--              "v2 <clock> <ahead> <pause> <lead> <base> <count> <hold> <known>
--              <accepted> <busy>" where there is more to say: see below.
-- ARGV[1..3]   interval between tokens, burst, and what of it is for the waiters
-- ARGV[4]      how many tokens may be reserved that have to be waited for
-- ARGV[5..8]   what the caller knows, lest it be lost with the key: the clock it
--              saw last, its last tat, the end of the pause, and the interval
--              learned; "" for nothing
-- ARGV[9]      how long a pause to begin now; 0 for none
-- ARGV[10]     how many of the caller's last tokens to take back
-- ARGV[11]     how far ahead the caller should like to reserve
-- ARGV[12..13] how many of the caller's requests the server refused for their
--              rate, -1 if what is learned is not to count, and when the last of
--              them was sent
-- ARGV[14..]   the longest wait of each waiter, in their order
--
-- Returns the clock, how long the pause has to go, how many tokens were taken
-- back, how far ahead to reserve, the interval in force, since when refusals are
-- news, and for each waiter, up to the first one that is left for later, how far
-- the tat of its token is ahead, or minus the wait that would be too long for it.
-- As text: a number in a reply is cut to an integer.
local limit, burst, own = 1e6 / ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = (time[1] - 1735689600) * 1000000 + time[2]
local tat, pause = now, now

-- A clock that is behind the one seen before was set back, or is another
-- server's. What was to be waited then still is.
local function recall(seen, t, p)
  local back = math.max(seen - now, 0)
  tat, pause = math.max(tat, t - back), math.max(pause, p - back)
  return back
end

-- lead is the longest of what the callers should like to reserve ahead: those
-- with a long way to Redis need it, and shares are alike if all do the same.
local lead = 0

-- What is learned of the server's limit, if it is below ours. base is the rate
-- as of the last refusal, in requests a second; count is how many had to wait
-- for their turn since, and hold after how many the rate doubles. In the time
-- busy, accepted of them were accepted: the rate of the server. Refusals of
-- requests sent before known are no news.
local base, count, hold, known, accepted, busy = nil, 0, 0, 0, 0, 0
local idle = 0

local held = redis.call('GET', KEYS[1])
if held then
  -- Of a later version, these would mean the same.
  local seen, ahead, paused, more = string.match(held, '^v%d+ (%S+) (%S+) (%S+)(.*)$')
  if not seen then
    return redis.error_reply('ERR the key holds something other than a limit')
  end
  seen = tonumber(seen)
  local back = recall(seen, seen + ahead, seen + paused)
  local n = {}
  for s in string.gmatch(more, '%S+') do
    n[#n + 1] = tonumber(s)
  end
  lead = (n[1] or 0) * math.max(1 - math.max(now - seen, 0) / 1e6, 0) -- renewed, or forgotten in a second
  if n[7] and n[2] > 0 then
    base, count, hold, known, accepted, busy = n[2], n[3], n[4], n[5] - back, n[6], n[7]
    idle = math.max(now - seen, 0)
  end
end
local mine
if ARGV[5] ~= '' then
  local seen = tonumber(ARGV[5])
  mine = tonumber(ARGV[6]) - recall(seen, tonumber(ARGV[6]), tonumber(ARGV[7]))
end
lead = math.max(ARGV[11], lead)

-- The rate creeps past the base, and when hold requests have had to wait it
-- doubles with as many again and again, until one is refused: that the server's
-- limit has risen shows in nothing else. It begins below the base, so that the
-- server's bucket is not empty all the time.
local creep = 0.02
local probe = 200 -- the longest hold, but for pauses: one refusal in so many
local slowest = 5 -- a second: where a rate stops to fall when nothing can be measured
local idling = 16 -- times longer it takes without a backlog; but what nobody needs is forgotten
local forgetting = 60 * 1e6
local function grown()
  if count <= hold then
    return base * (1 - 2 * creep + 3 * creep * count / hold)
  end
  return base * (1 + creep) * 2 ^ math.min((count - hold) / math.min(hold, probe), 64)
end
if not held and ARGV[8] ~= '' and now - ARGV[5] < forgetting then
  base, hold, known = 1e6 / ARGV[8], probe, now
end
local rate = limit
if base then
  count = count + idle / 1e6 * base / idling
  rate = grown()
  if rate >= limit then
    base, rate = nil, limit
  end
end
local refused = tonumber(ARGV[12])
local interval = 1e6 / (refused < 0 and limit or rate)

local hint = tonumber(ARGV[9])

-- A refusal means that the server's bucket was empty when the request was sent.
-- So from one refusal to the next as many are accepted as it refills.
if refused > 0 and (not base or tonumber(ARGV[13]) > known) then
  local wait = math.max(tat + interval * (1 - burst) - now, 0)
  local after = math.max(now - ARGV[13], 0) + wait -- time in which those went that know nothing of it
  accepted = accepted - refused
  local got, took = math.max(accepted - after / interval, 0), math.max(busy - after, 0)
  local trust = 64 -- in what is found now
  if not base then
    base, got, took = rate * 0.8, 0, 0
  elseif rate > 1.5 * base then -- the limit has risen, and its bucket may have been full
    base, got, took = rate * (1 - 2 * creep), 0, 0
  elseif got >= 8 then
    base = math.min(math.max(1e6 * got / took, rate * 0.7), rate)
    trust = math.min(math.max(got, hold, trust), probe)
  else -- too few to measure; where each refusal costs a pause, there should not be many
    local part = hint > 0 and 0.7 or math.max(1 - refused / (count + 8), 0.7)
    base = math.max(rate * part, math.min(rate, slowest))
  end
  hold = base > 2 * slowest and trust or math.max(math.min(got, probe), 16)
  if got > 32 then -- the rest is out of date if the limit has changed
    took = took * 32 / got
    got = 32
  end
  accepted, busy, count, known = got, took, 0, now + wait
  rate = grown()
  local slower = 1e6 / rate
  tat = now + math.max((tat - now) / interval, burst - 1) * slower
  interval = slower
end

-- A pause leaves nothing of the burst: the first token falls due at its end, and
-- the others follow one by one. The server's bucket is full then, so that it
-- refuses is worth less, and costs a pause each time.
if base and now + hint > pause then
  accepted, busy, known = -burst, 0, now + hint
  hold = math.max(hold, 32 * rate * hint / 1e6)
end
pause = math.max(pause, now + hint)
if pause > now then
  tat = math.max(tat, pause + (burst - 1) * interval)
end

-- Only the very last tokens can be taken back. Others have been followed by some
-- of another process.
local back = tonumber(ARGV[10])
if mine and tat < mine + interval / 2 then
  tat = tat - back * interval
else
  back = 0
end

local reply = {
  string.format('%.0f', now), string.format('%.3f', pause - now), string.format('%d', back),
  string.format('%.0f', lead), string.format('%.6f', interval), string.format('%.0f', base and known or 0),
}
local turns = tonumber(ARGV[4])
for i = 14, #ARGV do
  local wait = tat + interval * (1 - own) - now
  if wait > 0 and turns == 0 then
    break
  end
  if wait <= tonumber(ARGV[i]) then
    tat = tat + interval
    if wait > 0 then
      turns = turns - 1
      count, accepted, busy = count + 1, accepted + 1, busy + interval
    end
    reply[#reply + 1] = string.format('%.3f', tat - now)
  else
    reply[#reply + 1] = string.format('%.3f', -wait)
  end
end

-- The key stays for as long as it says more than its absence would, and a second
-- longer, in which a clock that is set back is noticed.
local ahead = math.max(tat - now, 0)
if held or ahead > 0 or base then
  local value = string.format('v1 %.0f %.3f %.0f', now, ahead, pause - now)
  local stay = math.ceil(ahead / 1000) + 1000
  if base or lead >= interval then
    value = string.format('v2%s %.0f %.3f %.2f %.0f %.0f %.2f %.0f', string.sub(value, 3), lead,
      base or 0, count, hold, known, accepted, busy)
  end
  if base then
    stay = math.max(stay, forgetting / 1000)
  end
  redis.call('SET', KEYS[1], value, 'PX', string.format('%.0f', stay))
end
return reply
