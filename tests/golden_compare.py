"""Our devices against the recorded answers of QEMU's.

    python -m tests.golden_compare full pit            differences grouped by cause
    python -m tests.golden_compare common pit --all    each one, with its context
    python -m tests.golden_compare FILE.jsonl.gz ...   recordings kept elsewhere
    ... --kinds                                        grouped by circumstances, too
    ... --engine reference                             on the reference engine

Exit status 1 if anything differs beyond the allowances of golden/README.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import get_args

from devc.runtime.machine import Engine

from . import golden_hpet, golden_pit, golden_pmtimer, golden_rtc
from .golden_report import Difference, explain, grouped
from .golden_traces import Answers, Trace, read, recorded, replay

COMPARISONS: dict[str, Callable[[Trace, Answers], list[Difference]]] = {
    "pit": golden_pit.compare,
    "pmtimer": golden_pmtimer.compare,
    "hpet": golden_hpet.compare,
    "rtc": golden_rtc.compare,
}
"""By the recordings' device: what finds the differences beyond the allowances."""


def differences(trace: Trace, engine: Engine = "native") -> tuple[Answers, list[Difference]]:
    """Replay a recording; our answers, and what differs beyond the allowances."""
    answers = replay(trace, engine)
    found = COMPARISONS[trace.meta["device"]](trace, answers)
    return answers, sorted(found, key=lambda difference: difference.at)


def check(trace: Trace, engine: Engine = "native") -> None:
    """AssertionError with the first difference in its context, if there is any."""
    answers, found = differences(trace, engine)
    assert not found, f"{len(found)} differences; the first:\n{explain(trace, answers, found[0])}"


def _traces(what: Sequence[str]) -> Iterator[Trace]:
    if what[0] in ("common", "full"):
        for device in what[1:] or COMPARISONS:
            yield from recorded(device, what[0])
    else:
        for name in what:
            path = Path(name)
            for file in sorted(path.rglob("*.jsonl*")) if path.is_dir() else [path]:
                yield from read(file)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare our devices with recorded answers of QEMU's.")
    parser.add_argument("what", nargs="+", help="common or full, and devices; or files and folders")
    parser.add_argument("--all", action="store_true", help="print every difference with its context")
    parser.add_argument("--kinds", action="store_true", help="group by circumstances, too")
    parser.add_argument("--engine", choices=get_args(Engine), default="native")
    options = parser.parse_args()
    every: list[tuple[Trace, Answers, Difference]] = []
    count = 0
    for trace in _traces(options.what):
        if trace.meta["device"] not in COMPARISONS:
            print(f"{trace.name}: no comparison for this device")
            continue
        answers, found = differences(trace, options.engine)
        count += len(trace.operations)
        every += [(trace, answers, difference) for difference in found]
    if options.all:
        print("\n\n".join(explain(*each) for each in every))
    print(grouped(every, options.kinds))
    print(f"{count} operations compared, {len(every)} differences")
    return bool(every)


if __name__ == "__main__":
    raise SystemExit(main())
