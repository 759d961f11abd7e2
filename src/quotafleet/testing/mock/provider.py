"""The mock provider: OpenAI's admission, charge by charge, without I/O or a clock of its own.

One request goes through these steps, in this order:

     1  key unknown or revoked, address not allowed   401, nothing charged
     2  faults on order                               any answer, or none
     3  model unknown, or not for this project        404 / 400 / 403, nothing charged
     4  credits or a spend limit used up              429 insufficient_quota
     5  estimate                                      by the cost profile of model and endpoint
     6  more than a whole bucket holds                429 "Request too large"
     7  every bucket, project first, in order         429 "Rate limit reached", or all debited
     8  traffic rose too fast                         429 slow_down
     9  parameters wrong, context too long            400, charged
    10  answer planned; the caller lets time pass
    11  `finish` or `abort`: usage settled, money spent

Given a clock with `now()` and a seed it does the same thing every time: in a simulation that
moves the clock itself, and behind the HTTP server in real time.
"""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from random import Random
from typing import Final

from ..._clock import Clock
from . import errors
from .accounts import (
    DIMENSIONS,
    RPM,
    TOKEN_DIMENSIONS,
    AccountStates,
    Cost,
    KeyState,
    LimitChain,
    MeteredLimit,
)
from .call import MockCall, MockRequest
from .cost import PROFILES, CostProfile
from .errors import LimitOwner, LimitShortage, MockError
from .exchange import Dialect, Exchange, Levels, MockRoute
from .faults import EVERY, REFUSING, MockFault, OrderQueue, OrderT, RequestMatch
from .fleet import MockFleet
from .openai import OPENAI
from .report import report
from .scripts import ScriptedAnswer, ToolCall, compose
from .settings import MockSettings

_MILLION: Final = Decimal(1_000_000)


