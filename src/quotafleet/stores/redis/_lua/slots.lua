-- Slots: what doesn't come back with time. The row of processes that wait for an organization's is the
-- sorted set `w`, by arrival. Units: see bucket.lua, keys: see request.lua.

local function slots()
  local TURN = 250000 -- microseconds for which a process goes on with the slots that it gives back
  local GONE_AFTER = 5000000 -- microseconds without a word, where a message doesn't say who heard it

  local looked = {}

  -- In a cluster a message goes to all nodes, and its sender learns only who listens at its own. There
  -- who waits has to ask now and then, and else has gone.
  local function without_the_gone(o)
    if clustered == 0 or looked[o] then return end
    looked[o] = true
    local gone = healed('ZRANGEBYSCORE', o.base .. 'v', '-inf', now - GONE_AFTER)
    if #gone > 0 then
      healed('ZREM', o.base .. 'v', unpack(gone))
      healed('ZREM', o.base .. 'w', unpack(gone))
    end
  end

  -- Whether this process may take the slot that it gives back in this step, though others wait: until
  -- the first of them has waited for a turn. Else each slot would take two steps, one to free it and
  -- one to take it.
  local function goes_on(o)
    if not o.freed then return false end
    local first = healed('ZRANGE', o.base .. 'w', 0, 0, 'WITHSCORES')
    return not first[2] or now - first[2] < TURN
  end

  -- Whether those that came before leave a call a free slot.
  local function is_left(o, b, cost)
    without_the_gone(o)
    local rank = healed('ZRANK', o.base .. 'w', process) or healed('ZCARD', o.base .. 'w')
    return b.level >= amount_of(b, cost) + rank * b.scale or goes_on(o)
  end

  local function wait(o)
    healed('ZADD', o.base .. 'w', 'NX', now, process)
    lasts_for(o.base .. 'w', keep)
    if clustered == 1 then
      healed('ZADD', o.base .. 'v', now, process)
      lasts_for(o.base .. 'v', keep)
    end
  end

  -- Others of this process may wait on: behind all that wait now.
  local function go_to_the_back(o) healed('ZADD', o.base .. 'w', 'XX', now, process) end

  -- Nobody waits here any more: the next one's turn.
  local function leave(o)
    healed('ZREM', o.base .. 'w', process)
    if clustered == 1 then healed('ZREM', o.base .. 'v', process) end
    local wide = hash(o)
    for _, name in ipairs(wide.names) do
      local b = bucket(wide, name)
      if b.metric == SLOTS then o.freed = b end
    end
  end

  -- Wakes as many of the processes that wait as there are slots. Who doesn't listen has gone.
  local function tell(o)
    without_the_gone(o)
    local free = math.floor(o.freed.level / o.freed.scale)
    local key, told = o.base .. 'w', 0
    while told < free do
      local waiting = healed('ZRANGE', key, told, told)[1]
      if not waiting then return end
      if redis.call('PUBLISH', channels .. waiting, o.base) > 0 or clustered == 1 then
        told = told + 1
      else
        healed('ZREM', key, waiting)
      end
    end
  end

  return { is_left = is_left, wait = wait, go_to_the_back = go_to_the_back, leave = leave, tell = tell }
end
