-- Shares: what a process may spend by itself, taken beforehand. Units: see bucket.lua.
-- `redis/_shares.py` says how they are used.

local function shares()
  local function is_over(r)
    for _, b in ipairs(each_bucket(r)) do
      local amount = amount_of(b, r.costs[b.metric])
      if r.state == LENT then b.booked = math.max(0, b.booked - amount) end
      b.pending = math.max(0, b.pending - amount)
      touch(b)
    end
    delete(r)
  end

  -- Gives back what is left of a share (`nil` = all of it). If it is over already, that is gone.
  local function finish(o, id, left)
    local r = record(o, id)
    if not r or r.state ~= LENT then return end
    for _, b in ipairs(each_bucket(r)) do
      local amount = amount_of(b, r.costs[b.metric])
      local back = left and math.min(math.floor(left[b.metric] * b.scale + 0.001), amount) or amount
      b.booked = math.max(0, b.booked - amount)
      b.pending = math.max(0, b.pending - back)
      give_back(b, back)
      b.returned = b.returned + back
      touch(b)
    end
    for metric = 0, 6 do r.costs[metric] = left and r.costs[metric] - left[metric] or 0 end
    r.state = SPENT
    keep_record(r)
  end

  -- Which part of the wanted share there is for this process: nothing where calls must ask, and where
  -- it would be less than two calls.
  local function share_of(a, costs, want)
    local part, nothing = 1, #a == 0 or now < a.not_before
    for _, b in ipairs(a) do
      local cost, amount = costs[b.metric], amount_of(b, want[b.metric])
      if amount > 0 then
        part = math.min(part, b.level * fraction / amount)
        nothing = nothing or b.gain == 0 or b.throttle < 1 or now < b.wary_until
      end
      if want[b.metric] * part < 2 * cost then nothing = true end
    end
    return nothing and 0 or part
  end

  -- Lends a part of what is wanted along with a reservation; returns which part.
  local function lend(a, id, costs, want)
    local part, share = share_of(a, costs, want), {}
    if part <= 0 then return 0 end
    for metric = 0, 6 do share[metric] = math.floor(want[metric] * part * 1e6) / 1e6 end
    for _, b in ipairs(a) do
      local amount = amount_of(b, share[b.metric])
      b.level = b.level - amount
      b.taken = b.taken + amount
      b.pending = b.pending + amount
      b.pending_before = b.pending_before + amount
      b.booked = b.booked + amount
      b.until_at = math.max(b.until_at, now + lends_for)
      touch(b)
    end
    local r = new_record(a, id .. 's', share, LENT, now + lends_for)
    keep_record(r, r.expires_at)
    return part
  end

  return { is_over = is_over, finish = finish, lend = lend }
end
