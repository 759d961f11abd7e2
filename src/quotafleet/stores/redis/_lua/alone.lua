-- What a process did on its own, while this server was away. Units: see bucket.lua.

local function alone()
  -- Takes in what it spent of some buckets, or a reservation that it made and holds still. A bucket that
  -- was lost is made as the process knows it, in which both are counted already.
  local function alone(a, id, text)
    local known, costs, amounts, left, count, at = needed(lost), {}, {}, nil, nil, nil
    local c = costs
    left, count, c[0], c[1], c[2], c[3], c[4], c[5], c[6], at = struct.unpack('>dBddddddd', text, 2)
    for i = 1, count do
      amounts[i] = {}
      amounts[i].name, amounts[i].amount, at = struct.unpack('>sd', text, at)
    end
    if a.lacks then known.complete(a, string.sub(text, at)) end
    for _, spent in ipairs(amounts) do
      local b = bucket(a.wide, spent.name) or bucket(a.own, spent.name)
      if b and not b.made then
        local amount = amount_of(b, spent.amount)
        if b.metric == SLOTS then
          if amount > 0 then
            known.hold(a, b, spent.amount)
          else
            amount = -known.found(a.owner, b, -spent.amount) * b.scale
          end
        end
        give_back(b, -amount)
        b.taken = b.taken + amount
        touch(b)
      end
    end
    if left >= 0 then
      local r = new_record(a, id, costs, OPEN, now + left)
      r.answered = 1
      keep_record(r, r.expires_at)
      for _, b in ipairs(a) do
        if b.metric == SLOTS then known.found(a.owner, b, c[SLOTS]) end
      end
    end
  end

  return { take_in = alone }
end
