-- One step of a fleet's shared ledger: take in what calls used, then reserve for one call.
-- Units: see bucket.lua, which stands before it. Durations that come in or go out: microseconds.
--
-- KEYS[i]: an organization's prefix, `keyfleet:3:<namespace>:{<organization>}:`. Below it
--   o            hash: buckets over all models (concurrent, spend), `>` = merged into another
--   f:<family>   hash: buckets of a model family, as `tpm` or `tpm@project`; `!` = nothing before
--   r            hash: reservations and shares by id
--   x            sorted set: ids by the instant when something is due: a booking's start, an expiry
--   t            sorted set: ids of expired reservations by the instant when they are forgotten
--   n            set: the families that have a hash
--   w            sorted set: processes that wait for a slot, by arrival
-- First come the candidates' prefixes, in the order of the ranking, then those of settlements, then
-- that of a held booking (or any other), and last a prefix below which stands
--   s:<process>  string: the number of the last batch of settlements that was taken in.
--
-- ARGV[1] numbers; [2] the process; [3] the reservation's id; [4] the id of a booking that is held,
-- or nothing; then a blob for each candidate, then its levels if `create`, then the share that is
-- wanted of each if `lends_for` (amounts, or nothing), then three for each settlement: id, numbers
-- and readings, the account's blob. In the place of a settlement may stand what a process did on its
-- own, see `alone`.
--
-- The answer is one string, in which each part stands behind its length in four bytes: numbers
-- (what, which candidate, after how long, when something expires, which part of the share that was
-- wanted is lent, when), a name, the settlements that made room (a byte each), the moved ones (`3=target`), then for each account that was looked at
-- its buckets' names and their numbers, see VIEW.
--
-- It mirrors `keyfleet/_core/ledger.py`, where the theory stands.

local RECORD = '>BBdddddddddsss'
local VIEW = '>dddddddddd'
local WINDOW = 1 -- seconds in which a limit is enforced that isn't by its period
local ROUNDED = 1 -- seconds: a delay is told in whole ones, rounded up
local TURN = 250000 -- microseconds for which a process goes on with the slots that it gives back
local ALONE = 2 -- a settlement that is something a process did on its own
local NEW, KNOWN = 1, 2 -- a bucket that was made in this step; its lost slots are taken care of
local AT_ONCE = 32 -- how many due reservations one step takes care of

-- Accounts: an owner's buckets for a family, those it finds and those that are configured

local function in_scope(name, project)
  local mark = string.find(name, '@', 1, true)
  return not mark or (project ~= '' and string.sub(name, mark + 1) == project)
end

