"""Text to syntax tree, with errors that say what was meant.

Several syntax errors are found in one run: after one, its line (and the block
it opens) is blanked, and the text parsed again.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import ClassVar

from lark import Lark, Token, UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.exceptions import VisitError
from lark.indenter import DedentError, Indenter

from .build import Builder, span_of
from .diagnostics import MOST, DeviceFileError, Diagnostic, Reject, Source, Span
from .tree import File

MAX_NESTING = 40
"""Of brackets and of indentation."""
MAX_LINE = 2_000


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
    return Lark(
        Path(__file__).with_name("grammar.lark").read_text(),
        parser="lalr",
        postlex=Blocks(),
        propagate_positions=True,
        maybe_placeholders=True,
    )


def parse(source: Source) -> File:
    """The file's syntax tree; `DeviceFileError` with every syntax error found."""
    bound(source)
    lines = source.text.split("\n")
    found: list[Diagnostic] = []
    blanked: set[int] = set()
    while len(found) < MOST:
        try:
            tree = attempt("\n".join(lines) + "\n")
        except Reject as reject:
            assert reject.diagnostic is not None
            error = reject.diagnostic
        else:
            if not found:
                return tree
            break
        if not _follows_from(error.span.line, blanked, lines):
            found.append(error)
        gone = _blank(error.span.line, lines)
        if not gone:
            break
        blanked |= gone
    raise DeviceFileError(source, found or [error])


def attempt(text: str) -> File:
    """Parse once; `Reject` at the first error."""
    try:
        tree = grammar().parse(text)
        return Builder().transform(tree)
    except UnexpectedInput as error:
        raise explain(error, text) from None
    except DedentError:
        raise _dedent(text) from None
    except VisitError as error:
        if isinstance(error.orig_exc, Reject):
            raise error.orig_exc from None
        raise


def bound(source: Source) -> None:
    """Refuse what would make the parser or the checker slow or deep (E003)."""
    depth = 0
    for number, line in enumerate(source.text.split("\n"), 1):
        place = Span(number, 1, number, 1)
        if len(line) > MAX_LINE:
            raise DeviceFileError.single(
                source, "E003", f"the line is longer than {MAX_LINE} characters", place
            )
        if "\0" in line:
            raise DeviceFileError.single(
                source, "E001", "there is a NUL byte in the line", place,
                help="a device file is plain text in UTF-8",
            )  # fmt: skip
        indent = len(line) - len(line.lstrip(" \t"))
        code = re.sub(r'"[^"\n]*"|#.*', "", line)
        for character in code:
            depth += (character in "([{") - (character in ")]}")
            depth = max(depth, 0)
        if depth > MAX_NESTING or indent > 4 * MAX_NESTING:
            raise DeviceFileError.single(
                source, "E003", f"more than {MAX_NESTING} levels of brackets or blocks", place
            )


def _follows_from(line: int, blanked: set[int], lines: list[str]) -> bool:
    """Whether an error is only the hole that an earlier one left."""
    if line in blanked or line + 1 in blanked:  # a block left empty
        return True
    before = line - 1
    while before > 0 and not lines[before - 1].strip():
        if before in blanked:
            return True
        before -= 1
    return False


def _blank(line: int, lines: list[str]) -> set[int]:
    """Blank a line, and the block below it if it opens one."""
    at = min(line, len(lines)) - 1
    while at > 0 and not lines[at].strip():
        at -= 1
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
    return gone


# --- what was meant --------------------------------------------------------

SPOKEN = {
    "_NL": "the end of the line", "_INDENT": "an indented block", "_DEDENT": "the end of the block",
    "$END": "the end of the file", "NAME": "a name", "NUMBER": "a number", "STRING": "a string",
    "LPAR": "'('", "RPAR": "')'", "LSQB": "'['", "RSQB": "']'", "LBRACE": "'{'", "RBRACE": "'}'",
    "COLON": "':'", "COMMA": "','", "EQUAL": "'='", "DOT": "'.'", "AT": "'at'", "__ANON_0": "'..'",
    "LEVEL": "'low' or 'high'", "ACCESS": "an access word (rw, ro, wo, ...)", "SPACE": "'io' or 'mmio'",
    "COMPARE": "a comparison", "SIGN": "'+' or '-'", "TERM": "'*', '/' or '%'", "SHIFT": "'<<' or '>>'",
}  # fmt: skip