class MockProvider:
    """A provider with a fleet of accounts; thread-safe, deterministic, and free of I/O.

    Args:
        fleet: the accounts and models that exist.
        clock: anything with `now()` in monotonic seconds.
        seed: draws lengths, latencies, ids and texts.
        settings: what the recorded traffic leaves open.
        dialect: whose API it speaks.
    """

    def __init__(
        self,
        fleet: MockFleet,
        *,
        clock: Clock,
        seed: int = 0,
        settings: MockSettings = MockSettings(),  # noqa: B008  (frozen)
        dialect: Dialect = OPENAI,
    ) -> None:
        self.fleet = fleet
        self.clock = clock
        self.seed = seed
        self.settings = settings
        self.dialect = dialect
        self._lock = threading.Lock()  # guards everything below; held for arithmetic only
        self._start()

    def _start(self) -> None:
        self.accounts = AccountStates(self.fleet, self.settings, now=self.clock.now())
        self.random = Random(self.seed)
        self.faults: OrderQueue[MockFault] = OrderQueue()
        self.scripts: OrderQueue[ScriptedAnswer] = OrderQueue()
        self.received = 0
        self.admitted = 0
        self.completed = 0
        self.aborted = 0
        self.refused = 0  # answers with 429
        self.rejected: Counter[str] = Counter()

    # -- requests

    def begin(self, request: MockRequest) -> Exchange:
        """Take in an HTTP request and decide at once whether it is admitted."""
        found = self.dialect.find(request.method, request.path)
        secret = request.secret
        if secret is None:
            return self._refused_early(self.dialect.no_key())
        if found is None:
            return self._refused_early(self.dialect.no_route(request.method, request.path))
        route, target = found
        call = route.read(request, target)
        if isinstance(call, MockError):
            known = secret in self.accounts.keys
            return self._refused_early(call if known else errors.invalid_api_key(secret))
        return self.admit(call)

    def admit(self, call: MockCall) -> Exchange:
        """Decide on a call whose facts are known; what `begin` does after reading the request."""
        with self._lock:
            self.received += 1
            exchange = Exchange(self, call, self.received, self.clock.now())
            self.accounts.catch_up(exchange.admitted_at)
            exchange.route = route = self.dialect.routes[call.endpoint]
            key = self.accounts.keys.get(call.secret)
            if key is None or key.revoked:
                return self._reject(exchange, key, errors.invalid_api_key(call.secret))
            if key.spec.ip_allow is not None and call.client_ip not in key.spec.ip_allow:
                return self._reject(exchange, key, errors.ip_not_authorized())
            exchange.key = key
            if route.perform is not None:
                return self._perform(exchange, route, key)
            return self._meter(exchange, route, key)

    def settle(self, exchange: Exchange, output_tokens: int, *, aborted: bool) -> None:
        """Complete an admitted call: true up its tokens and bill it. `Exchange.finish` calls it."""
        with self._lock:
            self.completed += not aborted
            self.aborted += aborted
            chain = exchange.chain
            if chain is None:
                return
            chain.key.in_flight -= 1
            now = self.clock.now()
            for _, limiter in chain.shown:
                limiter.refill(now)
            if self._trues_up(exchange.profile):
                self._true_up(chain, exchange, output_tokens, now)
            self._bill(chain, exchange.call, output_tokens)
            exchange.final_levels = chain.levels()

    # -- orders and reports

    def inject(self, *faults: MockFault) -> None:
        """Put faults at the end of the list of those to come."""
        with self._lock:
            self.faults.add(faults)

    def clear_faults(self) -> None:
        """Forget the faults that are still to come."""
        with self._lock:
            self.faults.clear()

    def script(
        self,
        text: str | None = None,
        *,
        tool_calls: Iterable[ToolCall] = (),
        output_tokens: int | None = None,
        match: RequestMatch = EVERY,
        times: int | None = 1,
    ) -> None:
        """Fix the next answer that matches: its text, its tool calls or only its length."""
        script = ScriptedAnswer(
            text=text,
            tool_calls=tuple(tool_calls),
            output_tokens=output_tokens,
            match=match,
            times=times,
        )
        self.add_scripts((script,))

    def add_scripts(self, scripts: Iterable[ScriptedAnswer]) -> None:
        """Put scripts at the end of the list of answers to come."""
        with self._lock:
            self.scripts.add(scripts)

    def clear_scripts(self) -> None:
        """Forget the answers that are still to come."""
        with self._lock:
            self.scripts.clear()

    def revoke(self, key: str, *, revoked: bool = True) -> None:
        """Revoke a key, given its name or secret; or restore it.

        Raises:
            KeyError: there is no such key.
        """
        state = self.accounts.named(key)
        if state is None:
            raise KeyError("no such key")
        state.revoked = revoked

    def reset(self) -> None:
        """Forget everything that happened: full buckets, no faults, the seed from its start."""
        with self._lock:
            self._start()

    def state(self) -> dict[str, object]:
        """Report levels and counters, ready for JSON: the oracle that tests compare with."""
        with self._lock:
            now = self.clock.now()
            self.accounts.catch_up(now)
            counters = {
                "received": self.received,
                "admitted": self.admitted,
                "completed": self.completed,
                "aborted": self.aborted,
                "refused": self.refused,
                "rejected": dict(self.rejected),
                "faults_waiting": len(self.faults),
                "scripts_waiting": len(self.scripts),
            }
            return report(self.accounts, counters, now)

    # -- the steps of admission

    def _perform(self, exchange: Exchange, route: MockRoute, key: KeyState) -> Exchange:
        assert route.perform is not None
        result = route.perform(self.accounts, exchange.call)
        if isinstance(result, MockError):
            return self._reject(exchange, key, result)
        exchange.resolve(result)
        self.admitted += 1
        return exchange

    def _meter(self, exchange: Exchange, route: MockRoute, key: KeyState) -> Exchange:
        call, now = exchange.call, exchange.admitted_at
        fault = self._pick(self.faults, key, call, now) if self.faults else None
        chain = self.accounts.chain(key, call.model, call.ask.input_tokens)
        if fault is not None:
            exchange.fault = fault
            if fault.action in REFUSING:
                return self._fail(exchange, key, chain, fault, now)
        if chain is None:
            responses = call.endpoint == "responses"
            problem = errors.model_not_found(call.model, responses=responses)
            return self._reject(exchange, key, problem)
        barred = _barred(chain)
        if barred is not None:
            return self._reject(exchange, key, barred)
        exchange.chain = chain
        exchange.profile = chain.profile(route.endpoint, route.profile)
        tokens = exchange.profile.estimate(call.ask, chain.spec.name)
        cost = _cost(call, tokens)
        short = chain.charge(cost, now)
        levels = chain.levels()
        if short is not None:
            problem = self._shortage(chain, short, cost)
            return self._reject(exchange, key, problem, chain.levels())
        late = self._after_charge(exchange, chain, route, now)
        if late is not None:
            return self._reject(exchange, key, late, levels)
        exchange.admit(tokens, levels)
        self._count_in(chain, tokens, now)
        self._plan(exchange, route)
        return exchange

    def _shortage(self, chain: LimitChain, short: MeteredLimit, cost: Cost) -> MockError:
        huge = next((m for m in chain.meters if cost[m.index] > m.shown.limit), None)
        if huge is not None:
            shortage = _shortage(huge, cost[huge.index])
            problem = errors.too_large(_where(chain, huge), shortage)
        else:
            need, scale = cost[short.index], chain.rules.delay_scale
            write = errors.rate_limited
            if short.dimension.name == "ipm" and chain.model.startswith("dall-e"):
                write = errors.dalle_limited
            shortage = _shortage(short, need, scale)
            problem = write(_where(chain, short), shortage, short.wait_s(need) * scale)
        if not chain.rules.stated:
            problem = errors.unstated(problem)
        chain.charge_refusal()
        return problem

    def _after_charge(
        self, exchange: Exchange, chain: LimitChain, route: MockRoute, now: float
    ) -> MockError | None:
        """Refuse what was charged already: too steep a rise, or parameters that are wrong."""
        call = exchange.call
        tokens = call.ask.input_tokens
        if chain.ramp is not None and not chain.ramp.admits(now, tokens):
            return errors.slow_down(self.random.randint(5, 30))
        flaw = call.flaw
        whole = call.endpoint != "embeddings"  # these read each input by itself
        if flaw is None and whole and tokens > chain.spec.context_tokens:
            responses = call.endpoint == "responses"
            flaw = errors.context_length(chain.spec.context_tokens, tokens, responses=responses)
        if flaw is None:
            return None
        return replace(flaw, limited=True) if route.flaw_headers else flaw

    def _count_in(self, chain: LimitChain, tokens: int, now: float) -> None:
        self.admitted += 1
        chain.key.admitted += 1
        chain.key.in_flight += 1
        second = int(now - self.accounts.started_at)
        for seconds in chain.admitted:
            counts = seconds.setdefault(second, [0, 0])
            counts[0] += 1
            counts[1] += tokens

    def _plan(self, exchange: Exchange, route: MockRoute) -> None:
        """Decide what is answered and how long that takes."""
        call, settings = exchange.call, self.settings
        if route.generates:
            exchange.output_tokens = self._draft(exchange)
        factor = 1.0
        if settings.jitter:
            factor += settings.jitter * (2 * self.random.random() - 1)
        exchange.ttft_s = settings.ttft_s * factor
        exchange.latency_s = exchange.ttft_s
        if settings.tokens_per_s:
            each = exchange.output_tokens / max(1, call.ask.n)
            exchange.latency_s += each / settings.tokens_per_s * factor
        if exchange.fault is not None:
            _break(exchange, exchange.fault)

    def _pick(
        self, orders: OrderQueue[OrderT], key: KeyState, call: MockCall, now: float
    ) -> OrderT | None:
        return orders.pick(key.spec.name, call, now - self.accounts.started_at, self.random)

    def _draft(self, exchange: Exchange) -> int:
        """Write the answers, if the request has a body, and return their length in tokens."""
        call = exchange.call
        script = None
        if self.scripts and exchange.chain is not None:
            script = self._pick(self.scripts, exchange.chain.key, call, exchange.admitted_at)
        if call.body is None:
            return self._length(call, script, self.random)
        # From the body, not from its turn: concurrent clients get the same texts every run.
        digest = zlib.crc32(repr(call.body).encode(errors="surrogatepass"), self.seed & 0xFFFFFFFF)
        random = Random(digest)
        length = self._length(call, script, random)
        exchange.answers = tuple(compose(call, length, script, random) for _ in range(call.ask.n))
        return sum(answer.tokens for answer in exchange.answers)

    def _length(self, call: MockCall, script: ScriptedAnswer | None, random: Random) -> int:
        if script is not None and script.output_tokens is not None:
            return script.output_tokens
        if call.output_tokens is not None:
            return call.output_tokens
        drawn = max(1, round(self.settings.output_tokens * (0.5 + random.random())))
        cap = call.ask.max_tokens
        return drawn if cap is None else max(1, min(drawn, cap))

    # -- refusals

    def _refused_early(self, problem: MockError) -> Exchange:
        with self._lock:
            self.received += 1
            call = MockCall(secret="", endpoint="models")
            exchange = Exchange(self, call, self.received, self.clock.now())
            return self._reject(exchange, None, problem)

    def _reject(
        self,
        exchange: Exchange,
        key: KeyState | None,
        problem: MockError,
        levels: Levels = (),
    ) -> Exchange:
        self.rejected[problem.reason] += 1
        self.refused += problem.status == 429
        if key is not None:
            key.rejected[problem.reason] += 1
        exchange.refuse(problem, levels)
        return exchange

    def _fail(
        self,
        exchange: Exchange,
        key: KeyState,
        chain: LimitChain | None,
        fault: MockFault,
        now: float,
    ) -> Exchange:
        """Answer with the refusal that a fault orders; no bucket is touched."""
        if fault.action == "reset_conn":
            exchange.drop = "reset"
            exchange.status = 0
            exchange.done = True
            self.rejected["reset_conn"] += 1
            key.rejected["reset_conn"] += 1
            return exchange
        if fault.action == "revoke_key":
            key.revoked = True
        exchange.chain = chain
        if chain is not None:
            for meter in chain.meters:
                meter.refill(now)
            exchange.profile = PROFILES["chat_2025"]  # shows requests and tokens
        problem = _ordered(fault, exchange.call, chain)
        return self._reject(exchange, key, problem, chain.levels() if chain else ())

    # -- completion

    def _trues_up(self, profile: CostProfile) -> bool:
        return profile.true_up if self.settings.true_up is None else self.settings.true_up

    def _true_up(
        self, chain: LimitChain, exchange: Exchange, output_tokens: int, now: float
    ) -> None:
        """Debit what the call used beyond its estimate, or give back the rest."""
        extra = exchange.call.ask.input_tokens + output_tokens - exchange.cost
        for meter in chain.meters:
            if meter.index in TOKEN_DIMENSIONS:
                meter.refill(now)
                meter.take(extra)

    def _bill(self, chain: LimitChain, call: MockCall, output_tokens: int) -> None:
        spec = chain.spec
        if spec.input_usd or spec.output_usd:
            usd = spec.input_usd * call.ask.input_tokens + spec.output_usd * output_tokens
            chain.key.org.spend(usd / _MILLION)
            chain.key.project.month_spend_usd += usd / _MILLION


