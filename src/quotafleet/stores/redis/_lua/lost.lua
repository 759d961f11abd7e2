-- What a server that lost its data is told: buckets as a process knows them, and the slots that are
-- taken in them. Units: see bucket.lua.

local function lost()
  -- Slots that are taken without a reservation that is known here, since it was lost or is still to be
  -- told: a record is made of them all, so that they come back with a lifetime, whoever has died.
  local function lost_name(b) return 'lost:' .. b.name end

  local function hold(a, b, slots)
    local r = record(a.owner, lost_name(b))
    if not r or r.state ~= OPEN then
      if r then delete(r) end
      r = new_record(a, lost_name(b), { [0] = 0, 0, 0, 0, 0, 0, 0 }, OPEN, now + lifetime)
      r.answered, r.names = 1, b.name
    end
    r.costs[SLOTS] = r.costs[SLOTS] + slots
    keep_record(r, r.expires_at)
  end

  -- Takes slots out of that record, since it turned out whose they are; returns how many it had.
  local function found(o, b, slots)
    local r = record(o, lost_name(b))
    if not r or r.state ~= OPEN then return 0 end
    local some = math.min(slots, r.costs[SLOTS])
    r.costs[SLOTS] = r.costs[SLOTS] - some
    if r.costs[SLOTS] > 0 then keep_record(r) else delete(r) end
    return some
  end

  -- Makes the configured buckets that an account lacks, at the levels that its process knows.
  local function complete(a, levels)
    local lacks = a.lacks
    a.lacks = nil
    for _, lack in pairs(lacks) do
      local i, h, name, metric, period, amount, burst = unpack(lack)
      if not bucket(h, name) then
        local b = needed(limits).new_bucket(h, name, metric, period, amount, amount, amount, burst)
        b.level = math.min(b.capacity, math.floor(struct.unpack('>d', levels, i * 8 - 7) * b.scale + 0.5))
        b.made = true
      end
    end
    gather(a)
    for _, b in ipairs(a) do
      if b.made and b.metric == SLOTS and b.level < b.capacity and not b.held then
        b.held = true
        hold(a, b, (b.capacity - b.level) / b.scale)
      end
    end
  end

  return { hold = hold, found = found, complete = complete }
end
