"""`devc verify`: each device's eBPF programs, put to the running kernel's verifier.

The table goes to standard output; refusals, mapped to the device file's lines,
to standard error, as the compiler's own errors. Nothing stays in the kernel.
"""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..compiler import ir
from ..compiler.bpf_compile import CompileError
from ..compiler.driver import load
from ..dsl.diagnostics import NOWHERE, DeviceFileError, Diagnostic, Source, Span
from ..runtime import bpf
from ..runtime.bpf_object import BpfObject, ObjectError
from ..runtime.verification import Verdict
from ..runtime.verification import verify as put_to_the_kernel
from ..runtime.verifier_log import Refusal

FAILED, MISSING = 1, 3

REFUSED = "E801"


@dataclass(frozen=True, slots=True)
class Subject:
    """What a FILE named: an object, and the device file that it was made of, if it was one."""

    name: str
    object: BpfObject
    module: ir.Module | None = None
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A subject and what the kernel said of its programs."""

    subject: Subject
    verdicts: list[Verdict]


def verify(files: list[Path], log: bool, json: Path | None) -> int:
    """Verify device files and objects, and show what the kernel said.

    0: all programs were accepted; 1: one was refused, or a file was, or the JSON could not be
    written; 3: this machine or this process cannot use eBPF.
    """
    try:
        bpf.available()
    except bpf.BpfUnavailable as error:
        return _unavailable(error)
    console, outcomes, status = Console(), list[Outcome](), 0
    for path in files:
        try:
            subject = _subject(path)
            outcome = Outcome(subject, list(put_to_the_kernel(subject.object, log)))
        except DeviceFileError as error:
            print(error, end="\n\n", file=sys.stderr)
            status = FAILED
            continue
        except (ObjectError, CompileError, bpf.BpfError) as error:
            print(f"error: {path}: {error}", file=sys.stderr)
            status = FAILED
            continue
        except bpf.BpfUnavailable as error:
            return _unavailable(error)
        outcomes.append(outcome)
        _show(outcome, log, console)
        if not all(verdict.accepted for verdict in outcome.verdicts):
            status = FAILED
    if json is not None:
        status = max(status, _write(json, outcomes))
    return status


def _unavailable(error: bpf.BpfUnavailable) -> int:
    print(f"devc verify: {error.reason}\n  = help: {error.mend}", file=sys.stderr)
    return MISSING


def _subject(path: Path) -> Subject:
    """Raises DeviceFileError, ObjectError or CompileError."""
    if path.suffix == ".o":
        try:
            return Subject(path.name, BpfObject(path.read_bytes(), path.name))
        except OSError as error:
            raise ObjectError(error.strerror or "cannot be read") from None
    device = load(path)
    image, module = device.bpf(), device.module
    return Subject(module.name, BpfObject(image, f"{module.name}.bpf.o"), module, device.source)


def _show(outcome: Outcome, log: bool, console: Console) -> None:
    if log:
        for verdict in outcome.verdicts:
            print(f"# {verdict.program}\n{verdict.log}")
    console.print(table(outcome))
    for line in at_home(outcome.subject.module):
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    for verdict in outcome.verdicts:
        if verdict.refusal is not None:
            print(report(verdict.program, verdict.refusal, outcome.subject), end="\n\n", file=sys.stderr)


def table(outcome: Outcome) -> Table:
    """One row a program."""
    shown = Table(title=outcome.subject.name, title_justify="left", box=None, header_style="bold")
    shown.add_column("program", no_wrap=True)
    shown.add_column("verifier")
    for heading in ("instructions", "processed", "stack", "ms"):
        shown.add_column(heading, justify="right")
    for verdict in outcome.verdicts:
        figures = verdict.figures
        shown.add_row(
            verdict.program,
            "[green]accepted[/]" if verdict.accepted else "[red]refused[/]",
            str(verdict.instructions), str(figures.processed), str(figures.stack),
            f"{verdict.milliseconds:.1f}",
        )  # fmt: skip
    return shown


def at_home(module: ir.Module | None) -> Iterator[str]:
    """What user space serves: the device's Python parts, by name, and the registers they are for."""
    for number, python in enumerate(module.pythons if module else ()):
        if python.kind == "observer":
            yield f"stays in user space: {python.name} ({python.file}), told of changes: {python.why}"
        else:
            yield (
                f"stays in user space: {python.name} ({python.file}), handler {number};"
                f" its accesses return 'busy: user space': {python.why}"
            )


def report(program: str, refusal: Refusal, subject: Subject) -> str:
    """The refusal in the compiler's own style, at the device file's line if that is known."""
    place, source = refusal.place, subject.source
    where = f"instruction {refusal.index}, {refusal.instruction}" if refusal.instruction else ""
    help = f"{where}; `devc verify --log` shows each step of the verifier" if where else ""
    if bpf.distrusted():
        help += "; it follows mispredicted branches, too, because this process has no CAP_PERFMON"
    message = f"the kernel's verifier refuses {program}: {refusal.reason}"
    if place is None or not place.line:
        return Diagnostic(REFUSED, message, NOWHERE, help).render(source or Source(subject.name, ""))
    if source is None:
        # Of an object only the lines that it quotes are known.
        source = Source(place.file, "\n" * (place.line - 1) + place.text)
    text = source.line(place.line)
    start = place.column if 0 < place.column <= len(text) else len(text) - len(text.lstrip()) + 1
    return Diagnostic(REFUSED, message, Span(place.line, start, place.line + 1, 1), help).render(source)


def _write(path: Path, outcomes: list[Outcome]) -> int:
    found = [
        {
            "name": outcome.subject.name,
            "programs": [_as_json(verdict) for verdict in outcome.verdicts],
            "user_space": [
                python.name for python in (outcome.subject.module.pythons if outcome.subject.module else ())
            ],
        }
        for outcome in outcomes
    ]
    try:
        path.write_text(json_format.dumps(found, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        print(f"devc verify: {path}: {error.strerror}", file=sys.stderr)
        return FAILED
    return 0


def _as_json(verdict: Verdict) -> dict[str, str | int | float | bool | None]:
    refusal, place = verdict.refusal, verdict.refusal.place if verdict.refusal else None
    return {
        "program": verdict.program,
        "accepted": verdict.accepted,
        "instructions": verdict.instructions,
        "processed": verdict.figures.processed,
        "stack": verdict.figures.stack,
        "milliseconds": round(verdict.milliseconds, 3),
        "reason": refusal.reason if refusal else None,
        "line": place.line if place else None,
    }