def _cost(call: MockCall, tokens: int) -> Cost:
    """Return what the call takes from each dimension, in the order of `DIMENSIONS`."""
    if call.endpoint == "images":
        return (1, 1, 0, call.ask.n, tokens, tokens)
    return (1, 1, call.ask.images, 0, tokens, tokens)


def _barred(chain: LimitChain) -> MockError | None:
    """Refuse a model that the project may not use, and owners whose money is spent."""
    org, project = chain.key.org, chain.key.project
    allowed = project.spec.allowed_models
    if allowed is not None and not allowed & {chain.model, chain.spec.name}:
        return errors.model_denied(project.spec.id, chain.model)
    if org.credits_usd is not None and org.credits_usd <= 0:
        return errors.credit_balance_exhausted()
    if _reached(org.month_spend_usd, org.spec.spend_limit_usd):
        return errors.organization_spend_limit_exceeded()
    if _reached(org.month_spend_usd, org.spec.usage_limit_usd):
        return errors.organization_usage_limit_exceeded()
    if _reached(project.month_spend_usd, project.spec.spend_limit_usd):
        return errors.project_spend_limit_exceeded()
    return None


def _reached(spent: Decimal, limit: Decimal | None) -> bool:
    return limit is not None and spent >= limit


def _where(chain: LimitChain, meter: MeteredLimit) -> LimitOwner:
    where = chain.where
    if not meter.of_project:
        return where
    return LimitOwner(
        model=where.model,
        org=where.org,
        project=chain.key.project.spec.id,
        family=where.family,
        free=where.free,
    )


