-- One step of a fleet's shared ledger: take in what calls used, then reserve for others, one after
-- the other. It stands last; what it is asked for see request.lua.
--
-- The answer is one string: the time, how long the next two parts are, and how many of the others
-- there are, how many damaged keys and rows were repaired; the settlements that made room (a byte each); those of owners that were merged
-- (`3=target`, with semicolons between); for each claim what came of it, see ANSWER, with a text; for
-- each account that was looked at its place, and its buckets' names and numbers behind the length of
-- either, see VIEW.

-- What, which candidate, after how long, when something expires, part of a share, the text's length.
local ANSWER = '>BHdddH'
-- Limit, ceiling, throttle, whether it was learned, proven, price, level.
local VIEW = '>ddddddd'

local freed, moved = {}, {}

-- Whether this batch was taken in already: its answer was lost then.
local function is_known()
  local key, lasts = KEYS[#KEYS] .. 's:' .. process, math.ceil((lifetime + keep) / 1000)
  local had = healed('SET', key, string.format('%.0f', batch), 'PX', lasts, 'GET')
  if not had or tonumber(had) < batch then return false end
  if tonumber(had) > batch then redis.call('SET', key, had, 'PX', lasts) end -- it was long on its way
  return true
end

local function take_in()
  local skips = batch >= 0 and is_known()
  for j = 1, settlements do
    local place, id, text
    place, id, text, position = struct.unpack('>HsI4c0', ARGV[1], position)
    if not skips then
      local a = account(place)
      if a.moved then
        moved[#moved + 1] = j .. '=' .. a.moved
      else
        sweep(a.owner)
        if settle(a, id, text) then freed[#freed + 1] = string.char(j) end
      end
    end
  end
end

local function next_expiry(c)
  local soonest = FOREVER
  for i = 1, c.candidates do
    local o = account(place_of(c, i)).owner
    if not o.expiry then
      local first = redis.call('ZRANGE', o.base .. 'x', 0, 0, 'WITHSCORES')
      o.expiry = first[2] and first[2] - now or FOREVER
    end
    soonest = math.min(soonest, o.expiry)
  end
  return soonest
end

local function view(i, a)
  local numbers = {}
  for k, b in ipairs(a) do
    numbers[k] = struct.pack(VIEW, b.limit, b.ceiling, b.throttle, b.configured < 0 and 1 or 0, b.proven,
      b.price, b.level / b.scale)
  end
  local told = table.concat(numbers)
  return struct.pack('>HHH', i, #a.names, #told) .. a.names .. told
end

if settlements > 0 then take_in() end
local served = {}
for k = 1, claims do
  local c = next_claim()
  c.order = k - 1
  if c.again == 1 then c.what, c.which, c.after, c.text, c.part = once_more(c) end
  if not c.what then c.what, c.which, c.after, c.text, c.part = reserve(c) end
  served[k] = c
end
if leaves > 0 then needed(slots).leave(owner_of(KEYS[leaves])) end
for _, o in pairs(owners) do
  if o.freed then needed(slots).tell(o) end
end
save()

local reply, views = { '', table.concat(freed), table.concat(moved, ';') }, 0
for _, c in ipairs(served) do
  local expires_after = c.what == SHORT and next_expiry(c) or 0
  reply[#reply + 1] = struct.pack(ANSWER, c.what, c.which, c.after, expires_after, c.part, #c.text)
  reply[#reply + 1] = c.text
end
for i, a in pairs(opened) do
  if a.seen then
    reply[#reply + 1] = view(i, account(i))
    views = views + 1
  end
end
reply[1] = struct.pack('>dHHHHH', now, #reply[2], #reply[3], claims, views, math.min(repaired, 65535))
return table.concat(reply)
