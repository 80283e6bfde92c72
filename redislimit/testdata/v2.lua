-- Reserves instants at which requests may go, by the generic cell rate algorithm
-- (GCRA) on Redis's own clock. Times are in microseconds. Instants are counted
-- since 2025, so that a double holds fractions of them.
--
-- KEYS[1]      "v1 <clock> <ahead> <pause>": how far the theoretical arrival time
--              (tat) of the last reserved token was ahead of the clock, which is
--              all the state of GCRA, and the rest of the pause.
--              "v2 <clock> <ahead> <pause> <lead> <base> <count> <hold> <cutoff>
--              <accepted> <busy>" if a limit is learned or there is a lead, and
--              "<chance> <row> <next> <open> <until> <out> <known> <bad> <told>
--              <tested>" is appended if there was a trial.
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
--              which the last of them, or the volley, was sent
-- ARGV[14]     how long the server said to wait in a refusal for the rate, or 0
-- ARGV[15]     the number of the caller's requests that could go at once in a volley
-- ARGV[16..18] the size of a volley that has ended, and of its requests the number
--              with a known outcome, and with a refusal
-- ARGV[19..]   the longest wait of each waiter, in their order
--
-- Returns the clock, the rest of the pause, the number of tokens taken back, how
-- far ahead to reserve, the interval in force, the cutoff for refusals, the part
-- that is refused by chance (or 0), and the number of the caller's requests that go
-- at once in a volley. Then follows a value for each waiter, up to the first one that
-- has to ask again: how far the tat of its token is ahead, or minus the wait that
-- would be too long for it. All are text, because a number in a reply is cut to an
-- integer.
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

-- The trial that tells a limit from refusals by chance. chance is the part that was
-- refused when a trial last found chance, or 0 if none has. row is the number of
-- trials in a row that found a limit, or minus the number that found none. The
-- verdict holds until next. open requests may still go in a volley until openUntil,
-- and out of them are under way. Of those that are back, known have a known outcome
-- and bad were refused. A pause until told begins if the trial finds a limit. tested
-- is the base when a trial last found one.
local forgetAfter = 60 * 1e6
local firstTrial, lastTrial = 8e6, 120e6 -- how long a verdict holds, four times as long each time
local chance, row, next, tested, told = 0, 0, now, 0, now
local open, openUntil, out, known, bad = 0, now - 2 * forgetAfter, 0, 0, 0

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
    base, count, hold, cutoff = n[2], n[3], n[4], n[5] - back
    idle = math.max(now - seen, 0)
  end
  if n[7] then
    accepted, busy = n[6], n[7]
  end
  if n[17] then
    chance, row, next, tested, told = n[8], n[9], seen - back + n[10], n[17], seen - back + n[16]
    open, openUntil, out, known, bad = n[11], seen - back + n[12], n[13], n[14], n[15]
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
if not base and chance == 0 and now >= next then
  row = 0
end
if base then
  count = count + idle / 1e6 * base / idleFactor
  rate = currentRate()
  if rate >= limit then
    base, rate, next = nil, limit, math.min(next, now + firstTrial)
  end
end
local refused = tonumber(ARGV[12])
local interval = 1e6 / (refused < 0 and limit or rate)
local sentAt, hint, newPause = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[9])

-- At the instant of a refusal, the server's bucket is empty if it has one. So a
-- volley of requests that goes out at that instant, ahead of its turn, is refused by
-- a limit, and as rarely as any request by chance. A likelihood ratio decides. While
-- it is undecided, the next refusal adds another volley. A volley lowers no limit,
-- and the requests after it wait for the turns that it took.
--
-- If a limit is found, each refusal lowers the rate until the verdict is out of date
-- or the rate is half of what it was. If chance is found, refusals lower nothing, and
-- the callers report none until the verdict is out of date, or more are refused. If
-- both are found, because there is a learned limit already, each refusal needs a
-- volley of its own.
local volleySize = 4
local volleyTime = 1e-3 -- seconds in which a volley arrives, while a bucket gains tokens
local maxVolley = 64
local limitPart, chancePart, maxChance = 0.75, 0.3, 0.6 -- of a volley is refused
local sureNats, someNats = 3, 1 -- odds of twenty to one; enough for one refusal of many
local maxKnown = 4 * volleySize -- an undecided trial ends
local lostAfter = 10e6 -- a process may have ended during its volley
local sureRow = 8 -- so many trials in a row disprove that there is chance beside a limit
local lower, found = false, false -- a limit was found
local ended = 0 -- the pause that the trial was about, which may have ended meanwhile
if refused >= 0 then
  local size = tonumber(ARGV[16])
  if now - openUntil > lostAfter then
    out = 0
  end
  if now - openUntil > forgetAfter then
    known, bad = 0, 0
  end
  if size > 0 then
    out, known, bad = math.max(out - size, 0), known + ARGV[17], bad + ARGV[18]
    if base then
      accepted, busy = accepted + size, busy + size * interval
    end
  end
  if now > openUntil then
    open = 0
  end
  if out > 0 or known > 0 then
    told = math.max(told, now + hint)
  end

  -- Refusals come sooner than acceptances, so the outcomes are taken together.
  local nats, isOver = 0, out == 0 and open == 0
  if isOver then
    local p = math.min(math.max(chancePart, chance), maxChance)
    nats = bad * math.log(limitPart / p) + (known - bad) * math.log((1 - limitPart) / (1 - p))
  end
  local both = base and chance > 0
  local last = isOver and (known >= maxKnown or known > 0 and both)
  found = nats >= sureNats or last and nats >= someNats
  if found or nats <= -sureNats or last then
    if found then
      lower, row = true, math.max(row, 0) + 1
      newPause = math.max(newPause, told - now)
      ended = math.max(told - openUntil, 0)
      if row >= sureRow then
        chance = 0
      end
    else
      row, chance = math.min(row, 0) - 1, (bad + 1) / (known + 2)
      accepted = accepted - bad
    end
    next = now + math.min(firstTrial * 4 ^ math.min(math.abs(row) - 1, 4), lastTrial)
    known, bad, told = 0, 0, now
  elseif refused > 0 or hint > 0 then
    local isNew = not base or sentAt > cutoff
    if row > 0 and chance == 0 and now < next and rate > tested / 2 then
      lower = refused > 0 and isNew
      newPause = math.max(newPause, hint)
    elseif pause > now then
      newPause = math.max(newPause, hint)
    elseif isNew and isOver and sentAt >= openUntil then
      open = math.min(math.floor(volleySize * (1 + volleyTime * rate)), maxVolley)
      openUntil = now + open * interval
      told = now + hint
      if not base then -- the requests sent since the refused one
        accepted, busy = (now - sentAt) / interval, now - sentAt
      end
    end
  end
  accepted = accepted - refused