def _shortage(meter: MeteredLimit, need: int, scale: float = 1.0) -> LimitShortage:
    dimension = meter.dimension
    return LimitShortage(
        label=dimension.label,
        type=dimension.type,
        limit=round(meter.shown.limit),
        used=meter.shown.used,
        requested=need,
        period_s=meter.shown.period_s,
        reason=dimension.name,
        scale=scale,
    )


def _break(exchange: Exchange, fault: MockFault) -> None:
    match fault.action:
        case "timeout":
            exchange.drop, exchange.hold_s, exchange.status = "timeout", fault.seconds, 0
        case "stream_truncate":
            exchange.drop = "truncate"
        case _:  # headers that are wrong and errors in a stream are written when their turn comes
            pass


def _ordered(fault: MockFault, call: MockCall, chain: LimitChain | None) -> MockError:
    """Return the refusal that a fault orders, with the numbers of the lane it befalls."""
    match fault.action:
        case "429_rpm":
            problem = _as_if_short(RPM, call, chain)
        case "429_tpm":
            problem = _as_if_short(TOKEN_DIMENSIONS[0], call, chain)
        case "too_large":
            limit, where, shortage = _invented(TOKEN_DIMENSIONS[0], call, chain)
            problem = errors.too_large(where, replace(shortage, requested=limit + 1))
        case "slow_down":
            problem = errors.slow_down()
        case "overloaded":
            problem = errors.overloaded()
        case "revoke_key":
            problem = errors.invalid_api_key(call.secret)
        case "quota":
            problem = errors.FIXED[fault.code or "insufficient_quota"]()
        case "refuse":
            problem = errors.refusal(fault.status, fault.code, fault.message, fault.body)
        case "error" if fault.code is not None:
            problem = errors.FIXED[fault.code]()
        case _:
            problem = errors.server_error()
    if fault.retry_after_s is None:
        return problem
    return replace(problem, retry_after_s=fault.retry_after_s)


def _as_if_short(index: int, call: MockCall, chain: LimitChain | None) -> MockError:
    """Refuse as if the bucket were empty."""
    _, where, shortage = _invented(index, call, chain)
    return errors.rate_limited(where, shortage, shortage.delay_s)


def _invented(
    index: int, call: MockCall, chain: LimitChain | None
) -> tuple[int, LimitOwner, LimitShortage]:
    """Describe an empty bucket of that dimension, though there may be none."""
    meter = chain.meter(index) if chain is not None else None
    dimension = DIMENSIONS[index]
    limit = round(meter.shown.limit) if meter is not None else 500
    where = chain.where if chain is not None else LimitOwner(model=call.model, org="org-mock")
    shortage = LimitShortage(
        label=dimension.label,
        type=dimension.type,
        limit=limit,
        used=limit,
        requested=1 if index == RPM else max(1, call.ask.input_tokens),
        period_s=dimension.period_s,
        reason=dimension.name,
    )
    return limit, where, shortage
