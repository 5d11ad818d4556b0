"""The long mode: so many accesses over the wired machine, on all engines.

    python -m tests.fuzz --accesses 1000000 --seed 1
    python -m tests.fuzz --kernel                   eBPF in the running kernel must take part
    python -m tests.fuzz --replay FILE              a program that was printed before

The kernel takes part where it lets us, if nothing is said. Progress is shown on
stderr; the last line of the output says what was done and what was found. Exit
status 1 if an invariant is broken: a program that shows it, made as small as a
minute allows, is printed before.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import resource
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from devc.runtime import bpf
from devc.runtime.machine import Engine
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from .board import ENGINES, KERNEL, VARIANTS, Board, shipped
from .campaign import Explorer, Finding, Reached, replay, shrunk
from .lockstep import Counts


@dataclass(frozen=True)
class Report:
    """What one process did in the end."""

    counts: list[Counts]
    reached: Reached
    finding: Finding | None


def explore(seed: int, accesses: int, engines: tuple[Engine, ...], talk: Any) -> None:
    """One process: tells how many accesses it has made, and in the end its report."""
    explorer = Explorer(seed, engines=engines)
    finding = explorer.explore(accesses, lambda done: talk.put((seed, done)))
    talk.put((seed, Report(explorer.counts, explorer.reached, finding)))


class Campaign:
    """The processes and what they said."""

    def __init__(self, accesses: int, seed: int, jobs: int, engines: tuple[Engine, ...]) -> None:
        self.accesses = accesses
        self.engines = engines
        self.talk: Any = multiprocessing.Queue()
        self.done: dict[int, int] = {}
        self.reports: dict[int, Report] = {}
        for kind in shipped():  # compiled once, before the processes part
            kind.code, kind.probe  # noqa: B018
            if KERNEL in engines:
                kind.image  # noqa: B018
        share = -(-accesses // jobs)
        self.processes = {
            number: multiprocessing.Process(
                target=explore, args=(number, share, engines, self.talk), daemon=True
            )
            for number in range(seed * 1000, seed * 1000 + jobs)
        }

    def run(self) -> None:
        """Until every process is done, or one has found something."""
        columns = (
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("accesses", total=self.accesses)
            for process in self.processes.values():
                process.start()
            while len(self.reports) < len(self.processes) and not self.finding:
                self._listen()
                progress.update(task, completed=min(sum(self.done.values()), self.accesses))
        for process in self.processes.values():
            if self.finding:
                process.terminate()
            process.join()

    def _listen(self) -> None:
        try:
            number, said = self.talk.get(timeout=5)
        except queue.Empty:
            for number, process in self.processes.items():
                if number not in self.reports and not process.is_alive():
                    raise SystemExit(f"process {number} died with status {process.exitcode}") from None
            return
        if isinstance(said, Report):
            self.reports[number] = said
            self.done[number] = sum(counts.accesses for counts in said.counts)
        else:
            self.done[number] = said

    @property
    def finding(self) -> Finding | None:
        return next((report.finding for report in self.reports.values() if report.finding), None)

    def total(self) -> tuple[Counts, Reached]:
        counts, reached = Counts(), Reached()
        for report in self.reports.values():
            reached.add(report.reached)
            for each in report.counts:
                for name in (f.name for f in fields(Counts) if f.name != "work"):
                    setattr(counts, name, getattr(counts, name) + getattr(each, name))
                for device, work in each.work.items():
                    counts.work[device] = max(work, counts.work.get(device, 0))
        return counts, reached


def figure(campaign: Campaign, seconds: float, seed: int) -> str:
    """The last line."""
    counts, reached = campaign.total()
    blocks = sum(kind.probe.blocks for kind in shipped())
    found = (
        f"BROKEN: {campaign.finding.invariant}" if campaign.finding else "no difference, no broken invariant"
    )
    return (
        f"{counts.accesses} accesses ({counts.reads} reads, {counts.writes} writes)"
        f" on {', '.join(campaign.engines)},"
        f" {counts.steps} time steps ({counts.jumps} over more deadlines than were walked),"
        f" {counts.probes} splits on copies,"
        f" {counts.restores} saves and restores, {counts.edges} edges;"
        f" {len(reached.blocks)} of {blocks} blocks and {len(reached.states)} kinds of state reached;"
        f" {seconds:.0f} s ({_worked():.0f} s of work) in {len(campaign.processes)} processes,"
        f" seed {seed}: {found}"
    )


def _worked() -> float:
    """Seconds of CPU time, which say more than the clock's on a machine that has other things to do."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def show(finding: Finding, engines: tuple[Engine, ...]) -> None:
    board = Board(VARIANTS[finding.variant], engines=engines)
    small = shrunk(board, finding)
    print(f"{small.message}\non {board.variant}, after")
    for op in small.program:
        print(f"    {op!r}")
    print(f"to see it again, --replay a file with\n{small.text}")


def chosen(kernel: bool | None) -> tuple[Engine, ...]:
    """The engines: the kernel's too if it is asked for, or if nothing is said and it is to be had."""
    if kernel is False:
        return ENGINES
    try:
        bpf.available()
    except bpf.BpfUnavailable as error:
        if kernel:
            raise SystemExit(f"the kernel cannot take part: {error}") from None
        print(f"without the kernel: {error}", file=sys.stderr)
        return ENGINES
    return (*ENGINES, KERNEL)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--accesses", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--kernel", action=argparse.BooleanOptionalAction, help="eBPF in the running kernel, too"
    )
    parser.add_argument("--replay", type=Path, help="a file with a program that was printed before")
    options = parser.parse_args()
    engines = chosen(options.kernel)
    if options.replay:
        saved = json.loads(options.replay.read_text())
        board = Board(VARIANTS[saved["variant"]], engines=engines)
        broken = replay(board, [tuple(op) for op in saved["program"]])
        print(broken or "nothing is broken")
        return bool(broken)
    began = time.monotonic()
    campaign = Campaign(options.accesses, options.seed, max(1, options.jobs), engines)
    campaign.run()
    if campaign.finding:
        show(campaign.finding, engines)
    print(figure(campaign, time.monotonic() - began, options.seed))
    return bool(campaign.finding)


if __name__ == "__main__":
    raise SystemExit(main())