HINTS = (
    # (what the token or the line looks like, help)
    (r"^\s*(register|field)\b", "a register is written 'reg NAME @OFFSET TYPE: ...'"),
    (
        r"^\s*(while|def|class|import|try|with|var|int|uint\w+)\b",
        "there are no loops, functions or declarations of other languages; see docs/language.md",
    ),
    (r"^\s*for\b(?!.*\bin\b)", "'for NAME in ARRAY:' unrolls over a declared array of blocks"),
    (r"&&|\|\|", "write 'and', 'or'"),
    (r"!(?!=)", "write 'not'"),
    (
        r"(?<![<>!=?])=(?!=).*\b(if|elif|while)\b|^\s*(if|elif)\b[^=]*[^<>!=]=[^=]",
        "a comparison is written '=='",
    ),
    (r"\?(?!=)", "a conditional is written 'A if TEST else B'"),
    (r"\+\+$|\+=|-=|\|=|&=", "write the assignment out: x = x + 1"),
    (r";\s*$", "a line needs no ';' at its end"),
    (
        r"^\s*(device|block|if|elif|else|match|on|proc|read|write|io|mmio)\b[^:]*$",
        "a ':' is missing at the end",
    ),
    (r"0[xX]$|0[oO]", "numbers are decimal, 0x... or 0b..."),
)


def explain(error: UnexpectedInput, text: str) -> Reject:
    line = text.split("\n")[error.line - 1] if error.line and error.line > 0 else ""
    hint = next((h for pattern, h in HINTS if re.search(pattern, line.split("#")[0].rstrip())), "")
    if isinstance(error, UnexpectedCharacters):
        at = Span(error.line, error.column, error.line, error.column + 1)
        shown = error.char if error.char.isprintable() else f"U+{ord(error.char):04X}"
        return Reject("E002", f"'{shown}' has no meaning here", at, hint)
    assert isinstance(error, UnexpectedToken)
    token: Token = error.token
    at = span_of(token)
    if at.line != at.end_line or token.type in ("_NL", "_DEDENT", "$END"):
        at, found = _line_end(at, text, token)
    elif token.type == "_INDENT":
        found = "an indented line"
    else:
        found = f"'{token}'"
    expected = _expected(error.accepts or error.expected)
    return Reject("E002", f"expected {expected}, found {found}", at, hint)


def _line_end(at: Span, text: str, token: Token) -> tuple[Span, str]:
    """Point at the end of the line before a line end, not at the next line's start."""
    lines = text.split("\n")
    number = min(at.line if at.line else len(lines), len(lines))
    if token.type in ("_DEDENT", "$END"):
        number = len(lines)
    while number > 1 and not lines[number - 1].split("#")[0].strip():
        number -= 1
    column = len(lines[number - 1].split("#")[0].rstrip()) + 1
    return Span(number, column, number, column + 1), SPOKEN.get(token.type, "the end of the line")


def _expected(terminals: set[str]) -> str:
    if {"NAME", "NUMBER", "LPAR"} <= terminals:
        return "an expression"
    if len({"STATE", "REG", "LET", "ON"} & terminals) >= 3:
        return "a declaration (state, reg, let, on, ...)"
    if len({"DEVICE", "BLOCK", "ENUM"} & terminals) >= 3:
        return "device, block, enum or layout"
    words = sorted({SPOKEN.get(t, f"'{t.lower()}'") for t in terminals if t not in ("_DEDENT", "_NL")})
    if "_NL" in terminals and len(words) > 3:
        return "an operator or the end of the line"
    if not words:
        words = ["the end of the block"]
    if len(words) > 6:
        words = [*words[:6], "..."]
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _dedent(text: str) -> Reject:
    """The line whose indentation matches no open block."""
    stack = [0]
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        indent = len(line.expandtabs(8)) - len(line.expandtabs(8).lstrip())
        if indent > stack[-1]:
            stack.append(indent)
        while indent < stack[-1]:
            stack.pop()
        if indent != stack[-1]:
            return Reject(
                "E002", "the indentation matches no open block", Span(number, 1, number, indent + 1),
                f"indent it by {stack[-1]} spaces, as the block it belongs to",
            )  # fmt: skip
    return Reject("E002", "the indentation matches no open block", Span(1, 1, 1, 1))
