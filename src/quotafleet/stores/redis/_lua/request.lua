-- What one step of a fleet's shared ledger is asked for: settlements to be taken in, then claims.
--
-- KEYS[i]: the prefix of the i-th account's organization, `quotafleet:3:<namespace>:{<organization>}:`.
-- Below it
--   o            hash: buckets over all models (concurrent, spend), `>` = merged into another
--   f:<family>   hash: buckets of a model family, as `tpm` or `tpm@project`; `!` = nothing before
--   r            hash: reservations and shares by id
--   x            sorted set: ids by the instant when something is due: a booking's start, an expiry
--   t            sorted set: ids of expired reservations by the instant when they are forgotten
--   n            set: the families that have a hash
--   w            sorted set: processes that wait for a slot, by arrival
--   v            sorted set: the same by when they asked last, where messages tell nobody who hears
-- The last of KEYS is a prefix below which stands
--   s:<process>  string: the number of the last batch of settlements that was taken in.
-- On the channel `quotafleet:3:<namespace>:w:<process>` a process is told of slots that came free.
--
-- ARGV[1] is all in one, since each argument costs: what bucket.lua reads; then the batch's number
-- (-1 = there is none), for how long shares are lent, of which part of what is there; whether this is
-- a cluster's node, whether the process waits in any row, of which of KEYS it waits in the row no more (0 = none); how many accounts,
-- settlements and claims there are, where the accounts begin, the process.
-- Then of each settlement its account, its id, its length and what it says, see settle.lua.
-- Then of each claim, see `next_claim`. Accounts are told by their place, from 1 on.
-- Last of each account its length and what is configured of it, then the length of the levels at
-- which what it lacks is to be made, and those; 0 = it is not to be made.

local batch, lends_for, fraction, clustered, waited, leaves, accounts, settlements, claims
local accounts_at, process
batch, lends_for, fraction, clustered, waited, leaves, accounts, settlements, claims, accounts_at, process,
  position = struct.unpack('>dddBBHHHHI4s', ARGV[1], position)
local channels = string.match(KEYS[#KEYS], '^[^{]*') .. 'w:' -- the same for all owners

local opened, blobs, all_levels = {}, {}, {}

-- Returns the account at a place, as it stands now.
local function account(i)
  local a = opened[i]
  if not a then
    for k = #blobs + 1, i do -- as far as is needed: mostly the first candidate fits
      blobs[k], all_levels[k], accounts_at = struct.unpack('>I4c0I4c0', ARGV[1], accounts_at)
    end
    a = open_account(KEYS[i], blobs[i])
    opened[i] = a
  elseif not a.moved and a.known ~= #a.own.names + #a.wide.names then
    gather(a)
  end
  return a
end

-- Makes what an account lacks, if its process told how; returns whether it is whole.
local function is_whole(a, i)
  if a.lacks and all_levels[i] ~= '' then needed(lost).complete(a, all_levels[i]) end
  return not a.lacks
end

-- Reads the next claim: how many candidates it has, whether its answer was lost before, whether it
-- waits for slots, whether it wants shares, the instant up to which it books (in microseconds from
-- now, -1 = it doesn't), costs, its id, the account and id of a booking that is held (0 = none); then
-- the candidates' places in the order of the ranking, then of each the share that is wanted.
local function next_claim()
  local c, costs = {}, {}
  c.candidates, c.again, c.waits, c.lends, c.horizon, costs[0], costs[1], costs[2], costs[3],
    costs[4], costs[5], costs[6], c.id, c.holder, c.held, position =
    struct.unpack('>HBBBddddddddsHs', ARGV[1], position)
  c.costs, c.ranking = costs, position
  c.wanted = position + 2 * c.candidates
  position = c.wanted + 56 * c.candidates * c.lends
  return c
end

local function place_of(c, i)
  local high, low = string.byte(ARGV[1], c.ranking + 2 * i - 2, c.ranking + 2 * i - 1)
  return 256 * high + low
end

local function wanted_of(c, i)
  local want = {}
  want[0], want[1], want[2], want[3], want[4], want[5], want[6] =
    struct.unpack('>ddddddd', ARGV[1], c.wanted + 56 * (i - 1))
  return want
end
