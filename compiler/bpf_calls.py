"""Which functions stay by themselves in an eBPF object, and which calls become part of the caller.

The verifier takes a function by itself once, however often it is called, but
a chain of calls may be only eight frames deep, the program's own among them.
So large functions stay by themselves, and then the chains that are too deep are
shortened where that costs the least code.

On the way of a guest's access, calls are spared: each costs some nanoseconds.

Non-goals: the native engine's code (inlining.py), where nothing limits calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

SMALL = 30
"""A function of this weight is no larger than a call and what the call keeps from LLVM."""
HOT = 1000
"""Where a guest waits, a call of a function up to this weight is worth sparing."""
FRAMES = 6
"""Of the kernel's eight, the program and the batch's callback take one each."""


class Calls:
    """The plan for one module's functions.

    `weights`: LLVM instructions of each function; a callee stands before its
    callers. `calls`: how often each calls which. `accesses`: what becomes part of
    the programs, with as much of what it calls as is worth it. `roots`: what else
    programs call. `apart`: others that stay by themselves if they can. `loops`:
    those that do so even before them, as a loop within a loop takes the verifier
    long. `forced`: those that cannot be called.
    """

    def __init__(
        self,
        weights: Mapping[str, int],
        calls: Mapping[str, Counter[str]],
        *,
        accesses: Collection[str],
        roots: Collection[str],
        apart: Collection[str],
        loops: Collection[str],
        forced: Collection[str],
    ) -> None:
        self._own, self._calls = weights, calls
        self._sites: Counter[str] = sum(calls.values(), Counter())
        self._roots, self._accesses = frozenset(roots), frozenset(accesses)
        self._apart = frozenset(apart).union(loops, roots)
        self._merged: set[str] = set()
        self._forced = set(forced)
        self._hot = set(accesses)
        for name in reversed(list(weights)):
            if name in self._hot:
                self._hot |= set(calls.get(name, ())) - self._apart
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

    def takes(self, caller: str, callee: str) -> bool:
        """Whether the caller's calls of the callee become part of it."""
        hot = caller in self._hot and callee not in self._apart and self.weights[callee] <= HOT
        return hot or callee in self._merged

    def alone(self, name: str) -> bool:
        """Whether the function is called."""
        return name in self._roots or any(
            name in self._calls.get(caller, ()) and not self.takes(caller, name) for caller in self._own
        )

    def _decide(self) -> None:
        self.weights: dict[str, int] = {}
        self._merged = set(self._accesses)
        for name, weight in self._own.items():
            called = self._calls.get(name, Counter())
            weight += sum(self.weights[f] * n for f, n in called.items() if self.takes(name, f))
            self.weights[name] = weight
            small = name not in self._apart and (weight <= SMALL or self._sites[name] == 1)
            if small or (name in self._forced and name not in self._roots):
                self._merged.add(name)

    def _deepest(self) -> list[str]:
        """The longest chain of calls between functions that stay by themselves, outermost first."""
        chains: dict[str, list[str]] = {}
        for name in self._own:
            ways = (chains[f][self.takes(name, f) :] for f in self._calls.get(name, ()))
            chains[name] = [name, *max(ways, key=len, default=[])]
        starts = self._accesses | self._roots
        within = [chains[name][name in self._accesses :] for name in self._own if name in starts]
        return max(within, key=len, default=[])
