-- Reserves instants at which requests may go, by the generic cell rate algorithm
-- (GCRA) on Redis's own clock. Times are in microseconds. Instants are counted
-- since 2025, so that a double holds fractions of them.
--
-- KEYS[1]      "v1 <clock> <ahead> <pause>": how far the theoretical arrival time
--              (tat) of the last reserved token was ahead of the clock, which is
--              all the state of GCRA, and the rest of the pause.
--              "v2 <clock> <ahead> <pause> <lead> <base> <count> <hold> <cutoff>
--              <accepted> <busy>" if a limit is learned or there is a lead.
-- ARGV[1..3]   interval between tokens, burst, and the part of it for the waiters
-- ARGV[4]      the number of tokens with a wait that may be reserved
-- ARGV[5..8]   the state in the caller, in case the key is lost: the last clock
--              that it saw, its last tat, the end of the pause, and the learned
--              interval, or "" for each that it does not have
-- ARGV[9]      the length of a pause that begins now, or 0
-- ARGV[10]     the number of the caller's last tokens to take back
-- ARGV[11]     how far ahead the caller wants to reserve
-- ARGV[12..13] the number of the caller's requests that the server refused for
--              their rate, or -1 to ignore the learned limit, and the time at
--              which the last of them was sent
-- ARGV[14..]   the longest wait of each waiter, in their order
--
-- Returns the clock, the rest of the pause, the number of tokens taken back, how
-- far ahead to reserve, the interval in force, and the cutoff for refusals. Then
-- follows a value for each waiter, up to the first one that has to ask again: how
-- far the tat of its token is ahead, or minus the wait that would be too long for
-- it. All are text, because a number in a reply is cut to an integer.
local limit, burst, own = 1e6 / ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = (time[1] - 1735689600) * 1000000 + time[2]
local tat, pause = now, now

-- A clock that is behind the one seen before was set back, or is that of another
-- server. The remaining waits stay the same.
local function restore(seen, t, p)
  local back = math.max(seen - now, 0)
  tat, pause = math.max(tat, t - back), math.max(pause, p - back)
  return back
end

-- lead is how far ahead all callers reserve, which is the longest that one of them
-- wants. Callers that are far from Redis need it, and if all use the same, their
-- shares are alike.
local lead = 0

-- The learned limit of the server, if it is below the configured one. base is the
-- rate after the last refusal, in requests a second. count is the number of
-- requests that had to wait for their turn since, and the rate begins to double
-- after hold of them. The server accepted accepted requests in the time busy, which
-- gives its rate. Refusals of requests sent before cutoff are ignored.
local base, count, hold, cutoff, accepted, busy = nil, 0, 0, 0, 0, 0
local idle = 0

