"""`devc bench`: how fast devc is, as ratios measured in one run.

The table goes to standard output, progress to standard error. In the JSON a
benchmark that could not run here is left out; the table says why. The exit
status says whether the benchmarks ran, not whether their targets are met: that
is `met` in the results.
"""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from ..bench import suite
from ..bench.result import FULL, QUICK, Benchmark, Disagreement, Report, Skipped, matching

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def bench(json: Path | None, only: str | None, quick: bool) -> int:
    """Run the benchmarks whose name contains `only`, and show them; the exit status.

    0: they ran; 1: two sides of a comparison did not do the same, or the JSON could
    not be written; 2: no benchmark has such a name; 130: interrupted, after showing
    what there is.
    """
    chosen = list(matching(suite.BENCHMARKS, only))
    if not chosen:
        names = "\n  ".join(b.name for b in suite.BENCHMARKS)
        print(f"devc bench: no benchmark's name contains {only!r}; there are:\n  {names}", file=sys.stderr)
        return USAGE
    done: list[Report | Skipped] = []
    status = 0
    try:
        _run(only, quick, len(chosen), done)
    except Disagreement as difference:
        print(f"devc bench: {difference}", file=sys.stderr)
        status = FAILED
    except KeyboardInterrupt:
        print("devc bench: interrupted", file=sys.stderr)
        status = INTERRUPTED
    if done:
        console = Console()
        console.print(table(done))
        for note in notes(done):
            console.print(note, style="dim", highlight=False)
    if json is not None and status != INTERRUPTED:
        status = max(status, _write(json, done))
    return status


def _run(only: str | None, quick: bool, count: int, done: list[Report | Skipped]) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=count)

        def starting(benchmark: Benchmark) -> None:
            progress.update(task, description=benchmark.name)

        for outcome in suite.run(QUICK if quick else FULL, only, starting):
            done.append(outcome)
            progress.advance(task)


def table(outcomes: list[Report | Skipped]) -> Table:
    """The results; ratios with their 95 % interval, and the best times that they are of."""
    shown = Table(title="Medians of interleaved pairs", caption=_caption(outcomes), caption_justify="left")
    shown.add_column("benchmark", overflow="fold")
    for heading in ("ratio", "95 %", "target", "met", "ours", "theirs"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for outcome in outcomes:
        if isinstance(outcome, Skipped):
            shown.add_row(outcome.name, *[""] * 3, "-", style="dim")
            continue
        result = outcome.result
        sign = "<=" if result.what.endswith(f"at most {result.target:g}") else ">="
        shown.add_row(
            result.name,
            _number(result.ratio),
            f"{_number(result.low)} .. {_number(result.high)}",
            f"{sign} {result.target:g}",
            "[green]yes[/]" if result.met else "[red]no[/]",
            outcome.ours,
            outcome.theirs,
        )
    return shown


def notes(outcomes: list[Report | Skipped]) -> Iterator[str]:
    """What the ratios are of, the limits of each way, and why some did not run."""
    for outcome in outcomes:
        if isinstance(outcome, Skipped):
            yield f"{outcome.name}: skipped, {outcome.reason}"
        else:
            compared = f" For comparison: {outcome.limits}." if outcome.limits else ""
            yield f"{outcome.result.name}: {outcome.result.what}.{compared}"


def _caption(outcomes: list[Report | Skipped]) -> str:
    reports = [outcome for outcome in outcomes if isinstance(outcome, Report)]
    met = sum(report.result.met for report in reports)
    return f"{met} of {len(reports)} targets met; 'ours' and 'theirs' are the best times of a sample"


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _write(path: Path, outcomes: list[Report | Skipped]) -> int:
    results = [outcome.result.as_json() for outcome in outcomes if isinstance(outcome, Report)]
    try:
        path.write_text(json_format.dumps(results, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        print(f"devc bench: {path}: {error.strerror}", file=sys.stderr)
        return FAILED
    return 0
