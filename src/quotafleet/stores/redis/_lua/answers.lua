-- What answers told of an owner's quota: headers, and refusals. Units: see bucket.lua.

local function answers()
  local LEAST_MARGIN = 0.02 -- seconds of refill, of what a quick answer told
  local REQUESTS = 0 -- the metric of requests
  local WARY_LEAD = 1.5 -- requests, but no more than are refilled in
  local WARY_SECONDS = 2
  local LOWEST, HIGHEST = 1 / 8, 8 -- price
  local REPLACED_AFTER = 20 -- seconds, of the gauge's first reading
  local ROUNDING = 2 -- units by which two readings may be off
  local WINDOW = 1 -- seconds in which a limit is enforced that isn't by its period
  local ROUNDED = 1 -- seconds: a delay is told in whole ones, rounded up

  local changing = needed(limits)
  local set_limit, correct, learn, new_bucket =
    changing.set_limit, changing.correct, changing.learn, changing.new_bucket

  -- Whether a formula estimates it: tokens, of all kinds.
  local function is_priced(metric) return metric >= 1 and metric <= 3 end

  -- Returns by how much it is at least after a refusal.
  local function wary_lead(b)
    if b.metric ~= REQUESTS or b.gain <= 0 then return 0 end
    local most = math.min(math.floor(WARY_LEAD * b.scale), b.capacity)
    return math.min(most, math.floor(WARY_SECONDS * 1e6 * b.gain / b.period))
  end

  -- Returns by how much the provider's bucket is above ours when both are full.
  local function lead_of(b)
    if b.proven < 0 then return math.floor(b.ceiling / b.price * b.scale) - b.capacity end
    return math.min(math.floor(MARGIN * 1e6 * b.gain / b.period), b.capacity)
  end

  -- Believes that the limit is enforced in windows of so many seconds: no burst beyond one.
  local function enforce(b, window)
    if b.period == 0 then return end
    if b.proven < 0 or b.gain / b.period * 1e6 * window < b.proven * b.scale then
      b.proven = math.max(1, b.limit * 1e6 / b.period * window)
      derive(b)
      correct(b, 0)
    end
  end

  -- Learns from an answer's headers what the provider charges for a unit of ours.
  local function reprice(b, told, mark, granted_at)
    if b.period == 0 or not is_priced(b.metric) then return end
    local returned = b.returned / b.scale
    local at_least = mark.taken - mark.pending - returned
    local at_most = b.taken / b.scale - returned
    if b.first_read >= 0 then
      local rate = b.limit * 1e6 / b.period
      local shortest = math.max(0, granted_at - b.first_read) / 1e6
      local longest = (b.at - b.first_granted) / 1e6
      local refilled_least = math.min(b.ceiling, b.first_level + rate * shortest) - b.first_level
      local charged_least = b.first_level + refilled_least - told - ROUNDING
      local charged_most = b.first_level + rate * longest - told + ROUNDING
      local taken_least, taken_most = at_least - b.first_most, at_most - b.first_least
      local lowest, highest = 0, HIGHEST
      if taken_most > 0 then lowest = charged_least / taken_most end
      if taken_least > 0 then highest = charged_most / taken_least end
      local price = b.price
      if lowest >= 0 and (taken_least <= 0 or lowest <= highest) then
        price = math.min(math.max(price, lowest), highest)
      end
      price = math.min(math.max(price, LOWEST), HIGHEST)
      if price ~= b.price then
        local before = b.level
        b.level = math.floor(b.level * (b.price / price))
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

  local function keep_away(a, after)
    local mark = a.project == '' and '!' or '!@' .. a.project
    a.not_before = math.max(a.not_before, now + after)
    a.own.plain[mark] = string.format('%.0f', a.not_before)
    a.own.dirty[mark] = a.own.plain[mark]
  end

  -- Returns what calls took that were made later than the answered one, and shares that are lent: they
  -- are missing from the level that it told.
  local function later(a, name, metric, mine, flew_for)
    local o, sum, counted = a.owner, 0, {}
    local since = mine and mine.expires_at or now - flew_for + lifetime
    local function count(id, least)
      local r = record(o, id)
      if not r or counted[id] then return end
      counted[id] = true
      local is_later = not mine or r.expires_at ~= since or r.until_at > mine.until_at or least == LENT
      local counts = is_later and r.state >= least and r.family == a.family
        and (not string.find(name, '@', 1, true) or r.project == a.project)
      if counts then sum = sum + r.costs[metric] end
    end
    local at = string.format('%.0f', since)
    local from = mine and at or '(' .. at -- of those at that very instant, the later ones
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', o.base .. 'x', from, '+inf', 'LIMIT', 0, 1000)) do
      count(id, OPEN)
    end
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', o.base .. 'x', '-inf', at, 'LIMIT', 0, 1000)) do
      count(id, LENT)
    end
    for id, r in pairs(o.changed) do -- what is not written yet
      if r.due then count(id, r.due > since and OPEN or LENT) end
    end
    return sum
  end

  -- Makes the bucket of a limit that an answer told and nobody knew. One that is configured and was
  -- lost is made by the next claim, as its process knows it: an answer tells of the provider's.
  local function learn_new(a, name, reading, mine, flew_for)
    local h = reading.metric >= SLOTS and a.wide or a.own
    if name == '' or (a.lacks and a.lacks[name]) or bucket(h, name) then return nil end
    local ceiling = reading.burst >= 0 and reading.burst or reading.limit
    local b = new_bucket(h, name, reading.metric, reading.period, reading.limit, ceiling, -1, -1)
    b.level = math.min(math.floor((reading.level - later(a, name, reading.metric, mine, flew_for)) * b.scale)
      - lead_of(b), b.capacity)
    gather(a)
    return b
  end

  local function anchor(b, told, mark, flew_for, upward)
    local lead = lead_of(b)
    local level = math.floor(told / b.price * b.scale)
    if level > b.capacity + lead + 1 then return end -- that isn't the one that binds; 1: rounding
    local spare = MARGIN * 1e6 - (flew_for + LEAST_MARGIN * 1e6)
    if b.at < b.wary_until then
      lead = math.max(lead, wary_lead(b))
    elseif spare > 0 and b.gain > 0 then
      lead = math.max(0, lead - math.floor(spare * b.gain / b.period))
    end
    local wrong = level - lead - math.floor(mark.level * b.scale)
      - (b.corrected - math.floor(mark.corrected * b.scale + 0.5))
    local at_most = wrong + b.taken - math.floor(mark.taken * b.scale + 0.5)
    local at_least = wrong - math.floor(mark.pending * b.scale + 0.5)
    if b.gain > 0 then at_least = at_least - flew_for * b.gain / b.period end
    if at_most < 0 then
      correct(b, at_most)
    elseif at_least > 0 and upward then
      correct(b, math.floor(at_least))
    end
  end

  -- Takes in an answer's headers; returns where they end, and whether there is more by them.
  local function observe(a, r, text, position, count, anchors, flew_for, lent_at)
    local more = false
    local first = lent_at >= 0 or (r and r.answered == 0)
    for _ = 1, count do
      local reading, mark, name, marked = {}, {}, nil, nil
      name, reading.metric, reading.period, reading.limit, reading.level, reading.burst, marked,
        mark.level, mark.corrected, mark.pending, mark.taken, position =
        struct.unpack('>sBddddBdddd', text, position)
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
        more = more or b.level > before
        touch(b)
      end
    end
    return position, more
  end

  -- Returns the microseconds that a refusal means, where it told more than a delay in whole seconds.
  local function exactly(b, exact, after)
    if exact < 0 then -- there was room for it: a shorter window refused, which is empty
      enforce(b, WINDOW)
      exact = MARGIN * 1e6
    end
    if after <= math.max(exact, WINDOW * 1e6) + ROUNDED * 1e6 then return exact end
    return after
  end

  local function refuse(a, r, text, position, flew_for)
    local kind, after, name, requested, cost, used, reading = nil, nil, nil, nil, nil, nil, {}
    kind, after, name, requested, cost, reading.metric, reading.period, reading.limit, used =
      struct.unpack('>BdsddBddd', text, position)
    reading.level = used >= 0 and reading.limit - used or 0
    reading.burst = -1
    if kind == 1 then
      for _, b in ipairs(a) do
        b.throttle = math.max(b.throttle / 2, 1 / 64)
        derive(b)
        touch(b)
      end
      keep_away(a, after)
      return
    end
    local b = name ~= '' and bucket(reading.metric >= SLOTS and a.wide or a.own, name) or nil
    if b then
      learn(b, reading.limit, math.min(b.ceiling, reading.limit))
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
      local need = math.min(amount_of(b, requested / b.price), b.capacity)
      local lead = math.max(b.gain * MARGIN * 1e6 / b.period, wary_lead(b))
      local level = math.floor(need - b.gain * after / b.period - lead)
      if level < b.level then correct(b, level - b.level) end
    end
    touch(b)
  end

  return { observe = observe, refuse = refuse }
end
