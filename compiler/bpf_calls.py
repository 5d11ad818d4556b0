"""Which functions stay by themselves in an eBPF object, and which become part of all their callers.

The verifier takes a function by itself once, however often it is called, but
a chain of calls may be only eight frames deep, the program's own among them.
So large functions stay by themselves, and then the chains that are too deep are
shortened where that costs the least code.

Non-goals: speed by inlining; a call costs a nanosecond or two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

SMALL = 30
"""A function of this weight is no larger than a call and what the call keeps from LLVM."""
FRAMES = 6
"""Of the kernel's eight, the program and the batch's callback take one each."""


class Calls:
    """The plan for one module's functions.

    `weights`: LLVM instructions of each function; a callee stands before its
    callers. `calls`: how often each calls which. `roots`: what programs call.
    `apart`: others that stay by themselves if they can. `loops`: those that do so
    even before them, as a loop within a loop takes the verifier long. `forced`:
    those that cannot be called.
    """

    def __init__(
        self,
        weights: Mapping[str, int],
        calls: Mapping[str, Counter[str]],
        roots: Collection[str],
        apart: Collection[str],
        loops: Collection[str],
        forced: Collection[str] = (),
    ) -> None:
        self._own, self._calls = weights, calls
        self._sites: Counter[str] = sum(calls.values(), Counter())
        self._roots = frozenset(roots)
        self._apart = frozenset(apart).union(loops)
        self._merged: set[str] = set()
        self._forced = set(forced)
        self._decide()
        while len(chain := self._deepest()) > FRAMES:
            costs = {
                name: (name in loops, self.weights[name] * (self._sites[name] - 1))
                for name in chain
                if name not in self._roots
            }
            if not costs:
                break
            self._forced.add(min(costs, key=costs.__getitem__))
            self._decide()

    @property
    def alone(self) -> frozenset[str]:
        """The functions that stay by themselves."""
        return frozenset(self._own) - self._merged

    def _decide(self) -> None:
        self.weights: dict[str, int] = {}
        self._merged = set()
        for name, weight in self._own.items():
            called = self._calls.get(name, Counter())
            weight += sum(self.weights[f] * n for f, n in called.items() if f in self._merged)
            self.weights[name] = weight
            small = name not in self._apart and (weight <= SMALL or self._sites[name] == 1)
            if name not in self._roots and (small or name in self._forced):
                self._merged.add(name)

    def _deepest(self) -> list[str]:
        """The longest chain of calls between functions that stay by themselves, outermost first."""
        chains: dict[str, list[str]] = {}
        for name in self._own:
            inner = max((chains[f] for f in self._calls.get(name, ())), key=len, default=[])
            chains[name] = inner if name in self._merged else [name, *inner]
        return max((chains[root] for root in self._roots), key=len, default=[])
