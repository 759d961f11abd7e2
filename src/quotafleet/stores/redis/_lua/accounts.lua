-- Where buckets are kept: hashes, read once and written once; and what one owner may spend on one
-- model family. Units: see bucket.lua, keys: see request.lua. Durations: microseconds.
--
-- A hash's fields whose names begin with a sign are no limits: `!` = nothing is granted before, of
-- the organization or, as `!@project`, of a project; `=` = until when the hash lasts at least.

local owners = {}

-- Returns what is known in this run of an organization: its hashes, its reservations, what changed.
-- `freed`: its bucket of slots, if some came free in it.
local function owner_of(base)
  local o = owners[base]
  if not o then
    o = { base = base, hashes = {}, records = {}, changed = {}, lasts = 0, swept = false,
      freed = false }
    owners[base] = o
  end
  return o
end

-- Returns a hash: of a family's buckets, or of those over all models (`family` is nil).
local function hash(o, family)
  local key = family and 'f:' .. family or 'o'
  local h = o.hashes[key]
  if h then return h end
  h = { key = o.base .. key, base = o.base, family = family, names = {}, packed = {}, plain = {},
    buckets = {}, dirty = {} }
  local flat = healed('HGETALL', h.key)
  for i = 1, #flat, 2 do
    local name = flat[i]
    if string.byte(name) < 97 then
      h.plain[name] = flat[i + 1]
    else
      h.names[#h.names + 1] = name
      h.packed[name] = flat[i + 1]
    end
  end
  o.hashes[key] = h
  return h
end

-- Returns whether a bucket's numbers can be ours: all finite, and none that divides by zero.
local function is_sound(b)
  local sum = b.limit + b.ceiling + b.burst + b.configured + b.level + b.rest + b.at + b.corrected
    + b.taken + b.pending + b.booked + b.until_at + b.proven + b.wary_until + b.returned
    + b.first_level + b.first_least + b.first_most + b.first_granted + b.first_read
  return sum > -1e24 and sum < 1e24 and b.scale >= 1 and b.scale <= 1e6 and b.price > 1e-6
    and b.price < 1e6 and b.throttle > 0 and b.throttle <= 1 and b.period >= 0 and b.period < FOREVER
    and b.metric >= 0 and b.metric <= 6 and b.metric % 1 == 0
end

-- Deletes a damaged row: a configured bucket is made again as the asking process knows it.
local function discard(h, name)
  redis.call('HDEL', h.key, name)
  local names = {}
  for _, other in ipairs(h.names) do
    if other ~= name then names[#names + 1] = other end
  end
  h.names, h.packed[name] = names, nil
  repaired = repaired + 1
end

-- Returns an instant that a hash's plain field holds; 0 = none, or none that can be ours.
local function instant(h, field)
  local at = tonumber(h.plain[field] or 0)
  return at and at < FOREVER and at or 0
end

local function bucket(h, name)
  local b = h.buckets[name]
  if b or not h.packed[name] then return b end
  if #h.packed[name] ~= BUCKET_SIZE then return discard(h, name) end
  b = {
    hash = h, name = name, gain = 0, capacity = 0, limit = 0, ceiling = 0, burst = 0, configured = 0,
    metric = 0, period = 0, scale = 0, level = 0, rest = 0, at = 0, throttle = 0, corrected = 0,
    taken = 0, pending = 0, booked = 0, until_at = 0, proven = 0, wary_until = 0, price = 0,
    returned = 0, first_level = 0, first_least = 0, first_most = 0, first_granted = 0, first_read = 0,
  }
  b.limit, b.ceiling, b.burst, b.configured, b.metric, b.period, b.scale, b.level, b.rest, b.at,
    b.throttle, b.corrected, b.taken, b.pending, b.booked, b.until_at, b.proven, b.wary_until,
    b.price, b.returned, b.first_level, b.first_least, b.first_most, b.first_granted, b.first_read =
    struct.unpack(BUCKET, h.packed[name])
  if not is_sound(b) then return discard(h, name) end
  derive(b)
  refill(b)
  h.buckets[name] = b
  return b
end

local function touch(b) b.hash.dirty[b.name] = b end

-- An account lists its buckets: those that are found and those that are configured.
local function gather(a)
  for i = #a, 1, -1 do a[i] = nil end
  local names, project = {}, a.project
  for _, h in ipairs({ a.own, a.wide }) do
    for _, name in ipairs(h.names) do
      local mark = string.find(name, '@', 1, true)
      if not mark or (project ~= '' and string.sub(name, mark + 1) == project) then
        local b = bucket(h, name)
        if b then
          a[#a + 1] = b
          names[#names + 1] = name
        end
      end
    end
  end
  a.names = table.concat(names, ',')
  a.known = #a.own.names + #a.wide.names
end

local function open_account(base, blob)
  local o = owner_of(base)
  local family, project, count, at = struct.unpack('>ssB', blob)
  local wide, own = hash(o), hash(o, family)
  local a = { base = base, owner = o, family = family, project = project, wide = wide, own = own }
  a.moved = wide.plain['>']
  if a.moved then return a end
  for i = 1, count do
    local name, metric, period, amount, burst
    name, metric, period, amount, burst, at = struct.unpack('>sBddd', blob, at)
    local h = metric >= SLOTS and wide or own
    local b = bucket(h, name)
    if not b then
      a.lacks = a.lacks or {}
      a.lacks[name] = { i, h, name, metric, period, amount, burst }
    elseif b.configured ~= amount or b.burst ~= burst then
      needed(limits).configure(b, amount, burst)
    end
  end
  gather(a)
  a.not_before = instant(own, project == '' and '!' or '!@' .. project)
  return a
end

local function save_hash(h)
  local fields, lasts = {}, 0
  for name, b in pairs(h.dirty) do
    fields[#fields + 1] = name
    if type(b) == 'table' then
      fields[#fields + 1] = struct.pack(BUCKET, b.limit, b.ceiling, b.burst, b.configured, b.metric,
        b.period, b.scale, b.level, b.rest, b.at, b.throttle, b.corrected, b.taken, b.pending,
        b.booked, b.until_at, b.proven, b.wary_until, b.price, b.returned, b.first_level,
        b.first_least, b.first_most, b.first_granted, b.first_read)
      if b.period > lasts then lasts = b.period end
    else
      fields[#fields + 1] = b
    end
  end
  if #fields == 0 then return end
  local least = now + 2 * lasts + keep
  local renews = instant(h, '=') < least
  if renews then -- for twice as long, so that this is seldom
    least = least + 2 * lasts + keep
    fields[#fields + 1] = '='
    fields[#fields + 1] = string.format('%.0f', least)
  end
  redis.call('HSET', h.key, unpack(fields))
  if renews then redis.call('PEXPIRE', h.key, math.ceil((least - now) / 1000)) end
end
