"""What every strategy and every store must do, as tests that a subclass runs on its own.

    from quotafleet.testing.contracts import StrategyContract

    class TestMine(StrategyContract):
        def make(self, random):
            return Mine(random)

Give the subclass a name that pytest collects, override `make`, and run pytest. It needs the
packages pytest and hypothesis, which quotafleet itself doesn't.
"""

from .store import StoreContract
from .strategy import FakeOwner, StrategyContract

__all__ = ["FakeOwner", "StoreContract", "StrategyContract"]
