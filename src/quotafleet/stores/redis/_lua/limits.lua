-- Makes buckets and changes their limits. Units: see bucket.lua.

local function limits()
  local NAMES_IN_UNITS = 'level corrected taken pending booked returned'

  local function scale_of(limit)
    if limit > 4e12 then return 1 elseif limit > 4e9 then return 1000 end
    return 1000000
  end

  local function set_limit(b, limit, ceiling)
    local scale = scale_of(math.max(limit, ceiling) / b.price)
    if scale ~= b.scale then
      for name in string.gmatch(NAMES_IN_UNITS, '%l+') do
        b[name] = math.floor(b[name] / b.scale * scale)
      end
      b.scale = scale
    end
    b.limit, b.ceiling, b.rest = limit, ceiling, 0
    derive(b)
  end

  local function correct(b, change)
    local before = b.level
    give_back(b, change)
    b.corrected = b.corrected + b.level - before
  end

  local function learn(b, limit, ceiling)
    if b.configured >= 0 and b.configured <= limit then limit, ceiling = b.configured, b.configured end
    if limit ~= b.limit or ceiling ~= b.ceiling then
      set_limit(b, limit, ceiling)
      correct(b, 0)
    end
  end

  local function new_bucket(h, name, metric, period, limit, ceiling, configured, burst)
    local b = {
      hash = h, name = name, metric = metric, period = period, configured = configured,
      burst = burst, scale = scale_of(math.max(limit, ceiling)), level = 0, rest = 0, at = now,
      throttle = 1, corrected = 0, taken = 0, pending = 0, booked = 0, until_at = 0,
      limit = limit, ceiling = ceiling, proven = -1, wary_until = 0, price = 1, returned = 0,
      first_level = 0, first_least = 0, first_most = 0, first_granted = 0, first_read = -1,
    }
    derive(b)
    b.level = b.capacity
    if h.family and #h.names == 0 then
      healed('SADD', h.base .. 'n', h.family)
      redis.call('PEXPIRE', h.base .. 'n', KEPT_FOR)
    end
    h.names[#h.names + 1] = name
    h.packed[name] = true
    h.buckets[name] = b
    h.dirty[name] = b
    return b
  end

  -- Takes over what a process has configured of a limit that is known with another amount.
  local function configure(b, amount, burst)
    local limit, ceiling = b.limit, b.ceiling
    if b.configured < 0 or limit >= math.min(b.configured, amount) then
      limit, ceiling = amount, amount
    end
    b.configured, b.burst = amount, burst
    set_limit(b, limit, ceiling)
    correct(b, 0)
    b.hash.dirty[b.name] = b
  end

  return {
    set_limit = set_limit, correct = correct, learn = learn, new_bucket = new_bucket,
    configure = configure,
  }
end