local function account(base, blob, levels)
  local family, project, count, position = unpack('>ssB', blob)
  local wide, own = hash(base), hash(base, family)
  local a = {
    base = base, family = family, project = project, wide = wide, own = own, names = {}, lacks = {},
  }
  a.moved = wide.plain['>']
  if a.moved then return a end
  local name, metric, period, amount, burst
  for i = 1, count do
    name, metric, period, amount, burst, position = unpack('>sBddd', blob, position)
    local h = metric >= SLOTS and wide or own
    local b = bucket(h, name)
    if not b then
      a.missing = true
      a.lacks[name] = true
      if levels then
        b = new_bucket(h, name, metric, period, amount, amount, amount, burst)
        b.made = NEW
        b.level = min(b.capacity, floor(unpack('>d', levels, i * 8 - 7) * b.scale + 0.5))
      end
    elseif b.configured ~= amount or b.burst ~= burst then
      local limit, ceiling = b.limit, b.ceiling
      if b.configured < 0 or limit >= min(b.configured, amount) then
        limit, ceiling = amount, amount
      end
      b.configured, b.burst = amount, burst
      set_limit(b, limit, ceiling)
      correct(b, 0)
      touch(b)
    end
  end
  for _, h in ipairs({ own, wide }) do
    for _, found in ipairs(h.names) do
      if in_scope(found, project) then
        a[#a + 1] = bucket(h, found)
        a.names[#a.names + 1] = found
      end
    end
  end
  local mark = project == '' and '!' or '!@' .. project
  a.not_before = tonumber(own.plain[mark] or 0)
  return a
end

local function keep_away(a, after)
  local mark = a.project == '' and '!' or '!@' .. a.project
  a.not_before = max(a.not_before, now + after)
  a.own.plain[mark] = string.format('%.0f', a.not_before)
  a.own.dirty[mark] = a.own.plain[mark]
end

-- Reservations

-- A share is LENT until it is given back, or until the instant by which its process has long stopped
-- using it. What was used of it is SPENT, and counts as on its way until that instant.
local OPEN, BOOKED, EXPIRED, LENT, SPENT = 0, 1, 2, 3, 4

local function record(base, id)
  local packed = call('HGET', base .. 'r', id)
  if not packed then return nil end
  local r = { base = base, id = id, costs = {} }
  local c = r.costs
  local names
  r.state, r.answered, r.expires_at, r.until_at, c[0], c[1], c[2], c[3], c[4], c[5], c[6],
    r.family, r.project, names = unpack(RECORD, packed)
  r.names = names
  return r
end

local function write_record(r)
  local c = r.costs
  call('HSET', r.base .. 'r', r.id, pack(RECORD, r.state, r.answered, r.expires_at, r.until_at,
    c[0], c[1], c[2], c[3], c[4], c[5], c[6], r.family, r.project, r.names))
end

local function delete(r)
  call('HDEL', r.base .. 'r', r.id)
  call('ZREM', r.base .. (r.state == EXPIRED and 't' or 'x'), r.id)
end

local function lasts_for(key, microseconds)
  call('PEXPIRE', key, ceil(microseconds / 1000))
end

local function keep_records(base, microseconds)
  lasts_for(base .. 'r', microseconds + keep)
  lasts_for(base .. 'x', microseconds + keep)
end

local function each_bucket(r)
  local found = {}
  for name in string.gmatch(r.names, '[^,]+') do
    local b = bucket(hash(r.base, r.family), name) or bucket(hash(r.base), name)
    if b then found[#found + 1] = b end
  end
  return found
end

local function forget_booking(r, b)
  if r.state == BOOKED then b.booked = max(0, b.booked - amount_of(b, r.costs[b.metric])) end
end

local function answer(r, b)
  if r.answered == 0 then b.pending = max(0, b.pending - amount_of(b, r.costs[b.metric])) end
end

-- Slots that are taken without a reservation that is known here, since it was lost or is still to be
-- told: a record is made of them all, so that they come back with a lifetime, whoever has died.
local function lost_name(b) return 'lost:' .. b.name end

local function hold(a, b, slots)
  local r = record(a.base, lost_name(b))
  if not r or r.state ~= OPEN then
    if r then delete(r) end
    r = {
      base = a.base, id = lost_name(b), state = OPEN, answered = 1, family = a.family,
      project = a.project, names = b.name, until_at = now, expires_at = now + lifetime,
      costs = { [0] = 0, 0, 0, 0, 0, 0, 0 },
    }
  end
  r.costs[SLOTS] = r.costs[SLOTS] + slots
  write_record(r)
  call('ZADD', a.base .. 'x', r.expires_at, r.id)
  keep_records(a.base, lifetime + keep)
end

-- Takes slots out of that record, since it turned out whose they are; returns how many it had.
local function found(base, b, slots)
  local r = record(base, lost_name(b))
  if not r or r.state ~= OPEN then return 0 end
  local some = min(slots, r.costs[SLOTS])
  r.costs[SLOTS] = r.costs[SLOTS] - some
  if r.costs[SLOTS] > 0 then write_record(r) else delete(r) end
  return some
end

local function hold_lost(a)
  for _, b in ipairs(a) do
    if b.made == NEW and b.metric == SLOTS and b.level < b.capacity then
      hold(a, b, (b.capacity - b.level) / b.scale)
    end
    if b.made then b.made = KNOWN end
  end
end

-- Buckets of slots in which some came free in this step, by their organization's prefix.
local with_slots = {}

-- Wakes as many of the processes that wait as there are slots. Who doesn't listen has gone.
local function tell_waiting(base, b)
  local free = floor(b.level / b.scale)
  local key, told = base .. 'w', 0
  while told < free do
    local waiting = call('ZRANGE', key, told, told)[1]
    if not waiting then return end
    if call('PUBLISH', KEYS[#KEYS] .. 'w:' .. waiting, base) > 0 then
      told = told + 1
    else
      call('ZREM', key, waiting)
    end
  end
end

local function return_all(r)
  for _, b in ipairs(each_bucket(r)) do
    forget_booking(r, b)
    answer(r, b)
    local back = amount_of(b, r.costs[b.metric])
    give_back(b, back)
    b.returned = b.returned + back
    touch(b)
    if b.metric == SLOTS then with_slots[r.base] = b end
  end
end

-- Shares: what a process may spend by itself, taken beforehand

local function share_is_over(r)
  for _, b in ipairs(each_bucket(r)) do
    local amount = amount_of(b, r.costs[b.metric])
    if r.state == LENT then b.booked = max(0, b.booked - amount) end
    b.pending = max(0, b.pending - amount)
    touch(b)
  end
  delete(r)
end

-- Gives back what is left of a share (`nil` = all of it). If it is over already, that is gone.
local function end_share(base, id, left)
  local r = record(base, id)
  if not r or r.state ~= LENT then return end
  for _, b in ipairs(each_bucket(r)) do
    local amount = amount_of(b, r.costs[b.metric])
    local back = left and min(floor(left[b.metric] * b.scale + 0.001), amount) or amount
    b.booked = max(0, b.booked - amount)
    b.pending = max(0, b.pending - back)
    give_back(b, back)
    b.returned = b.returned + back
    touch(b)
  end
  for metric = 0, 6 do r.costs[metric] = left and r.costs[metric] - left[metric] or 0 end
  r.state = SPENT
  write_record(r)
end

-- Begins bookings and ends lifetimes that are due.
local swept = {}
local function sweep(base)
  if swept[base] then return end
  swept[base] = true
  local ids = call('ZRANGEBYSCORE', base .. 'x', '-inf', now, 'LIMIT', 0, AT_ONCE)
  local expired = false
  for _, id in ipairs(ids) do
    local r = record(base, id)
    if not r then
      call('ZREM', base .. 'x', id)
    elseif r.state == BOOKED and r.expires_at > now then
      for _, b in ipairs(each_bucket(r)) do
        forget_booking(r, b)
        touch(b)
      end
      r.state = OPEN
      write_record(r)
      call('ZADD', base .. 'x', r.expires_at, id)
    elseif r.state >= LENT then
      share_is_over(r)
    else
      return_all(r)
      r.state, r.answered, expired = EXPIRED, 1, true
      write_record(r)
      call('ZREM', base .. 'x', id)
      call('ZADD', base .. 't', now + keep, id)
    end
  end
  if expired then
    lasts_for(base .. 't', 2 * keep)
    local old = call('ZRANGEBYSCORE', base .. 't', '-inf', now, 'LIMIT', 0, AT_ONCE)
    for _, id in ipairs(old) do
      call('ZREM', base .. 't', id)
      call('HDEL', base .. 'r', id)
    end
  end
end

local function take(a, id, after)
  local r = {
    base = a.base, id = id, costs = costs, family = a.family, project = a.project,
    names = table.concat(a.names, ','),
    state = after > 0 and BOOKED or OPEN, answered = 0, until_at = now + after,
    expires_at = now + after + lifetime,
  }
  for _, b in ipairs(a) do
    local amount = amount_of(b, costs[b.metric])
    b.pending_before = b.pending
    b.level = b.level - amount
    b.taken = b.taken + amount
    b.pending = b.pending + amount
    if after > 0 then
      b.booked = b.booked + amount
      b.until_at = max(b.until_at, now + after)
    end
    touch(b)
  end
  write_record(r)
  call('ZADD', a.base .. 'x', after > 0 and now + after or r.expires_at, id)
  keep_records(a.base, lifetime + after + keep)
end

-- Which part of the wanted share there is for this process: nothing where calls must ask, and where
-- it would be less than two calls.
local function share_of(a, want)
  local part, nothing = 1, #a == 0 or now < a.not_before
  for _, b in ipairs(a) do
    local cost, amount = costs[b.metric], amount_of(b, want[b.metric])
    if amount > 0 then
      part = min(part, b.level * fraction / amount)
      nothing = nothing or b.gain == 0 or b.throttle < 1 or now < b.wary_until
    end
    if want[b.metric] * part < 2 * cost then nothing = true end
  end
  return nothing and 0 or part
end

local function lend(a, id, packed)
  if not packed or packed == '' then return 0 end
  local want, share = {}, {}
  want[0], want[1], want[2], want[3], want[4], want[5], want[6] = unpack('>ddddddd', packed)
  local part = share_of(a, want)
  if part <= 0 then return 0 end
  for metric = 0, 6 do share[metric] = floor(want[metric] * part * 1e6) / 1e6 end
  for _, b in ipairs(a) do
    local amount = amount_of(b, share[b.metric])
    b.level = b.level - amount
    b.taken = b.taken + amount
    b.pending = b.pending + amount
    b.pending_before = b.pending_before + amount
    b.booked = b.booked + amount
    b.until_at = max(b.until_at, now + lends_for)
    touch(b)
  end
  write_record({
    base = a.base, id = id .. 's', costs = share, family = a.family, project = a.project,
    names = table.concat(a.names, ','),
    state = LENT, answered = 0, until_at = now, expires_at = now + lends_for,
  })
  call('ZADD', a.base .. 'x', now + lends_for, id .. 's')
  return part
end

local function release(base, id)
  local r = record(base, id)
  if not r then return end
  return_all(r)
  delete(r)
end

-- Settlements

local freed, settling = {}, 0
local SHARE = 3 -- what ends is a share; if `expired`, one of which nobody has heard

-- Makes the bucket of a limit that an answer told and nobody knew. One that is configured and was
-- lost is made by the next claim, as its process knows it: an answer tells of the provider's.
local function learn_new(a, name, reading, mine, flew_for)
  local h = reading.metric >= SLOTS and a.wide or a.own
  if name == '' or a.lacks[name] or bucket(h, name) then return nil end
  local ceiling = reading.burst >= 0 and reading.burst or reading.limit
  local b = new_bucket(h, name, reading.metric, reading.period, reading.limit, ceiling, -1, -1)
  -- Calls made later than the answered one are missing from the told level too.
  local since = mine and mine.expires_at or now - flew_for + lifetime
  local later = 0
  local ids = call('ZRANGEBYSCORE', a.base .. 'x', '(' .. string.format('%.0f', since), '+inf',
    'LIMIT', 0, 1000)
  local function count(others, least)
    for _, other in ipairs(others) do
      local r = record(a.base, other)
      local shares = r and r.state >= least and r.family == a.family
        and (not string.find(name, '@', 1, true) or r.project == a.project)
      if shares then later = later + r.costs[reading.metric] end
    end
  end
  count(ids, OPEN)
  count(call('ZRANGEBYSCORE', a.base .. 'x', '-inf', string.format('%.0f', since),
    'LIMIT', 0, 1000), LENT)
  b.level = min(floor((reading.level - later) * b.scale) - lead_of(b), b.capacity)
  a[#a + 1] = b
  a.names[#a.names + 1] = name
  return b
end

local function anchor(b, told, mark, flew_for, upward)
  local lead = lead_of(b)
  local level = floor(told / b.price * b.scale)
  if level > b.capacity + lead + 1 then return end -- that isn't the one that binds; 1: rounding
  local spare = MARGIN * 1e6 - (flew_for + LEAST_MARGIN * 1e6)
  if b.at < b.wary_until then
    lead = max(lead, wary_lead(b))
  elseif spare > 0 and b.gain > 0 then
    lead = max(0, lead - floor(spare * b.gain / b.period))
  end
  local wrong = level - lead - floor(mark.level * b.scale)
    - (b.corrected - floor(mark.corrected * b.scale + 0.5))
  local at_most = wrong + b.taken - floor(mark.taken * b.scale + 0.5)
  local at_least = wrong - floor(mark.pending * b.scale + 0.5)
  if b.gain > 0 then at_least = at_least - flew_for * b.gain / b.period end
  if at_most < 0 then
    correct(b, at_most)
  elseif at_least > 0 and upward then
    correct(b, floor(at_least))
  end
end

local function observe(a, r, text, position, count, anchors, flew_for, lent_at)
  local first = lent_at >= 0 or (r and r.answered == 0)
  for _ = 1, count do
    local reading, mark, name, marked = {}, {}, nil, nil
    name, reading.metric, reading.period, reading.limit, reading.level, reading.burst, marked,
      mark.level, mark.corrected, mark.pending, mark.taken, position =
      unpack('>sBddddBdddd', text, position)
    local b = bucket(reading.metric >= SLOTS and a.wide or a.own, name)
    if r and r.answered == 1 then
      b = nil -- only the first headers count, and none after it has expired
    elseif not b then
      learn_new(a, name, reading, r, flew_for)
    elseif marked == 1 and first then
      local before = b.level
      learn(b, reading.limit, reading.burst >= 0 and reading.burst or reading.limit)
      if anchors == 1 then
        reprice(b, reading.level, mark, lent_at >= 0 and lent_at or r.expires_at - lifetime)
        anchor(b, reading.level, mark, flew_for, reading.limit <= b.limit)
      end
      if b.level > before then freed[#freed + 1] = string.char(settling) end
      touch(b)
    end
  end
  return position
end

-- Returns the microseconds that a refusal means, where it told more than a delay in whole seconds.
local function exactly(b, exact, after)
  if exact < 0 then -- there was room for it: a shorter window refused, which is empty
    enforce(b, WINDOW)
    exact = MARGIN * 1e6
  end
  if after <= max(exact, WINDOW * 1e6) + ROUNDED * 1e6 then return exact end
  return after
end

local function refuse(a, r, text, position, flew_for)
  local kind, after, name, requested, cost, used, reading = nil, nil, nil, nil, nil, nil, {}
  kind, after, name, requested, cost, reading.metric, reading.period, reading.limit, used =
    unpack('>BdsddBddd', text, position)
  reading.level = used >= 0 and reading.limit - used or 0
  reading.burst = -1
  if kind == 1 then
    for _, b in ipairs(a) do
      b.throttle = max(b.throttle / 2, 1 / 64)
      derive(b)
      touch(b)
    end
    keep_away(a, after)
    return
  end
  local b = name ~= '' and bucket(reading.metric >= SLOTS and a.wide or a.own, name) or nil
  if b then
    learn(b, reading.limit, min(b.ceiling, reading.limit))
  elseif name ~= '' then
    b = learn_new(a, name, reading, r, flew_for)
  end
  if not b then
    keep_away(a, after)
    return
  end
  if requested < 0 then requested = cost * b.price end
  if used >= 0 then -- by the limit that was told: the one that counts here may be lower
    after = exactly(b, (used + requested - reading.limit) * reading.period / reading.limit, after)
  end
  if b.gain > 0 then
    b.wary_until = b.at + WARY_FOR
    local need = min(amount_of(b, requested / b.price), b.capacity)
    local lead = max(b.gain * MARGIN * 1e6 / b.period, wary_lead(b))
    local level = floor(need - b.gain * after / b.period - lead)
    if level < b.level then correct(b, level - b.level) end
  end
  touch(b)
end

-- Takes in what a process did on its own, while this server was away: what it spent of some buckets,
-- or a reservation that it made and holds still. A bucket that was lost is made as the process knows
-- it, in which both are counted already.
local function alone(base, id, text, blob)
  local left, count, position, amounts = nil, nil, nil, {}
  local r = { base = base, id = id, state = OPEN, answered = 1, until_at = now, costs = {} }
  local c = r.costs
  left, count, c[0], c[1], c[2], c[3], c[4], c[5], c[6], position = unpack('>dBddddddd', text, 2)
  for i = 1, count do
    amounts[i] = {}
    amounts[i].name, amounts[i].amount, position = unpack('>sd', text, position)
  end
  sweep(base)
  local a = account(base, blob, string.sub(text, position))
  if a.moved then return a.moved end
  hold_lost(a)
  for _, spent in ipairs(amounts) do
    local b = bucket(a.wide, spent.name) or bucket(a.own, spent.name)
    if b and not b.made then
      local amount = amount_of(b, spent.amount)
      if b.metric == SLOTS then
        if amount > 0 then
          hold(a, b, spent.amount)
        else
          amount = -found(base, b, -spent.amount) * b.scale
        end
      end
      give_back(b, -amount)
      b.taken = b.taken + amount
      touch(b)
    end
  end
  if left >= 0 then
    r.expires_at, r.family, r.project = now + left, a.family, a.project
    r.names = table.concat(a.names, ',')
    write_record(r)
    call('ZADD', base .. 'x', r.expires_at, id)
    keep_records(base, left + keep)
    for _, b in ipairs(a) do
      if b.metric == SLOTS then found(base, b, c[SLOTS]) end
    end
  end
  return nil
end

local function settle(base, id, text, blob)
  if byte(text) == ALONE then return alone(base, id, text, blob) end
  local used, held = {}, {}
  local ended, expired, answered, anchors, flew_for, lent_at, count, refused, position
  ended, expired, answered, anchors, flew_for, lent_at, count, refused, used[0], used[1], used[2], used[3], used[4],
    used[5], used[6], held[0], held[1], held[2], held[3], held[4], held[5], held[6], position =
    unpack('>BBBBddBBdddddddddddddd', text)
  sweep(base)
  local a = account(base, blob, nil)
  if a.moved then return a.moved end
  if ended == SHARE then
    end_share(base, id, expired == 0 and used or nil)
    return nil
  end
  local r = record(base, id)
  if answered == 1 then
    position = observe(a, r, text, position, count, anchors, flew_for, lent_at)
    if r and r.answered == 0 then
      for _, b in ipairs(each_bucket(r)) do
        answer(r, b)
        touch(b)
      end
      r.answered = 1
      if ended == 0 then write_record(r) end
    end
  end
  if ended == 1 then
    for _, b in ipairs(r and each_bucket(r) or a) do
      local back = amount_of(b, held[b.metric])
      if r then
        forget_booking(r, b)
        answer(r, b)
        if r.state == EXPIRED then back = 0 end
      elseif expired == 1 then
        back = 0
      elseif b.metric == SLOTS then -- else they are not taken here
        back = found(base, b, held[SLOTS]) * b.scale
      end
      back = back - amount_of(b, used[b.metric])
      if back ~= 0 then
        give_back(b, back)
        b.returned = b.returned + back
      end
      touch(b)
      if back > 0 and b.metric == SLOTS then
        with_slots[base] = b
      end
    end
    if r then delete(r) end
  end
  if refused == 1 then refuse(a, r, text, position, flew_for) end
  return nil
end

-- The claim

local GRANTED, SHORT, OVERSIZE, MISSING, NOTHING, MOVED = 0, 1, 2, 3, 4, 5

-- Whether this process may take the slot that it gives back in this step, though others wait: until
-- the first of them has waited for a turn. Else each slot would take two steps, one to free it and
-- one to take it.
local function goes_on(base)
  if not with_slots[base] then return false end
  local first = call('ZRANGE', base .. 'w', 0, 0, 'WITHSCORES')
  return not first[2] or now - first[2] < TURN
end

local function wait_of(a)
  local after, never = max(0, a.not_before - now), nil
  for _, b in ipairs(a) do
    local cost = costs[b.metric]
    if cost > 0 then
      local longer, too_large = wait_for(b, cost)
      if too_large then never = b end
      if b.metric == SLOTS then a.has_slots = true end
      if b.metric == SLOTS and longer == 0 and waits == 1 then
        -- Who came before gets the free slots first.
        local rank = call('ZRANK', a.base .. 'w', process) or call('ZCARD', a.base .. 'w')
        if b.level < amount_of(b, cost) + rank * b.scale and not goes_on(a.base) then
          longer = FOREVER
        end
      end
      if longer > after then after = longer end
    end
  end
  return after, never
end

local seen = {} -- the accounts that were looked at, for the answer

-- Others of this process may wait on: behind all that wait now.
local function go_to_the_back()
  for i = 1, candidates do call('ZADD', KEYS[i] .. 'w', 'XX', now, process) end
end

local lent = 0

local function granted(i, after)
  if waited == 1 then go_to_the_back() end
  return GRANTED, i, after, ''
end

-- Returns the answer to the same claim that was asked before, if its answer was lost on the way.
local function once_more(id)
  for i = 1, candidates do
    local r = record(KEYS[i], id)
    if r then
      end_share(KEYS[i], id .. 's', nil)
      seen = { account(KEYS[i], ARGV[4 + i], nil) }
      return granted(i, r.state == BOOKED and max(0, r.until_at - now) or 0)
    end
  end
end

local function reserve(id, held)
  local best, best_after, best_at, largest, largest_at = nil, FOREVER + 1, 0, nil, 0
  local may_fit, before, holder = false, horizon, KEYS[#KEYS - 1]
  if held ~= '' then -- only what begins earlier is better
    local r = record(holder, held)
    if r then before = min(horizon, r.until_at - now - 1) else held = '' end
  end
  for i = 1, candidates do
    sweep(KEYS[i])
    local a = account(KEYS[i], ARGV[4 + i], create == 1 and ARGV[4 + candidates + i] or nil)
    if a.moved then return MOVED, i, 0, a.moved end
    if a.missing and create == 0 then return MISSING, i, 0, '' end
    hold_lost(a)
    seen[i] = a
    local after, never = wait_of(a)
    if after == 0 then
      take(a, id, 0)
      if held ~= '' then release(holder, held) end
      if lends_for > 0 then lent = lend(a, id, ARGV[4 + candidates * (1 + create) + i]) end
      return granted(i, 0)
    end
    if never then
      if not largest or never.limit > largest.limit then largest, largest_at = never, i end
    else
      may_fit = true
      if not best or after < best_after then best, best_after, best_at = a, after, i end
    end
  end
  if largest and not may_fit then return OVERSIZE, largest_at, 0, largest.name end
  if best and best_after <= before then
    take(best, id, best_after)
    if held ~= '' then release(holder, held) end
    return granted(best_at, best_after)
  end
  if waits == 1 then
    for _, a in ipairs(seen) do
      if a.has_slots then
        call('ZADD', a.base .. 'w', 'NX', now, process)
        lasts_for(a.base .. 'w', keep)
      end
    end
  end
  return SHORT, best_at, best and best_after or FOREVER, ''
end

local function next_expiry()
  local soonest = FOREVER
  for i = 1, candidates do
    local first = call('ZRANGE', KEYS[i] .. 'x', 0, 0, 'WITHSCORES')
    if first[2] then soonest = min(soonest, first[2] - now) end
  end
  return soonest
end

-- The step

local what, which, after, name = NOTHING, 0, 0, ''
local first = 4 + candidates * (1 + create + (lends_for > 0 and 1 or 0))
local moved = {}

local function take_in()
  if batch >= 0 then
    local key = KEYS[#KEYS] .. 's:' .. process
    if tonumber(call('GET', key) or -1) >= batch then return end
    call('SET', key, string.format('%.0f', batch), 'PX', ceil((lifetime + keep) / 1000))
  end
  for j = 1, settlements do
    local at = first + 3 * (j - 1)
    settling = j
    local target = settle(KEYS[candidates + j], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
    if target then moved[#moved + 1] = j .. '=' .. target end
  end
end

if settlements > 0 then take_in() end
if candidates > 0 then
  if again == 1 then what, which, after, name = once_more(ARGV[3]) end
  if again == 0 or not what then what, which, after, name = reserve(ARGV[3], ARGV[4]) end
end
if waited == 1 and candidates == 0 then -- nobody waits here any more: the next one's turn
  local base = KEYS[#KEYS - 1]
  call('ZREM', base .. 'w', process)
  local wide = hash(base)
  for _, name_of_slots in ipairs(wide.names) do
    local b = bucket(wide, name_of_slots)
    if b.metric == SLOTS then with_slots[base] = b end
  end
end
for base, b in pairs(with_slots) do tell_waiting(base, b) end
save()

local expires_after = what == SHORT and next_expiry() or 0
local reply = {
  pack('>dddddd', what, which, after, expires_after, lent, now), name,
  table.concat(freed), table.concat(moved, ';'),
}
for i, a in ipairs(seen) do
  local numbers = {}
  for k, b in ipairs(a) do
    local scale = b.scale
    numbers[k] = pack(VIEW, b.level / scale, b.limit, b.ceiling, b.corrected / scale,
      (b.pending_before or b.pending) / scale, b.taken / scale, b.throttle,
      b.configured < 0 and 1 or 0, b.proven, b.price)
  end
  reply[#reply + 1] = table.concat(a.names, ',')
  reply[#reply + 1] = table.concat(numbers)
end
for i, part in ipairs(reply) do reply[i] = pack('>I4', #part) .. part end
return table.concat(reply)
