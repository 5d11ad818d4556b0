"""A running guest's counters: a table that keeps up on the terminal, and lines of JSON.

The table is on stderr, so that stdout stays the guest's; what the guest writes to the
same terminal appears above it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..runtime.counters import Sample, Watch
from ..runtime.vmm import Vmm
from .terminal import OutputError

INTERVAL = 0.5
"""Seconds between two samples."""
MOST_ROWS = 20

Show = Callable[[Sample, Sample | None], object]


@contextmanager
def watched(vmm: Vmm, *, table: bool, file: Path | None) -> Iterator[None]:
    """Meanwhile, sample the machine: to a table on stderr, and to a file, a line a sample.

    Raises OutputError if the file cannot be written.
    """
    if not table and file is None:
        yield
        return
    with ExitStack() as stack:
        shows: list[Show] = []
        if file is not None:
            shows.append(_writer(_opened(file, stack)))
        if table:
            live = stack.enter_context(Live(console=Console(stderr=True), auto_refresh=False, transient=True))
            shows.append(lambda sample, before: live.update(rendered(sample, before), refresh=True))
        watch, over = Watch(vmm), threading.Event()
        sampler = threading.Thread(target=_sample, args=(watch, shows, over), name="counters", daemon=True)
        sampler.start()
        try:
            yield
        finally:
            over.set()
            sampler.join()


def _opened(path: Path, stack: ExitStack) -> TextIO:
    try:
        return stack.enter_context(path.open("w"))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None


def _writer(file: TextIO) -> Show:
    def write(sample: Sample, before: Sample | None) -> None:
        print(json.dumps(sample.as_json()), file=file, flush=True)

    return write


def _sample(watch: Watch, shows: list[Show], over: threading.Event) -> None:
    """Until it is over, and once more then."""
    before: Sample | None = None
    last = False
    while not last:
        last = over.wait(INTERVAL)
        sample = watch.sample()
        for show in shows:
            show(sample, before)
        before = sample


def rendered(sample: Sample, before: Sample | None) -> Group:
    """The tables: registers by how often they were accessed last, deadlines, vCPUs."""
    seconds = sample.seconds - (before.seconds if before is not None else 0.0)
    exits = sample.exits - (before.exits if before is not None else 0)
    head = Text(f"{sample.now / 1e9:8.1f} s of the guest's   {exits / seconds:12,.0f} exits/s", style="bold")
    tables = [_registers(sample, before, seconds), _deadlines(sample), _vcpus(sample, before)]
    return Group(head, *(table for table in tables if table.row_count))


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    return table


def _registers(sample: Sample, before: Sample | None, seconds: float) -> Table:
    earlier = {
        (c.device, c.register, c.access): c.light + c.heavy + c.posted
        for c in (before.registers if before is not None else ())
    }
    rows = []
    for c in sample.registers:
        total = c.light + c.heavy + c.posted
        rate = (total - earlier.get((c.device, c.register, c.access), 0)) / seconds
        rows.append((rate, total, c))
    rows.sort(key=lambda row: row[:2], reverse=True)
    table = _table("register", "access", "a second", "light", "ns", "heavy", "ns", "posted")
    for rate, _, c in rows[:MOST_ROWS]:
        name = c.register if c.device == "host" else f"{c.device}.{c.register}"
        light, heavy = _mean(c.light_ns, c.light + c.posted), _mean(c.heavy_ns, c.heavy)
        table.add_row(
            name, c.access, f"{rate:,.0f}", f"{c.light:,}", light, f"{c.heavy:,}", heavy, f"{c.posted:,}"
        )
    return table


def _mean(ns: int, count: int) -> str:
    return f"{ns / count:,.0f}" if ns and count else "-"


def _deadlines(sample: Sample) -> Table:
    table = _table("deadlines", "came", "late, median", "at most, us")
    for d in sample.deadlines:
        table.add_row(
            d.device, f"{d.settled:,}", f"< {(d.late_median + 1) / 1e3:,.1f}", f"{d.late_most / 1e3:,.1f}"
        )
    return table


def _vcpus(sample: Sample, before: Sample | None) -> Table:
    table = _table("vCPU", "entries", "ns an exit", "in the guest", "asleep", "interrupts")
    for number, now in enumerate(sample.vcpus):
        earlier = before.vcpus[number] if before is not None else None
        runs = now.runs - (earlier.runs if earlier else 0)
        host = now.host_ns - (earlier.host_ns if earlier else 0)
        guest = now.guest_ns - (earlier.guest_ns if earlier else 0)
        asleep = now.asleep_ns - (earlier.asleep_ns if earlier else 0)
        whole = max(host + guest, 1)
        served = f"{(host - asleep) / runs:,.0f}" if runs else "-"
        table.add_row(
            str(number),
            f"{now.runs:,}",
            served,
            f"{guest / whole:.0%}",
            f"{asleep / whole:.0%}",
            f"{now.injected:,}",
        )
    return table