local stored = redis.call('GET', KEYS[1])
if stored then
  -- These fields have the same meaning in later versions.
  local seen, ahead, paused, more = string.match(stored, '^v%d+ (%S+) (%S+) (%S+)(.*)$')
  if not seen then
    return redis.error_reply('ERR the key holds something other than a limit')
  end
  seen = tonumber(seen)
  local back = restore(seen, seen + ahead, seen + paused)
  local n = {}
  for s in string.gmatch(more, '%S+') do
    n[#n + 1] = tonumber(s)
  end
  lead = (n[1] or 0) * math.max(1 - math.max(now - seen, 0) / 1e6, 0) -- renewed, or forgotten in a second
  if n[7] and n[2] > 0 then
    base, count, hold, cutoff, accepted, busy = n[2], n[3], n[4], n[5] - back, n[6], n[7]
    idle = math.max(now - seen, 0)
  end
end
local ownTat
if ARGV[5] ~= '' then
  local seen = tonumber(ARGV[5])
  ownTat = tonumber(ARGV[6]) - restore(seen, tonumber(ARGV[6]), tonumber(ARGV[7]))
end
lead = math.max(ARGV[11], lead)

-- The rate slowly increases past the base. After hold requests that had to wait, it
-- doubles with each further hold requests, until one is refused. Only this shows
-- that the server's limit has risen. The rate starts below the base, so that the
-- server's bucket is not empty all the time.
local step = 0.02
local maxHold = 200 -- except with pauses; about one request in so many is refused
local minRate = 5 -- a second: a rate does not fall below it if it cannot be measured
local idleFactor = 16 -- without a backlog the rate rises so many times slower
local forgetAfter = 60 * 1e6
local function currentRate()
  if count <= hold then
    return base * (1 - 2 * step + 3 * step * count / hold)
  end
  return base * (1 + step) * 2 ^ math.min((count - hold) / math.min(hold, maxHold), 64)
end
if not stored and ARGV[8] ~= '' and now - ARGV[5] < forgetAfter then
  base, hold, cutoff = 1e6 / ARGV[8], maxHold, now
end
local rate = limit
if base then
  count = count + idle / 1e6 * base / idleFactor
  rate = currentRate()
  if rate >= limit then
    base, rate = nil, limit
  end
end
local refused = tonumber(ARGV[12])
local interval = 1e6 / (refused < 0 and limit or rate)

local hint = tonumber(ARGV[9])

-- A refusal means that the server's bucket was empty when the request was sent. So
-- the requests accepted from one refusal to the next are those that it refilled.
if refused > 0 and (not base or tonumber(ARGV[13]) > cutoff) then
  local wait = math.max(tat + interval * (1 - burst) - now, 0)
  local after = math.max(now - ARGV[13], 0) + wait -- the time for requests that do not know of the refusal
  accepted = accepted - refused
  local got, took = math.max(accepted - after / interval, 0), math.max(busy - after, 0)
  local confidence = 64 -- in the new base: the requests until the rate doubles
  if not base then
    base, got, took = rate * 0.8, 0, 0
  elseif rate > 1.5 * base then -- the limit has risen, and its bucket may have been full
    base, got, took = rate * (1 - 2 * step), 0, 0
  elseif got >= 8 then
    base = math.min(math.max(1e6 * got / took, rate * 0.7), rate)
    confidence = math.min(math.max(got, hold, confidence), maxHold)
  else -- too few to measure, and if each refusal causes a pause, there should be few
    local part = hint > 0 and 0.7 or math.max(1 - refused / (count + 8), 0.7)
    base = math.max(rate * part, math.min(rate, minRate))
  end
  hold = base > 2 * minRate and confidence or math.max(math.min(got, maxHold), 16)
  if got > 32 then -- older ones are out of date if the limit has changed
    took = took * 32 / got
    got = 32
  end
  accepted, busy, count, cutoff = got, took, 0, now + wait
  rate = currentRate()
  local slower = 1e6 / rate
  tat = now + math.max((tat - now) / interval, burst - 1) * slower
  interval = slower
end

-- A pause uses up the burst: the first token falls due at its end, and the others
-- follow one by one. The server's bucket is full then, so that a refusal is less
-- informative. Each also costs a pause, so there should be fewer.
if base and now + hint > pause then
  accepted, busy, cutoff = -burst, 0, now + hint
  hold = math.max(hold, 32 * rate * hint / 1e6)
end
pause = math.max(pause, now + hint)
if pause > now then
  tat = math.max(tat, pause + (burst - 1) * interval)
end

-- Only the very last tokens can be taken back. Otherwise another process has
-- reserved tokens after them.
local back = tonumber(ARGV[10])
if ownTat and tat < ownTat + interval / 2 then
  tat = tat - back * interval
else
  back = 0
end

local reply = {
  string.format('%.0f', now), string.format('%.3f', pause - now), string.format('%d', back),
  string.format('%.0f', lead), string.format('%.6f', interval), string.format('%.0f', base and cutoff or 0),
}
local waits = tonumber(ARGV[4])
for i = 14, #ARGV do
  local wait = tat + interval * (1 - own) - now
  if wait > 0 and waits == 0 then
    break
  end
  if wait <= tonumber(ARGV[i]) then
    tat = tat + interval
    if wait > 0 then
      waits = waits - 1
      count, accepted, busy = count + 1, accepted + 1, busy + interval
    end
    reply[#reply + 1] = string.format('%.3f', tat - now)
  else
    reply[#reply + 1] = string.format('%.3f', -wait)
  end
end

-- The key stays for as long as its value differs from the state without a key, and
-- one second longer, so that a clock that is set back is noticed.
local ahead = math.max(tat - now, 0)
if stored or ahead > 0 or base then
  local value = string.format('v1 %.0f %.3f %.0f', now, ahead, pause - now)
  local stay = math.ceil(ahead / 1000) + 1000
  if base or lead >= interval then
    value = string.format('v2%s %.0f %.3f %.2f %.0f %.0f %.2f %.0f', string.sub(value, 3), lead,
      base or 0, count, hold, cutoff, accepted, busy)
  end
  if base then
    stay = math.max(stay, forgetAfter / 1000)
  end
  redis.call('SET', KEYS[1], value, 'PX', string.format('%.0f', stay))
end
return reply
