-- Reservations: hash `r` holds them by their ids, sorted set `x` the instants when something is due.
-- Units: see bucket.lua, keys: see request.lua. They are read once in a run, and written once at its end.

local RECORD = '>BBdddddddddsss' -- state, answered, expires_at, until_at, costs, family, project, names
local BOOKED_FOR = 300000000 -- microseconds that are booked ahead, at most

-- A share is LENT until it is given back, or until the instant by which its process has long stopped
-- using it. What was used of it is SPENT, and counts as on its way until that instant.
local OPEN, BOOKED, EXPIRED, LENT, SPENT = 0, 1, 2, 3, 4

-- Returns a reservation, which was taken from an account of this organization; false = there is none.
local function record(o, id)
  local r = o.records[id]
  if r ~= nil then return r end
  local packed = healed('HGET', o.base .. 'r', id)
  r = false
  if packed then
    r = { owner = o, id = id, costs = {}, state = 0, answered = 0, expires_at = 0, until_at = 0,
      family = '', project = '', names = '', due = false, gone = false }
    local c = r.costs
    local sound
    sound, r.state, r.answered, r.expires_at, r.until_at, c[0], c[1], c[2], c[3], c[4], c[5], c[6],
      r.family, r.project, r.names = pcall(struct.unpack, RECORD, packed)
    local sum = sound and r.expires_at + r.until_at + c[0] + c[1] + c[2] + c[3] + c[4] + c[5] + c[6]
    if not sound or r.state > SPENT or not (sum > -1e24 and sum < 1e24) then
      redis.call('HDEL', o.base .. 'r', id)
      repaired = repaired + 1
      r = false
    end
  end
  o.records[id] = r
  return r
end

-- Returns a new reservation of some costs, on an account's buckets.
local function new_record(a, id, costs, state, expires_at)
  return {
    owner = a.owner, id = id, costs = costs, state = state, answered = 0, expires_at = expires_at,
    until_at = now, family = a.family, project = a.project, names = a.names, due = false, gone = false,
  }
end

-- Keeps a reservation as it is now; something is due at an instant, if one is given.
local function keep_record(r, due)
  local o = r.owner
  r.due = due or r.due
  o.records[r.id], o.changed[r.id] = r, r
  o.lasts = math.max(o.lasts, r.expires_at - now)
end

local function delete(r)
  local o = r.owner
  if r.state == EXPIRED then redis.call('ZREM', o.base .. 't', r.id) end
  r.gone = true
  o.records[r.id], o.changed[r.id] = false, r
end

local function each_bucket(r)
  local found = {}
  for name in string.gmatch(r.names, '[^,]+') do
    local b = bucket(hash(r.owner, r.family), name) or bucket(hash(r.owner), name)
    if b then found[#found + 1] = b end
  end
  return found
end

local function forget_booking(r, b)
  if r.state == BOOKED then b.booked = math.max(0, b.booked - amount_of(b, r.costs[b.metric])) end
end

local function answer(r, b)
  if r.answered == 0 then b.pending = math.max(0, b.pending - amount_of(b, r.costs[b.metric])) end
end

local function lasts_for(key, microseconds) redis.call('PEXPIRE', key, math.ceil(microseconds / 1000)) end

local function save_records(o)
  local set, due, gone = {}, {}, {}
  for id, r in pairs(o.changed) do
    if r.gone then
      gone[#gone + 1] = id
    else
      local c = r.costs
      set[#set + 1] = id
      set[#set + 1] = struct.pack(RECORD, r.state, r.answered, r.expires_at, r.until_at, c[0], c[1], c[2],
        c[3], c[4], c[5], c[6], r.family, r.project, r.names)
      if r.due then
        due[#due + 1] = r.due
        due[#due + 1] = id
      end
    end
  end
  if #set > 0 then redis.call('HSET', o.base .. 'r', unpack(set)) end
  if #due > 0 then
    redis.call('ZADD', o.base .. 'x', unpack(due))
    -- Also as long as bookings that others made; and an expired one is remembered for `keep`.
    local lasts = math.max(o.lasts, lifetime + BOOKED_FOR) + 2 * keep
    lasts_for(o.base .. 'r', lasts)
    lasts_for(o.base .. 'x', lasts)
  end
  if #gone > 0 then
    redis.call('HDEL', o.base .. 'r', unpack(gone))
    redis.call('ZREM', o.base .. 'x', unpack(gone))
  end
end

local function save()
  for _, o in pairs(owners) do
    for _, h in pairs(o.hashes) do save_hash(h) end
    if next(o.changed) then save_records(o) end
  end
end
