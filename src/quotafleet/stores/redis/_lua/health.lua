-- What the processes of a fleet tell each other: who is there, who is ill, who probes, which owners
-- are one.
-- Layout 3. Times: microseconds of this server's clock; -1 = never. It stands alone.
--
-- KEYS[1]: `quotafleet:3:<namespace>:{!}`. Below it
--   health     hash: a record for each subject, and under `v` the version of the newest
--   processes  hash: of each process since when it runs, and what it says of itself
--   alive      sorted set: processes by the instant until which they are taken for alive
--
-- ARGV[1] numbers: the version that the caller knows (-1 = none), for how long a claim on a probe
-- lasts, for how long what has ended is remembered, the same of merged owners, for how long the
-- process runs (-1 = it ends now), for how long it is taken for alive; [2] the process; [3] the
-- channel on which changes are announced; [4] what the process says of itself; then for each thing
-- that is told six: what (`tell` or `claim`), subject, state, for how long, openings, reason.
--
-- The answer: the version, how many processes are alive, how many things were told, what stands now
-- for each of them, then of each record that is newer than what the caller knows the subject and the
-- record.
--
-- The last word counts, but for two cases. What is milder does not hide what is worse and still in
-- force, unless it comes from who probed. And a claim is given to one process: the others are told
-- what stands.

local RECORD = '>ddddsss' -- until, openings, version, forgotten at, state, by, reason
local AT_ONCE = 50000 -- microseconds before its end at which a rest counts as ended
local WEIGHT = { closed = 0, open = 1, parked = 2, dead = 3 }

local known, claim_for, kept_for, merged_for, runs_for, alive_for =
  struct.unpack('>dddddd', ARGV[1])
local process, channel, key = ARGV[2], ARGV[3], KEYS[1] .. 'health'
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local version = tonumber(redis.call('HGET', key, 'v') or 0)
local changed = false

local function parse(packed)
  if not packed then return nil end
  local r = {}
  r.until_at, r.openings, r.version, r.forgotten_at, r.state, r.by, r.reason =
    struct.unpack(RECORD, packed)
  return r
end

local function packed_with(r, until_at)
  return struct.pack(RECORD, until_at, r.openings, r.version, r.forgotten_at, r.state, r.by, r.reason)
end

local function write(subject, r)
  local lasts = (r.state == 'merged') and merged_for or kept_for
  r.forgotten_at = math.max(now, r.until_at) + lasts
  redis.call('HSET', key, subject, packed_with(r, r.until_at))
  local least = math.ceil((r.forgotten_at - now) / 1000)
  if redis.call('PTTL', key) < least then redis.call('PEXPIRE', key, least) end
end

local function change(subject, r)
  version = math.max(now, version + 1) -- goes up also after what was stored is lost
  r.version, r.by, changed = version, process, true
  redis.call('HSET', key, 'v', string.format('%.0f', version))
  write(subject, r)
end

local function in_force(r) return r.until_at < 0 or r.until_at > now end

local function tell(subject, state, after, openings, reason)
  local r = parse(redis.call('HGET', key, subject))
  local until_at = after < 0 and -1 or now + after
  if state == 'probing' then -- the claim lasts on; nobody needs to know
    if r and r.state == 'probing' and r.by == process then
      r.until_at = now + claim_for
      write(subject, r)
    end
    return r
  end
  if r and r.state == state and (state == 'closed' or (state == 'merged' and r.reason == reason)) then
    write(subject, r)
    return r
  end
  if r and r.by ~= process and in_force(r) and WEIGHT[state] and state ~= 'closed' then
    local weighs = WEIGHT[r.state] or 0
    local as_long = r.until_at < 0 or (until_at >= 0 and r.until_at >= until_at)
    if weighs > WEIGHT[state] or (weighs == WEIGHT[state] and as_long) then return r end
  end
  r = { until_at = until_at, openings = openings, state = state, reason = reason }
  change(subject, r)
  return r
end

local function claim(subject)
  local r = parse(redis.call('HGET', key, subject))
  if r and (r.state == 'closed' or (r.state == 'dead' and r.until_at < 0)) then return r end
  local mine = r and r.state == 'probing' and r.by == process
  if r and not mine and r.until_at > now + AT_ONCE then return r end
  r = r or { openings = 0, reason = '' }
  r.state, r.until_at = 'probing', now + claim_for
  change(subject, r)
  return r
end

local function shown(r)
  if not r then return '' end
  return packed_with(r, r.until_at < 0 and -1 or math.max(0, r.until_at - now))
end

local function beat()
  local about, alive = KEYS[1] .. 'processes', KEYS[1] .. 'alive'
  local gone = redis.call('ZRANGEBYSCORE', alive, '-inf', now, 'LIMIT', 0, 32)
  if runs_for < 0 then gone[#gone + 1] = process end
  for _, name in ipairs(gone) do
    redis.call('ZREM', alive, name)
    redis.call('HDEL', about, name)
  end
  if runs_for < 0 then return end
  redis.call('HSET', about, process, struct.pack('>d', now - runs_for) .. ARGV[4])
  -- The others are to know at once how many they are: it counts while this server is away.
  if redis.call('ZADD', alive, now + alive_for, process) == 1 then changed = true end
  for _, kept in ipairs({ about, alive }) do redis.call('PEXPIRE', kept, math.ceil(alive_for / 1000)) end
end

beat()
local answer = { '', string.format('%.0f', redis.call('ZCARD', KEYS[1] .. 'alive')), '' }
for i = 5, #ARGV, 6 do
  local what, subject, state = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local stands
  if what == 'claim' then
    stands = claim(subject)
  else
    stands = tell(subject, state, tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]), ARGV[i + 5])
  end
  answer[#answer + 1] = shown(stands)
end
answer[3] = string.format('%.0f', #answer - 3)
answer[1] = string.format('%.0f', version)

if version ~= known then
  if version < known then known = -1 end -- what was stored is lost
  local flat = redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    if flat[i] ~= 'v' then
      local r = parse(flat[i + 1])
      if r.forgotten_at < now then
        redis.call('HDEL', key, flat[i])
      elseif r.version > known then
        answer[#answer + 1] = flat[i]
        answer[#answer + 1] = shown(r)
      end
    end
  end
end
if changed then redis.call('PUBLISH', channel, process) end
return answer
