"""Errors as a compiler should give them: place, span, what was meant, how to mend it.

A `Diagnostic` knows its place in a `Source`; `Diagnostics` collects them, so
that one run reports several. Codes are listed in `CODES`; the manual explains
each (docs/errors.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

CODES = {
    "E001": "the file cannot be read as a device file",
    "E002": "the text does not follow the grammar",
    "E003": "nested or chained too deeply",
    "E101": "a name is not defined",
    "E102": "a name is defined twice",
    "E103": "a name means something else than is needed here",
    "E104": "equations or procedures depend on themselves",
    "E201": "a value does not fit its type",
    "E202": "a divisor may be zero",
    "E203": "an index may be out of bounds",
    "E204": "a result may exceed 64 bits",
    "E205": "a width is not exact",
    "E206": "times of different clocks are mixed",
    "E207": "a truth value is needed",
    "E301": "an effect where only an equation may stand",
    "E302": "a path ends without a return",
    "E303": "a match does not cover its subject, or covers a case twice",
    "E401": "registers or fields overlap",
    "E402": "a register does not fit its window",
    "E403": "an access word does not apply",
    "E404": "hot, but not native",
    "E501": "an instant that cannot be solved for",
    "E502": "a line needs exactly one driver",
    "E503": "events depend on each other's order",
    "E601": "a Python part is not declared fully",
    "E602": "a Python part cannot be of this tier",
    "E701": "the saved state's layout changed, but not the checkpoint",
    "E702": "the lock file does not record the checkpoint",
    "E703": "an upgrade takes what older images do not hold",
    "E704": "the lock file cannot be used",
    "E801": "the kernel's verifier refuses a program",
    "W101": "a name is never used",
    "W102": "a register is placed in no window",
    "W701": "an older image's value may not fit",
}

MOST = 20
"""Errors shown a run; the rest are counted."""

LONGEST = 1 << 18
"""Bytes of a device file: bounds the time that any file takes."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the source: 1-based lines and columns, the end exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int

    def to(self, other: Span) -> Span:
        return Span(self.line, self.column, other.end_line, other.end_column)


NOWHERE = Span(1, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class Source:
    """A device file's name, as the user gave it, and its text."""

    name: str
    text: str

    @staticmethod
    def read(path: Path) -> Source:
        """Read a file; `DeviceFileError` (E001) if it is no text or too long."""
        try:
            with path.open("rb") as file:
                data = file.read(LONGEST + 1)
        except OSError as error:
            raise DeviceFileError.single(
                Source(str(path), ""), "E001", f"cannot read the file: {error.strerror}", NOWHERE
            ) from None
        empty = Source(str(path), "")
        if len(data) > LONGEST:
            raise DeviceFileError.single(
                empty, "E001", "the file is longer than 256 KiB", NOWHERE,
                help="a device file is a few hundred lines; is this one?",
            )  # fmt: skip
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise DeviceFileError.single(
                empty, "E001", f"byte {error.start} is not UTF-8 text", Span(line, 1, line, 1),
                help="a device file is plain text in UTF-8",
            ) from None  # fmt: skip
        return Source(str(path), text.replace("\r\n", "\n"))

    def line(self, number: int) -> str:
        lines = self.text.split("\n")
        return lines[number - 1].rstrip("\r") if 0 < number <= len(lines) else ""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    code: str
    message: str
    span: Span
    help: str = ""

    @property
    def severity(self) -> Literal["error", "warning"]:
        return "error" if self.code[0] == "E" else "warning"

    def render(self, source: Source) -> str:
        """Like rustc's: the place, the line, the span marked, the help."""
        number = str(self.span.line)
        pad = " " * len(number)
        out = [
            f"{self.severity}[{self.code}]: {self.message}",
            f"{pad}--> {source.name}:{self.span.line}:{self.span.column}",
        ]
        text = source.line(self.span.line)
        if text.strip():
            end = self.span.end_column if self.span.end_line == self.span.line else _code_end(text)
            start = min(self.span.column, len(text) + 1)
            # a 10,000-column line must not flood the terminal
            left = max(0, start - 60)
            shown = text[left : left + 120].replace("\t", " ")
            marks = "^" * max(1, min(end, left + 121) - start)
            out += [f"{pad} |", f"{number} | {shown}", f"{pad} | {' ' * (start - 1 - left)}{marks}"]
        if self.help:
            out.append(f"{pad} = help: {self.help}")
        return "\n".join(out)


def _code_end(line: str) -> int:
    """The column behind a line's text, without its comment."""
    code = re.sub(r'"[^"]*"', lambda quoted: "x" * len(quoted[0]), line).split("#")[0]
    return len(code.rstrip()) + 1


class DeviceFileError(Exception):
    """A device file was refused; `str()` is the full report."""

    def __init__(self, source: Source, diagnostics: list[Diagnostic]):
        self.source = source
        self.diagnostics = diagnostics
        super().__init__(render_all(source, diagnostics))

    @staticmethod
    def single(source: Source, code: str, message: str, span: Span, help: str = "") -> DeviceFileError:
        return DeviceFileError(source, [Diagnostic(code, message, span, help)])


def render_all(source: Source, diagnostics: list[Diagnostic]) -> str:
    shown = [d.render(source) for d in diagnostics[:MOST]]
    if len(diagnostics) > MOST:
        shown.append(f"... and {len(diagnostics) - MOST} more")
    return "\n\n".join(shown)


class Reject(Exception):
    """Raised inside the checker to give up on one declaration or statement.

    With a `diagnostic` it is reported where it is caught; without one, the
    cause has been reported already (a poisoned name), and nothing more is said.
    """

    def __init__(self, code: str = "", message: str = "", span: Span = NOWHERE, help: str = ""):
        self.diagnostic = Diagnostic(code, message, span, help) if code else None
        super().__init__(message)

    @property
    def because(self) -> Diagnostic:
        """The cause, of a Reject that has one."""
        assert self.diagnostic is not None
        return self.diagnostic


class Stop(Exception):
    """Raised to give up on the whole file: it costs more to check than any device does."""

    def __init__(self, message: str, span: Span, help: str):
        self.diagnostic = Diagnostic("E003", message, span, help)
        super().__init__(message)


@dataclass
class Diagnostics:
    """What has been found so far, in one source."""

    source: Source
    found: dict[Diagnostic, None] = field(default_factory=dict)  # each once
    used: set[Span] = field(default_factory=set)
    """Where names are declared that something refers to."""
    idle: list[Diagnostic] = field(default_factory=list)
    """W101 about declared names, which hold unless the name is used after all."""
    unplaced: list[Diagnostic] = field(default_factory=list)
    """W102 about registers of blocks, which hold unless one of them is placed after all."""
    placed: set[Span] = field(default_factory=set)
    """Where registers are declared that are placed in a window or a bank."""

    def report(self, reject: Reject) -> None:
        if reject.diagnostic is not None:
            self.found[reject.diagnostic] = None

    @property
    def errors(self) -> list[Diagnostic]:
        return sorted((d for d in self.found if d.severity == "error"), key=place)

    @property
    def warnings(self) -> list[Diagnostic]:
        idle = {d for d in self.idle if d.span not in self.used}
        return sorted(idle | {d for d in self.unplaced if d.span not in self.placed}, key=place)

    def check(self) -> None:
        if self.errors:
            raise DeviceFileError(self.source, self.errors)


def place(d: Diagnostic) -> tuple[int, int, str]:
    """The order in which diagnostics are shown."""
    return d.span.line, d.span.column, d.message
