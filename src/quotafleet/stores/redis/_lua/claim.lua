-- Claims: costs are taken from the first account of a ranking that has enough, on all its buckets or
-- none. It mirrors `quotafleet/_core/quota/ledger.py`, where the theory stands. Units: see bucket.lua.

local GRANTED, SHORT, OVERSIZE, MISSING, MOVED = 0, 1, 2, 3, 5
local MARK = '>dddd'

-- Returns the microseconds until a call of this cost would fit, and whether none ever does.
local function wait_for(b, cost)
  if cost > b.limit * (1 + 1e-9) then return FOREVER, true end
  local need = math.min(amount_of(b, cost), b.capacity)
  if b.level >= need then return 0 end
  if b.gain == 0 then return FOREVER end
  local after = math.ceil((need - b.level) * b.period / b.gain)
  local over = need - (b.capacity - b.booked)
  if over > 0 then -- only once the bookings have begun
    after = math.max(after, math.max(0, b.until_at - now) + math.ceil(over * b.period / b.gain))
  end
  return after
end

local function wait_of(a, c)
  local after, never = math.max(0, a.not_before - now), nil
  for _, b in ipairs(a) do
    local cost = c.costs[b.metric]
    if cost > 0 then
      local longer, too_large = wait_for(b, cost)
      if too_large then never = b end
      if b.metric == SLOTS then
        a.has_slots = true
        if longer == 0 and c.waits == 1 and not needed(slots).is_left(a.owner, b, cost) then
          longer = FOREVER
        end
      end
      if longer > after then after = longer end
    end
  end
  return after, never
end

-- Takes a claim's costs, to be used after some microseconds.
local function take(a, c, after)
  local costs = c.costs
  for _, b in ipairs(a) do
    local amount = amount_of(b, costs[b.metric])
    b.pending_before = b.pending
    b.level = b.level - amount
    b.taken = b.taken + amount
    b.pending = b.pending + amount
    if after > 0 then
      b.booked = b.booked + amount
      b.until_at = math.max(b.until_at, now + after)
    end
    touch(b)
  end
  local r = new_record(a, c.id, costs, after > 0 and BOOKED or OPEN, now + after + lifetime)
  r.until_at = after > 0 and now + after or now + c.order -- of one step, in their order
  keep_record(r, after > 0 and r.until_at or r.expires_at)
end

-- Says how an account's buckets, by their names, stand after a claim was granted: what headers are
-- compared with.
local function marks_of(a)
  local marks = { a.names, '\0' }
  for k, b in ipairs(a) do
    local scale = b.scale
    marks[k + 2] = struct.pack(MARK, b.level / scale, b.corrected / scale, (b.pending_before or b.pending) / scale,
      b.taken / scale)
  end
  return table.concat(marks)
end

local function granted(c, i, a, after, part)
  if waited == 1 then
    for k = 1, c.candidates do needed(slots).go_to_the_back(account(place_of(c, k)).owner) end
  end
  return GRANTED, i, after, marks_of(a), part
end

-- Returns the answer to a claim that was asked before, if its answer was lost on the way.
local function once_more(c)
  for i = 1, c.candidates do
    local a = account(place_of(c, i))
    local r = record(a.owner, c.id)
    if r then
      needed(shares).finish(a.owner, c.id .. 's', nil)
      for _, b in ipairs(a) do b.pending_before = nil end
      return granted(c, i, a, r.state == BOOKED and math.max(0, r.until_at - now) or 0, 0)
    end
  end
end

-- Returns what came of a claim, with which candidate, after how long, a text (marks, the owner that
-- it was merged into, the limit that is too small), which part of the wanted share is lent.
local function reserve(c)
  local best, best_after, best_at, largest, largest_at = nil, FOREVER + 1, 0, nil, 0
  local may_fit, before, held = false, c.horizon, false
  if c.holder > 0 then -- only what begins earlier is better
    held = account(c.holder).owner
    local r = record(held, c.held)
    if r then before = math.min(before, r.until_at - now - 1) else held = false end
  end
  for i = 1, c.candidates do
    local place = place_of(c, i)
    local a = account(place)
    if a.moved then return MOVED, i, 0, a.moved, 0 end
    sweep(a.owner)
    if not is_whole(a, place) then return MISSING, i, 0, '', 0 end
    a.seen = true
    local after, never = wait_of(a, c)
    if after == 0 then
      take(a, c, 0)
      if held then needed(due).release(held, c.held) end
      local part = c.lends == 1 and needed(shares).lend(a, c.id, c.costs, wanted_of(c, i)) or 0
      return granted(c, i, a, 0, part)
    end
    if never then
      if not largest or never.limit > largest.limit then largest, largest_at = never, i end
    else
      may_fit = true
      if not best or after < best_after then best, best_after, best_at = a, after, i end
    end
  end
  if largest and not may_fit then return OVERSIZE, largest_at, 0, largest.name, 0 end
  if best and best_after <= before then
    take(best, c, best_after)
    if held then needed(due).release(held, c.held) end
    return granted(c, best_at, best, best_after, 0)
  end
  if c.waits == 1 then
    for i = 1, c.candidates do
      local a = account(place_of(c, i))
      if a.has_slots then needed(slots).wait(a.owner) end
    end
  end
  return SHORT, best_at, best and best_after or FOREVER, '', 0
end
