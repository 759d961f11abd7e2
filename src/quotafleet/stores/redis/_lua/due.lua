-- Begins bookings and ends lifetimes that are due, and gives back what was not used.
-- Units: see bucket.lua, keys: see request.lua.

local function due()
  local AT_ONCE = 32 -- how many due reservations one step takes care of

  local function return_all(r)
    for _, b in ipairs(each_bucket(r)) do
      forget_booking(r, b)
      answer(r, b)
      local back = amount_of(b, r.costs[b.metric])
      give_back(b, back)
      b.returned = b.returned + back
      touch(b)
      if b.metric == SLOTS then r.owner.freed = b end
    end
  end

  -- Gives back all of a reservation, if it is still there.
  local function release(o, id)
    local r = record(o, id)
    if not r then return end
    return_all(r)
    delete(r)
  end

  local function begin(r)
    for _, b in ipairs(each_bucket(r)) do
      forget_booking(r, b)
      touch(b)
    end
    r.state = OPEN
    keep_record(r, r.expires_at)
  end

  local function expire(r)
    return_all(r)
    r.state, r.answered, r.due = EXPIRED, 1, false
    keep_record(r)
    healed('ZREM', r.owner.base .. 'x', r.id)
    healed('ZADD', r.owner.base .. 't', now + keep, r.id)
  end

  -- Forgets those that expired long ago.
  local function forget(o)
    lasts_for(o.base .. 't', 2 * keep)
    local old = healed('ZRANGEBYSCORE', o.base .. 't', '-inf', now, 'LIMIT', 0, AT_ONCE)
    for _, id in ipairs(old) do
      healed('ZREM', o.base .. 't', id)
      redis.call('HDEL', o.base .. 'r', id)
    end
  end

  local function all_due(o)
    local ids = healed('ZRANGEBYSCORE', o.base .. 'x', '-inf', now, 'LIMIT', 0, AT_ONCE)
    local expired = false
    for _, id in ipairs(ids) do
      local r = record(o, id)
      if not r then
        healed('ZREM', o.base .. 'x', id)
      elseif r.state == BOOKED and r.expires_at > now then
        begin(r)
      elseif r.state >= LENT then
        needed(shares).is_over(r)
      else
        expire(r)
        expired = true
      end
    end
    if expired then forget(o) end
  end

  return { all = all_due, release = release }
end
