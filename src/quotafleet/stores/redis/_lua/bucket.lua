-- One limit's arithmetic. It stands before all else in each script that touches buckets.
-- Layout 3. Times: microseconds of this server's clock. Amounts of a bucket's state: units of ours
-- times `scale` (mostly 1,000,000: micro-units), always integers. Amounts that come in or go out,
-- and limits: units. Periods: microseconds, 0 = does not refill. -1 = not known, none.
-- ARGV[1] begins with: the time if it is not to be this server's, the lifetime of a reservation, for
-- how long one that has expired is remembered; all in microseconds.
--
-- A bucket's fields, as they are stored: in units of the provider's, limit, ceiling, burst (that is
-- configured) and configured; metric, period, scale; in our units times `scale`, level; rest (of a
-- refill, in parts of `period`), at, throttle; in our units times `scale`, corrected, taken, pending
-- and booked; until_at. Then what refusals and headers taught: proven (the capacity that refusals
-- proved, the provider's units), wary_until, price (the provider's units for one of ours), returned
-- (our units times `scale`), and the gauge's first reading: first_level (the provider's units),
-- first_least, first_most (our units), first_granted, first_read (-1 = there is none yet).
--
-- It mirrors `quotafleet/_core/quota/token_bucket.py`, where the theory stands. More than that one, a bucket knows
-- what is `booked`: taken already, to be used from an instant on, or lent to a process as a share
-- and perhaps not used yet. Until then the provider's bucket holds it still, so ours gains no more
-- than up to its capacity without it.
--
-- It is the same but for rounding: a level is rounded down to micro-units wherever it changes, so
-- are rates and leads, and durations are whole microseconds. The gauge's bounds are not rounded, but
-- made of such amounts: a price differs in its ninth digit or so. Only where a comparison is decided
-- by less than that (a reading of just the bucket's top, the very end of a wary minute) do the two
-- ledgers part, until the next answer tells both the same.
--
-- A script is its files, one after the other; an error names the file and its line. Each run makes
-- the functions of a script anew, which takes time for each local that they use from outside. So
-- library functions are called by their full names, and a file whose content a step seldom needs is
-- one function (`limits`, `slots`, ...), which `needed` calls once in a run.

local BUCKET = '>ddddddddddddddddddddddddd'
local BUCKET_SIZE = 200 -- bytes
local MARGIN = 0.25 -- seconds of refill
local REGROWTH = 1.5 ^ (1 / 900) -- of a throttle, a second
local WARY_FOR = 60000000 -- microseconds after a refusal
local FOREVER = 1e17 -- microseconds
local KEPT_FOR = 5184000000 -- milliseconds: sixty days
local SLOTS = 5 -- the metric of calls in flight; it and those above count over all models

local now, lifetime, keep, position = struct.unpack('>ddd', ARGV[1])
if now < 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local repaired = 0 -- keys and rows of this run that something else had damaged

-- Runs a command on a key. A key of another type than ours is deleted first: what it should hold is
-- made again as if it had been lost. Any other error is raised.
local function healed(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if string.find(answer.err, 'WRONGTYPE', 1, true) then
    redis.call('DEL', key)
    repaired = repaired + 1
  end
  return redis.call(command, key, ...)
end

local modules = {}

-- Returns what a file holds that is seldom needed.
local function needed(file)
  local module = modules[file]
  if not module then
    module = file()
    modules[file] = module
  end
  return module
end

-- Returns floor((a * b + rest) / c) and what remains, exactly: no product passes 2^53.
local function times(a, b, c, rest)
  local r = math.fmod(b, c)
  local whole = a * ((b - r) / c)
  local base = 1
  while base * 1024 <= a do base = base * 1024 end
  local quotient, left = 0, 0
  while base >= 1 do
    local digit = math.floor(a / base)
    a = a - digit * base
    left = left * 1024 + digit * r
    local remains = math.fmod(left, c)
    quotient = quotient * 1024 + (left - remains) / c
    left = remains
    base = base / 1024
  end
  left = left + rest
  if left >= c then
    left = left - c
    quotient = quotient + 1
  end
  return whole + quotient, left
end

local function derive(b)
  local full = b.ceiling
  if b.burst >= 0 and b.burst < full then full = b.burst end
  if b.proven >= 0 and b.proven < full then full = b.proven end
  full = full / b.price
  if b.period > 0 then
    full = full - math.min(MARGIN * b.limit * 1e6 / b.period / b.price, full / 2)
    b.gain = math.max(1, math.floor(b.limit * b.throttle * b.scale / b.price))
  else
    b.gain = 0
  end
  b.capacity = math.floor(full * b.scale + 0.001)
end

local function refill(b)
  local elapsed = now - b.at
  b.at = now -- also where the clock was set back: nothing is gained or lost by that
  if elapsed < 0 then -- what lies ahead of it now is of the clock before
    b.wary_until = math.min(b.wary_until, now + WARY_FOR)
    if b.first_read > now then b.first_read = -1 end
  end
  if elapsed <= 0 or b.gain == 0 then return end
  local top = b.capacity - b.booked
  if b.level < top then
    if elapsed * b.gain / b.period >= top - b.level + 1 then
      b.level, b.rest = top, 0
    else
      local gained
      gained, b.rest = times(elapsed, b.gain, b.period, b.rest)
      b.level = b.level + gained
      if b.level >= top then b.level, b.rest = top, 0 end
    end
  end
  if b.throttle < 1 then
    b.throttle = math.min(1, b.throttle * REGROWTH ^ math.min(elapsed / 1e6, 9000))
    derive(b)
  end
end

local function give_back(b, amount) b.level = math.min(b.level + amount, b.capacity - b.booked) end

local function amount_of(b, cost) return math.ceil(cost * b.scale - 0.001) end
