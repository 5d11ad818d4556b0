"""Which calls become part of their caller, where compile time counts.

LLVM's own inliner optimises each function on its way up the call graph, and
much of the code several times: half of its time. Here every call is decided
first, so that LLVM need optimise only what has become of it all.

Non-goals: the code of files (emit.py), which may take its time and LLVM's inliner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

SMALL = 30
"""A function of this weight is no larger than a call and what the call keeps from LLVM."""
HOT = 600
"""Where a guest waits, a call of a function up to this weight is worth sparing."""


class Inlining:
    """The calls between the functions of one module.

    `weights`: LLVM instructions of each function before optimisation; a callee
    stands before its callers. `calls`: how often each calls which. `apart`:
    functions that stay by themselves. `hot`: those that guests wait for; what
    they call is hot too. `exported`: functions needed by themselves as well.
    """

    def __init__(
        self,
        weights: Mapping[str, int],
        calls: Mapping[str, Counter[str]],
        apart: frozenset[str],
        hot: Iterable[str],
        exported: frozenset[str],
    ) -> None:
        self._apart = apart
        self._exported = exported
        self._sites = sum(calls.values(), Counter[str]())
        self._hot = set(hot) - apart
        for name in reversed(list(weights)):
            if name in self._hot:
                self._hot |= set(calls.get(name, ())) - apart
        self._weights: dict[str, int] = {}
        for name, weight in weights.items():
            taken = (
                self._weights[f] * n for f, n in calls.get(name, Counter()).items() if self.takes(name, f)
            )
            self._weights[name] = weight + sum(taken)

    def takes(self, caller: str, callee: str) -> bool:
        """Whether the caller's calls of the callee become part of it."""
        if callee in self._apart:
            return False
        weight = self._weights[callee]
        only = self._sites[callee] == 1 and callee not in self._exported
        return only or weight <= SMALL or (caller in self._hot and weight <= HOT)
