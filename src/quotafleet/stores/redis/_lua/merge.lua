-- Makes two organizations one: what both spent adds up, and calls in flight still settle.
-- Units: see bucket.lua, which stands before it; keys: see request.lua.
--
-- KEYS[1] the prefix of the one that goes, KEYS[2] of the one that stays. ARGV[1] numbers, see
-- bucket.lua; [2] the name of the one that stays. The answer: 0 = done; 1 or 2 and a name = the one that
-- goes, or the one that stays, was merged into another already.

local from, into = KEYS[1], KEYS[2]
local gone_owner, staying_owner = owner_of(from), owner_of(into)

local function merge_hash(family)
  local gone, stays = hash(gone_owner, family), hash(staying_owner, family)
  for _, name in ipairs(gone.names) do
    local other, b = bucket(gone, name), bucket(stays, name)
    if not other then -- it was damaged: nothing is known of it
    elseif b then
      needed(limits).learn(b, math.min(b.limit, other.limit), math.min(b.ceiling, other.ceiling))
      local spent = math.min(0, other.level - other.capacity + other.booked)
      b.level = b.level + math.floor(spent / other.scale * b.scale)
      b.pending = b.pending + other.pending
    else
      b = needed(limits).new_bucket(stays, name, other.metric, other.period, other.limit, other.ceiling,
        other.configured, other.burst)
      for key, value in pairs(other) do
        if key ~= 'hash' then b[key] = value end
      end
      b.booked = 0
    end
    if other then
      b.booked = b.booked + other.booked
      b.until_at = math.max(b.until_at, other.until_at)
      b.level = math.min(b.level, b.capacity - b.booked)
      touch(b)
    end
  end
  redis.call('DEL', gone.key)
end

for which, base in ipairs({ from, into }) do
  local moved = redis.call('HGET', base .. 'o', '>')
  if moved then return { which, moved } end
end
for _, family in ipairs(redis.call('SMEMBERS', from .. 'n')) do merge_hash(family) end
merge_hash(nil)
for _, h in pairs(staying_owner.hashes) do save_hash(h) end

local records = redis.call('HGETALL', from .. 'r')
for i = 1, #records, 2 do redis.call('HSET', into .. 'r', records[i], records[i + 1]) end
for _, kind in ipairs({ 'x', 't' }) do
  local scores = redis.call('ZRANGE', from .. kind, 0, -1, 'WITHSCORES')
  for i = 1, #scores, 2 do redis.call('ZADD', into .. kind, scores[i + 1], scores[i]) end
end
for _, kind in ipairs({ 'r', 'x', 't' }) do
  local left = redis.call('PTTL', from .. kind)
  if left > redis.call('PTTL', into .. kind) then redis.call('PEXPIRE', into .. kind, left) end
  redis.call('DEL', from .. kind)
end
redis.call('DEL', from .. 'n', from .. 'w', from .. 'v')
redis.call('HSET', from .. 'o', '>', ARGV[2])
redis.call('PEXPIRE', from .. 'o', KEPT_FOR)
return { 0 }
