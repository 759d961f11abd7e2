-- One limit's arithmetic, and where buckets are kept. It stands before each script.
-- Layout 3. Times: microseconds of this server's clock. Amounts of a bucket's state: units of ours
-- times `scale` (mostly 1,000,000: micro-units), always integers. Amounts that come in or go out,
-- and limits: units. Periods: microseconds, 0 = does not refill. -1 = not known, none.
--
-- A bucket's fields, as they are stored: in units of the provider's, limit, ceiling, burst (that is
-- configured) and configured; metric, period, scale; in our units times `scale`, level; rest (of a
-- refill, in parts of `period`), at, throttle; in our units times `scale`, corrected, taken, pending
-- and booked; until_at. Then what refusals and headers taught: proven (the capacity that refusals
-- proved, the provider's units), wary_until, price (the provider's units for one of ours), returned
-- (our units times `scale`), and the gauge's first reading: first_level (the provider's units),
-- first_least, first_most (our units), first_granted, first_read (-1 = there is none yet).
--
-- It mirrors `keyfleet/_core/bucket.py`, where the theory stands. More than that one, a bucket knows
-- what is `booked`: taken already, to be used from an instant on, or lent to a process as a share
-- and perhaps not used yet. Until then the provider's bucket holds it still, so ours gains no more
-- than up to its capacity without it.
--
-- It is the same but for rounding: a level is rounded down to micro-units wherever it changes, so
-- are rates and leads, and durations are whole microseconds. The gauge's bounds are not rounded, but
-- made of such amounts: a price differs in its ninth digit or so. Only where a comparison is decided
-- by less than that (a reading of just the bucket's top, the very end of a wary minute) do the two
-- ledgers part, until the next answer tells both the same.

local BUCKET = '>ddddddddddddddddddddddddd'
local MARGIN = 0.25 -- seconds of refill
local LEAST_MARGIN = 0.02 -- the same, of what a quick answer told
local REQUESTS = 0 -- the metric of requests
local WARY_LEAD = 1.5 -- requests, but no more than are refilled in
local WARY_SECONDS = 2
local WARY_FOR = 60000000 -- microseconds after a refusal
local PRICED = { [1] = true, [2] = true, [3] = true } -- metrics that a formula estimates: tokens
local LOWEST, HIGHEST = 1 / 8, 8 -- price
local REPLACED_AFTER = 20 -- seconds, of the gauge's first reading
local ROUNDING = 2 -- units by which two readings may be off
local REGROWTH = 1.5 ^ (1 / 900) -- of a throttle, a second
local FOREVER = 1e17 -- microseconds
local KEPT_FOR = 5184000000 -- milliseconds: sixty days
local SLOTS = 5 -- the metric of calls in flight; it and those above count over all models

local spread = unpack
local pack, unpack, byte = struct.pack, struct.unpack, string.byte
local floor, ceil, fmod, min, max = math.floor, math.ceil, math.fmod, math.min, math.max
local call = redis.call

local clock, lifetime, keep, batch, settlements, candidates, create, again, horizon, waits, waited
local lends_for, fraction -- how long a share lasts (0 = none is asked for), of what is there
local costs = {}
clock, lifetime, keep, batch, settlements, candidates, create, again, horizon, waits, waited,
  lends_for, fraction, costs[0], costs[1], costs[2], costs[3], costs[4], costs[5], costs[6] =
  unpack('>dddddddddddddddddddd', ARGV[1])
local process = ARGV[2]

local now = clock
if now < 0 then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end

-- Arithmetic of one bucket

-- Returns floor((a * b + rest) / c) and what remains, exactly: no product passes 2^53.
local function times(a, b, c, rest)
  local r = fmod(b, c)
  local whole = a * ((b - r) / c)
  local base = 1
  while base * 1024 <= a do base = base * 1024 end
  local quotient, left = 0, 0
  while base >= 1 do
    local digit = floor(a / base)
    a = a - digit * base
    left = left * 1024 + digit * r
    local remains = fmod(left, c)
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
    full = full - min(MARGIN * b.limit * 1e6 / b.period / b.price, full / 2)
    b.gain = max(1, floor(b.limit * b.throttle * b.scale / b.price))
  else
    b.gain = 0
  end
  b.capacity = floor(full * b.scale + 0.001)
end

local function scale_of(limit)
  if limit > 4e12 then return 1 elseif limit > 4e9 then return 1000 end
  return 1000000
end

local function set_limit(b, limit, ceiling)
  local scale = scale_of(max(limit, ceiling) / b.price)
  if scale ~= b.scale then
    for _, name in ipairs({ 'level', 'corrected', 'taken', 'pending', 'booked', 'returned' }) do
      b[name] = floor(b[name] / b.scale * scale)
    end
    b.scale = scale
  end
  b.limit, b.ceiling, b.rest = limit, ceiling, 0
  derive(b)
end

local function refill(b)
  local elapsed = now - b.at
  b.at = now -- also where the clock was set back: nothing is gained or lost by that
  if elapsed < 0 then -- what lies ahead of it now is of the clock before
    b.wary_until = min(b.wary_until, now + WARY_FOR)
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
    b.throttle = min(1, b.throttle * REGROWTH ^ min(elapsed / 1e6, 9000))
    derive(b)
  end
end

local function give_back(b, amount) b.level = min(b.level + amount, b.capacity - b.booked) end

local function correct(b, change)
  local before = b.level
  give_back(b, change)
  b.corrected = b.corrected + b.level - before
end

-- Returns by how much it is at least after a refusal.
local function wary_lead(b)
  if b.metric ~= REQUESTS or b.gain <= 0 then return 0 end
  local most = min(floor(WARY_LEAD * b.scale), b.capacity)
  return min(most, floor(WARY_SECONDS * 1e6 * b.gain / b.period))
end

-- Returns by how much the provider's bucket is above ours when both are full.
local function lead_of(b)
  if b.proven < 0 then return floor(b.ceiling / b.price * b.scale) - b.capacity end
  return min(floor(MARGIN * 1e6 * b.gain / b.period), b.capacity)
end

-- Believes that the limit is enforced in windows of so many seconds: no burst beyond one.
local function enforce(b, window)
  if b.period == 0 then return end
  if b.proven < 0 or b.gain / b.period * 1e6 * window < b.proven * b.scale then
    b.proven = max(1, b.limit * 1e6 / b.period * window)
    derive(b)
    correct(b, 0)
  end
end

-- Learns from an answer's headers what the provider charges for a unit of ours.
local function reprice(b, told, mark, granted_at)
  if b.period == 0 or not PRICED[b.metric] then return end
  local returned = b.returned / b.scale
  local at_least = mark.taken - mark.pending - returned
  local at_most = b.taken / b.scale - returned
  if b.first_read >= 0 then
    local rate = b.limit * 1e6 / b.period
    local shortest = max(0, granted_at - b.first_read) / 1e6
    local longest = (b.at - b.first_granted) / 1e6
    local refilled_least = min(b.ceiling, b.first_level + rate * shortest) - b.first_level
    local charged_least = b.first_level + refilled_least - told - ROUNDING
    local charged_most = b.first_level + rate * longest - told + ROUNDING
    local taken_least, taken_most = at_least - b.first_most, at_most - b.first_least
    local lowest, highest = 0, HIGHEST
    if taken_most > 0 then lowest = charged_least / taken_most end
    if taken_least > 0 then highest = charged_most / taken_least end
    local price = b.price
    if lowest >= 0 and (taken_least <= 0 or lowest <= highest) then
      price = min(max(price, lowest), highest)
    end
    price = min(max(price, LOWEST), HIGHEST)
    if price ~= b.price then
      local before = b.level
      b.level = floor(b.level * (b.price / price))
      b.corrected = b.corrected + b.level - before
      b.price = price
      set_limit(b, b.limit, b.ceiling)
      correct(b, 0)
    end
  end
  if b.first_read < 0 or granted_at - b.first_read >= REPLACED_AFTER * 1e6 then
    b.first_level, b.first_least, b.first_most = told, at_least, at_most
    b.first_granted, b.first_read = granted_at, b.at
  end
end

local function amount_of(b, cost) return ceil(cost * b.scale - 0.001) end

-- Returns the microseconds until a call of this cost would fit, and whether none ever does.
local function wait_for(b, cost)
  if cost > b.limit * (1 + 1e-9) then return FOREVER, true end
  local need = min(amount_of(b, cost), b.capacity)
  if b.level >= need then return 0 end
  if b.gain == 0 then return FOREVER end
  local after = ceil((need - b.level) * b.period / b.gain)
  local over = need - (b.capacity - b.booked)
  if over > 0 then -- only once the bookings have begun
    after = max(after, max(0, b.until_at - now) + ceil(over * b.period / b.gain))
  end
  return after
end

local function learn(b, limit, ceiling)
  if b.configured >= 0 and b.configured <= limit then limit, ceiling = b.configured, b.configured end
  if limit ~= b.limit or ceiling ~= b.ceiling then
    set_limit(b, limit, ceiling)
    correct(b, 0)
  end
end

-- Hashes of buckets: read once, written once at the end

local hashes = {}

local function hash(base, family)
  local key = base .. (family and 'f:' .. family or 'o')
  local h = hashes[key]
  if h then return h end
  h = { key = key, base = base, family = family, names = {}, packed = {}, plain = {}, buckets = {},
    dirty = {} }
  local flat = call('HGETALL', key)
  for i = 1, #flat, 2 do
    local name = flat[i]
    local first = byte(name)
    if first < 97 then -- a sign, not a limit's name
      h.plain[name] = flat[i + 1]
    else
      h.names[#h.names + 1] = name
      h.packed[name] = flat[i + 1]
    end
  end
  hashes[key] = h
  return h
end

local function bucket(h, name)
  local b = h.buckets[name]
  if b or not h.packed[name] then return b end
  b = { hash = h, name = name }
  b.limit, b.ceiling, b.burst, b.configured, b.metric, b.period, b.scale, b.level, b.rest, b.at,
    b.throttle, b.corrected, b.taken, b.pending, b.booked, b.until_at, b.proven, b.wary_until,
    b.price, b.returned, b.first_level, b.first_least, b.first_most, b.first_granted, b.first_read =
    unpack(BUCKET, h.packed[name])
  derive(b)
  refill(b)
  h.buckets[name] = b
  return b
end

local function touch(b) b.hash.dirty[b.name] = b end

local function new_bucket(h, name, metric, period, limit, ceiling, configured, burst)
  local b = {
    hash = h, name = name, metric = metric, period = period, configured = configured,
    burst = burst, scale = scale_of(max(limit, ceiling)), level = 0, rest = 0, at = now,
    throttle = 1, corrected = 0, taken = 0, pending = 0, booked = 0, until_at = 0,
    limit = limit, ceiling = ceiling, proven = -1, wary_until = 0, price = 1, returned = 0,
    first_level = 0, first_least = 0, first_most = 0, first_granted = 0, first_read = -1,
  }
  derive(b)
  b.level = b.capacity
  if h.family and #h.names == 0 then
    call('SADD', h.base .. 'n', h.family)
    call('PEXPIRE', h.base .. 'n', KEPT_FOR)
  end
  h.names[#h.names + 1] = name
  h.packed[name] = true
  h.buckets[name] = b
  touch(b)
  return b
end

local function save()
  for key, h in pairs(hashes) do
    local fields, lasts = {}, 0
    for name, b in pairs(h.dirty) do
      fields[#fields + 1] = name
      if type(b) == 'table' then
        fields[#fields + 1] = pack(BUCKET, b.limit, b.ceiling, b.burst, b.configured, b.metric,
          b.period, b.scale, b.level, b.rest, b.at, b.throttle, b.corrected, b.taken, b.pending,
          b.booked, b.until_at, b.proven, b.wary_until, b.price, b.returned, b.first_level,
          b.first_least, b.first_most, b.first_granted, b.first_read)
        lasts = max(lasts, b.period)
      else
        fields[#fields + 1] = b
      end
    end
    if #fields > 0 then
      call('HSET', key, spread(fields))
      local least = ceil((2 * lasts + keep) / 1000)
      if call('PTTL', key) < least then call('PEXPIRE', key, least) end
    end
  end
end