end
local volley = 0
if refused >= 0 and open > 0 and pause <= now then
  volley = math.min(open, tonumber(ARGV[15]))
  open, out, tat = open - volley, out + volley, tat + volley * interval
end

-- A refusal means that the server's bucket was empty when the request was sent. So
-- the requests accepted from one refusal to the next are those that it refilled.
if lower then
  local wait = math.max(tat + interval * (1 - burst) - now, 0)
  local after = base and math.max(now - sentAt, 0) + wait or 0 -- the time for requests that do not know of the refusal
  local got, took = math.max(accepted - after / interval, 0), math.max(busy - after, 0)
  local confidence = chance > 0 and maxHold or 64 -- in the new base: the requests until the rate doubles
  if base and rate > 1.5 * base then -- the limit has risen, and its bucket may have been full
    base, got, took = rate * (1 - 2 * step), 0, 0
  elseif got >= 8 or found and took >= 8 * interval then
    local least = found and chance == 0 and 0.25 or 0.7
    base = math.min(math.max(1e6 * got / took / (1 - chance), rate * least), rate)
    confidence = math.min(math.max(got, hold, confidence), maxHold)
  elseif not base then
    base, got, took = rate * 0.8, 0, 0
  else -- too few to measure, and if each refusal causes a pause, there should be few
    local part = newPause > 0 and 0.7 or math.max(1 - refused / (count + 8), 0.7)
    base = math.max(rate * part, math.min(rate, minRate))
  end
  hold = base > 2 * minRate and confidence or math.max(math.min(got, maxHold), 16)
  if got > 32 then -- older ones are out of date if the limit has changed
    took = took * 32 / got
    got = 32
  end
  accepted, busy, count, cutoff = got, took, 0, now + wait
  if found then
    tested = base
  end
  rate = currentRate()
  local slower = 1e6 / rate
  tat = now + math.max((tat - now) / interval, burst - 1) * slower
  interval = slower
end

-- A pause uses up the burst: the first token falls due at its end, and the others
-- follow one by one. The server's bucket is full then, so that a refusal is less
-- informative. Each also costs a pause, so there should be fewer.
ended = math.max(ended, newPause)
if base and now + ended > pause then
  accepted, busy, cutoff = -burst, 0, now + ended -- the requests that a Transport held back go together
  hold = math.max(hold, 32 * rate * ended / 1e6)
end
pause = math.max(pause, now + newPause)
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
  string.format('%.0f', lead), string.format('%.6f', interval), string.format('%.0f', base and cutoff or chance > 0 and next or 0),
  string.format('%.3f', base and 0 or chance), string.format('%d', volley),
}
local waits = tonumber(ARGV[4])
for i = 19, #ARGV do
  local wait = tat + interval * (1 - own) - now
  if wait > 0 and waits == 0 then
    break
  end
  if wait <= tonumber(ARGV[i]) then
    tat = tat + interval
    if wait > 0 then
      waits = waits - 1
      if base then
        count, accepted, busy = count + 1, accepted + 1, busy + interval
      end
    end
    reply[#reply + 1] = string.format('%.3f', tat - now)
  else
    reply[#reply + 1] = string.format('%.3f', -wait)
  end
end

-- The key stays for as long as its value differs from the state without a key, and
-- one second longer, so that a clock that is set back is noticed.
local ahead = math.max(tat - now, 0)
local tried = chance > 0 or row ~= 0 or out > 0 or known > 0 or open > 0
if stored or ahead > 0 or base or tried then
  local value = string.format('v1 %.0f %.3f %.0f', now, ahead, pause - now)
  local stay = math.ceil(ahead / 1000) + 1000
  if base or tried or lead >= interval then
    value = string.format('v2%s %.0f %.3f %.2f %.0f %.0f %.2f %.0f', string.sub(value, 3), lead,
      base or 0, count, hold, cutoff, accepted, busy)
  end
  if tried then
    value = string.format('%s %.3f %d %.0f %d %.0f %d %d %d %.0f %.3f', value,
      chance, row, next - now, open, openUntil - now, out, known, bad, told - now, tested)
  end
  if base or tried then
    stay = math.max(stay, forgetAfter / 1000)
  end
  redis.call('SET', KEYS[1], value, 'PX', string.format('%.0f', stay))
end
return reply
