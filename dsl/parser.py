"""Text to syntax tree, with errors that say what was meant.

Several syntax errors are found in one run: after one, a hole is put in place of
its line (and of the block it opens), and the text is parsed again. What was meant is said by
mistakes.py.
"""

from __future__ import annotations

import re
from functools import cache
from typing import ClassVar

from lark import Lark, UnexpectedInput
from lark.exceptions import VisitError
from lark.indenter import DedentError, Indenter

from . import mistakes, tables
from .build import Builder
from .diagnostics import LONGEST, MOST, DeviceFileError, Diagnostic, Reject, Source, Span, place
from .tree import File

MAX_NESTING = 40
"""Of brackets."""
MAX_INDENT = 160
"""In columns."""
MAX_LINE = 2_000
MOST_PARSED = 1 << 18
"""Characters parsed in one run: bounds how often a long file is parsed again for its next error."""


class Blocks(Indenter):
    """Indentation opens and closes blocks; inside brackets it does not count."""

    NL_type = "_NL"
    OPEN_PAREN_types: ClassVar[list[str]] = ["LPAR", "LSQB", "LBRACE"]
    CLOSE_PAREN_types: ClassVar[list[str]] = ["RPAR", "RSQB", "RBRACE"]
    INDENT_type = "_INDENT"
    DEDENT_type = "_DEDENT"
    tab_len = 8


@cache
def grammar() -> Lark:
    return tables.load(Blocks())


def parse(source: Source) -> File:
    """The file's syntax tree; `DeviceFileError` with the syntax errors found."""
    bound(source)
    lines = source.text.split("\n")
    found: list[Diagnostic] = []
    blanked: set[int] = set()
    left = MOST_PARSED
    while left > 0 and len(found) < MOST:
        left -= len(source.text) + 1
        try:
            tree = attempt("\n".join(lines) + "\n")
        except Reject as reject:
            error = reject.because
        else:
            if not found:
                return tree
            break
        if not found or not _follows_from(error.span.line, blanked, lines):
            found.append(error)
        if error.code == "E003":
            break
        gone = _blank(error.span.line, lines)
        if not gone:
            break
        blanked |= gone
    raise DeviceFileError(source, sorted(found, key=place))


def attempt(text: str) -> File:
    """Parse once; `Reject` at the first error."""
    try:
        return Builder().transform(grammar().parse(text))
    except UnexpectedInput as error:
        raise mistakes.explain(error, text) from None
    except DedentError:
        raise mistakes.dedent(text) from None
    except VisitError as error:
        if isinstance(error.orig_exc, Reject):
            raise error.orig_exc from None
        raise


def bound(source: Source) -> None:
    """Refuse what would make the parser or the checker slow or deep (E001, E003)."""
    if len(source.text) > LONGEST:
        raise DeviceFileError.single(
            source, "E001", f"the text is longer than {LONGEST >> 10} Ki characters", Span(1, 1, 1, 2)
        )
    depth = 0
    for number, (line, code) in enumerate(
        zip(source.text.split("\n"), mistakes.code_of(source.text).split("\n"), strict=True), 1
    ):
        if len(line) > MAX_LINE:
            raise DeviceFileError.single(
                source, "E003", f"the line is longer than {MAX_LINE} characters", Span(number, 1, number, 2),
                help="break it inside brackets, or give parts of it names with 'let'",
            )  # fmt: skip
        if "\0" in line:
            at = line.index("\0") + 1
            raise DeviceFileError.single(
                source, "E001", "there is a NUL byte in the line", Span(number, at, number, at + 1),
                help="a device file is plain text in UTF-8",
            )  # fmt: skip
        for column, character in enumerate(code, 1):
            depth = max(0, depth + (character in "([{") - (character in ")]}"))
            if depth > MAX_NESTING:
                raise DeviceFileError.single(
                    source, "E003", f"more than {MAX_NESTING} brackets inside one another",
                    Span(number, column, number, column + 1), help="give parts of it names with 'let'",
                )  # fmt: skip
        indent = len(line) - len(line.lstrip(" \t"))
        if indent > MAX_INDENT and code.strip():
            raise DeviceFileError.single(
                source, "E003", f"the line is indented by more than {MAX_INDENT} columns",
                Span(number, 1, number, indent + 1), help="move inner blocks into a 'proc'",
            )  # fmt: skip


def _follows_from(line: int, blanked: set[int], lines: list[str]) -> bool:
    """Whether an error is only what an earlier one left: a line of it, or an 'else' of its 'if'."""
    if line in blanked:
        return True
    before = line - 1
    while before > 0 and not lines[before - 1].strip():
        before -= 1
    return before in blanked and re.match(r"\s*(else|elif)\b", lines[line - 1]) is not None


def _blank(line: int, lines: list[str]) -> set[int]:
    """Put a hole in place of a line, and of the block below it if it opens one."""
    at = min(line, len(lines)) - 1
    while at > 0 and not lines[at].strip():
        at -= 1
    if lines[at].strip() == "\0":  # no hole fits here either, as its indentation is wrong
        lines[at] = ""
        return {at + 1}
    if not lines[at].strip():
        return set()
    indent = len(lines[at]) - len(lines[at].lstrip())
    gone = {at + 1}
    for number in range(at + 1, len(lines)):
        text = lines[number]
        if text.strip() and len(text) - len(text.lstrip()) <= indent:
            break
        gone.add(number + 1)
    for number in gone:
        lines[number - 1] = ""
    # a hole of its own, so that its block is not empty
    lines[at] = " " * indent + "\0"
    return gone
