-- Settlements: what was really used replaces what was taken, once. Units: see bucket.lua.

local ALONE, RESERVATION, SHARE = 2, 1, 3 -- what is told: what a process did alone; what it ends

-- Begins and ends what is due at an organization.
local function sweep(o)
  if o.swept then return end
  o.swept = true
  if healed('ZCOUNT', o.base .. 'x', '-inf', now) > 0 then needed(due).all(o) end
end

-- Replaces what one bucket has taken; `r` is what is known of that here.
local function replace(o, r, b, used, held, expired)
  local back = amount_of(b, held)
  if r then
    forget_booking(r, b)
    answer(r, b)
    if r.state == EXPIRED then back = 0 end
  elseif expired == 1 then
    back = 0
  elseif b.metric == SLOTS then -- else they are not taken here
    back = needed(lost).found(o, b, held) * b.scale
  end
  back = back - amount_of(b, used)
  if back ~= 0 then
    give_back(b, back)
    b.returned = b.returned + back
  end
  touch(b)
  if back > 0 and b.metric == SLOTS then o.freed = b end
end

-- Takes a settlement in; returns whether headers told that there is more.
--
-- It says: what it ends (0 = nothing), whether the process takes it for expired, whether it was
-- answered, whether that anchors, since when it flew, when its share was lent (-1 = it is none's),
-- the number of readings, whether it was refused; used and held amounts; readings, a refusal.
local function settle(a, id, text)
  local o = a.owner
  if string.byte(text) == ALONE then
    needed(alone).take_in(a, id, text)
    return false
  end
  local told = { struct.unpack('>BBBBddBBdddddddddddddd', text) }
  local ended, expired, answered, anchors, flew_for, lent_at, readings, refused = unpack(told, 1, 8)
  local used, held, at, more = 9, 16, told[23], false -- of the first metric
  if ended == SHARE then
    local left = { [0] = told[9], told[10], told[11], told[12], told[13], told[14], told[15] }
    needed(shares).finish(o, id, expired == 0 and left or nil)
    return false
  end
  local r = record(o, id)
  if answered == 1 then
    at, more = needed(answers).observe(a, r, text, at, readings, anchors, flew_for, lent_at)
  end
  local buckets = (not r or r.names == a.names) and a or each_bucket(r)
  if answered == 1 and r and r.answered == 0 then
    for _, b in ipairs(buckets) do
      answer(r, b)
      touch(b)
    end
    r.answered = 1
    if ended == 0 then keep_record(r) end
  end
  if ended == RESERVATION then
    for _, b in ipairs(buckets) do
      replace(o, r, b, told[used + b.metric], told[held + b.metric], expired)
    end
    if r then delete(r) end
  end
  if refused == 1 then needed(answers).refuse(a, r, text, at, flew_for) end
  return more
end
