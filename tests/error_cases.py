"""Error cases as device files: what is expected stands beside the offending line.

A comment at the end of a line says what must be reported there:

    state x: u8 = 300    #! E201 'x' holds u8 #at: 300 #help: ...

the code and a piece of the message; then, if it matters, the text that is
marked, and a piece of the help. A line may have several. `expected` reads
them, `reported` compiles the text and gives what was in fact reported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from devc.compiler.elaborate import elaborate
from devc.dsl.diagnostics import DeviceFileError, Diagnostic, Source
from devc.dsl.parser import parse

DIRECTORY = Path(__file__).parent / "errors"
_MARK = re.compile(r"#! *([EW]\d{3}) *(.*?)(?=#!|$)")
_DETAIL = re.compile(r"#(at|help): *")


@dataclass(frozen=True)
class Expected:
    line: int
    code: str
    message: str
    at: str = ""
    help: str = ""

    def matches(self, found: Diagnostic, source: Source) -> bool:
        return (
            (found.code, found.span.line) == (self.code, self.line)
            and self.message in found.message
            and self.help in found.help
            and (not self.at or marked(found, source) == self.at)
        )


def marked(found: Diagnostic, source: Source) -> str:
    """The text under the carets."""
    _, _, _, line, marks, *_ = found.render(source).split("\n")
    return "".join(c for c, mark in zip(line, marks, strict=False) if mark == "^")


def expected(text: str) -> list[Expected]:
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        for code, rest in _MARK.findall(line):
            message, *details = _DETAIL.split(rest)
            pairs = dict(zip(details[::2], (d.strip() for d in details[1::2]), strict=True))
            found.append(Expected(number, code, message.strip(), **pairs))
    return found


def reported(source: Source) -> list[Diagnostic]:
    """The errors, or the warnings of a file that has none."""
    try:
        return elaborate(parse(source), source)[1]
    except DeviceFileError as error:
        return error.diagnostics


def difference(source: Source) -> str:
    """What is reported otherwise than the file says; nothing if all is as it says."""
    wanted, found = expected(source.text), reported(source)
    missing = [w for w in wanted if not any(w.matches(f, source) for f in found)]
    extra = [f for f in found if not any(w.matches(f, source) for w in wanted)]
    out = [f"not reported: {w}" for w in missing]
    out += [f"reported, but not expected (marked: {marked(f, source)!r}):\n{f.render(source)}" for f in extra]
    if not out and len(wanted) != len(found):
        out.append(f"{len(found)} reports for {len(wanted)} expected")
    return "\n".join(out)
