"""What was meant by text that does not follow the grammar: E002, in the user's words.

`HINTS` is the list of what people write who know other languages; add to it
when a message did not help somebody.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

from lark import Token, UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from .diagnostics import Reject, Span
from .tokens import span_of

SPOKEN = {
    "_NL": "the end of the line", "_INDENT": "an indented block", "_DEDENT": "the end of the block",
    "$END": "the end of the file", "NAME": "a name", "NUMBER": "a number", "STRING": "a string",
    "LPAR": "'('", "RPAR": "')'", "LSQB": "'['", "RSQB": "']'", "LBRACE": "'{'", "RBRACE": "'}'",
    "COLON": "':'", "COMMA": "','", "SEMICOLON": "';'", "EQUAL": "'='", "DOT": "'.'", "HZ": "'Hz'",
    "_ARROW": "'->'", "_TO": "'..'", "_FILL": "'?='", "_AT_SIGN": "'@'", "VBAR": "'|'", "UNDERSCORE": "'_'",
    "LEVEL": "'low' or 'high'", "ACCESS": "an access word (rw, ro, wo, ...)", "SPACE": "'io' or 'mmio'",
}  # fmt: skip

WORDS = (
    "device", "block", "enum", "layout", "clock", "counter", "alarm", "state", "latch", "cycle", "let",
    "wave", "line", "input", "drive", "io", "mmio", "host", "bank", "reg", "proc", "on", "python",
    "checkpoint", "read", "write", "if", "elif", "else", "match", "for", "return", "drop", "arm", "disarm",
    "pass", "step", "why", "reads", "writes", "tier",
)  # fmt: skip
"""The words that a line may begin with."""

OPERATORS = frozenset({
    "COMPARE", "SIGN", "TERM", "SHIFT", "AMPERSAND", "CIRCUMFLEX", "VBAR", "_CONCAT", "_POWER", "AND", "OR",
    "IF", "IN", "DOT", "LPAR", "LSQB", "RISES", "FALLS", "TOGGLES",
})  # fmt: skip
"""What may follow any expression: said as one thing."""

GROUPS = (
    # (all of these may stand here, what they are together)
    ({"NAME", "NUMBER", "LPAR"}, "an expression"),
    ({"STATE", "REG", "LET", "ON"}, "a declaration (state, reg, let, on, ...)"),
    ({"LET", "RETURN", "DROP", "PASS"}, "a statement"),
    ({"DEVICE", "BLOCK", "ENUM"}, "'device', 'block', 'enum' or 'layout'"),
    ({"WHY", "READS", "WRITES", "TIER"}, "'why', 'reads', 'writes' or 'tier'"),
    ({"READ", "WRITE", "LSQB"}, "a field [BITS] NAME, 'read:' or 'write NAME:'"),
    ({"NUMBER", "NAME", "UNDERSCORE"}, "a case: a number, a range, a name or '_'"),
    ({"EQUAL", "_FILL"}, "'=', '?=' or '(...)'"),
)

HINTS = (
    # (what the line, without its comment, looks like; help)
    (r"^\s*(register|field)\b", "a register is written 'reg NAME @OFFSET TYPE: ...'"),
    (r"^\s*(while|def|class|import|from\b.*\bimport|try|with|var|const|int|uint\w+|struct|void)\b",
     "there are no loops, functions or declarations of other languages; see docs/language.md"),
    (r"^\s*host\b.*\bat\b", "a window of the host lies at no address: host NAME size N:"),
    (r"^\s*for\b(?!.*\bin\b)", "'for NAME in ARRAY:' unrolls over a declared array of blocks"),
    (r"&&|\|\|", "write 'and', 'or'"),
    (r"!(?!=)", "write 'not'"),
    (r"^\s*(if|elif)\b[^=]*[^<>!=]=[^=]|\belse\b.*[^<>!=]=[^=].*\bif\b", "a comparison is written '=='"),
    (r"\?(?!=)", "a conditional is written 'A if TEST else B'"),
    (r"\+\+\s*$|[-+*/|&^%]=|<<=|>>=", "write the assignment out: x = x + 1"),
    (r";\s*$", "a line needs no ';' at its end"),
    (r":\s*(if|match|for)\b", "'if', 'match' and 'for' begin a line of their own"),
    (r"^\s*else\s+if\b", "write 'elif'"),
    (r"^\s*case\b", "a case of a match is written 'VALUE -> ...'"),
    (r"~", "write wrap(...) of a difference, or '^' with a mask of ones"),
    (r"<[^<>=]*<[^<>=]|>[^<>=]*>[^<>=]", "comparisons do not chain: write 'a < b and b < c'"),
    (r"//|/\*|\*/", "a comment begins with '#'; division is '/'"),
    (r"=>|=\s*>", "a case is written 'VALUE -> ...'"),
    (r"\)\s*\[", "bits are taken of a name: give the value one with 'let'"),
    (r"'", "strings stand in double quotes"),
    (r"^\s*reg\b.*:\s*(read|write)\b", "'read:' and 'write NAME:' stand on lines of their own"),
    (r"^\s*(device|block|if|elif|else|match|on|proc|read|write|io|mmio|host|bank)\b[^:]*$",
     "a ':' is missing at the end"),
    (r"\b0[xX](?![0-9a-fA-F])|\b0[oO]|\b0B|\b0b[01_]*[2-9]", "numbers are decimal, 0x... or 0b..."),
    (r"\b\d[\d_]*\s*(k|M|G|kHz|MHz|GHz|ms|us|ns)\b", "frequencies are in Hz, times in ticks of a clock"),
    (r"^\s*clock\b(?!.*\bHz\b)", "a frequency ends in 'Hz': clock NAME = 1_000_000 Hz"),
    (r"(^|[=(,<>])\s*-\s*\w", "there are no negative numbers to write: 0 - 1"),
    (r"\b\d+\.\d", "there are no fractions; numbers are integers"),
)  # fmt: skip

_QUOTED = re.compile(r'"""(?s:.*?)"""|"(?!"")[^"\n]*"|#[^\n]*')
_OPEN, _CLOSE = "([{", ")]}"


def code_of(text: str) -> str:
    """The text with strings and comments blanked, every character in its place."""
    return _QUOTED.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def explain(error: UnexpectedInput, text: str) -> Reject:
    """The error as E002: where, what stands there, what could, and perhaps why."""
    code = code_of(text)
    if isinstance(error, UnexpectedCharacters):
        return _character(error, text, code)
    assert isinstance(error, UnexpectedToken)
    token: Token = error.token
    at = span_of(token)
    unclosed = _unclosed(code, at)
    if unclosed is not None:
        return unclosed
    if token.type == "_INDENT":
        at = Span(at.end_line, 1, at.end_line, at.end_column)
        found = "an indented line"
    elif at.line != at.end_line or token.type in ("_NL", "_DEDENT", "$END"):
        at, found = _line_end(at, code, token)
    else:
        found = f"'{token}'" if len(token) <= 40 else f"'{token[:40]}...'"
    terminals = error.accepts or error.expected
    first = re.match(r"\s*(\w+)", code.split("\n")[at.line - 1])
    if first is not None and terminals == {"COLON", "LSQB"} and first[1] not in WORDS:
        # read as the name of a block's instance
        at = Span(at.line, first.start(1) + 1, at.line, first.end(1) + 1)
        return Reject("E002", f"'{first[1]}' begins no declaration", at, hint(code, at.line))
    if terminals == {"_INDENT"}:
        opening = at.line - (token.type not in ("_NL", "_DEDENT", "$END"))
        at, _ = _line_end(Span(opening, 1, opening, 1), code, token)
        return Reject(
            "E002", "an indented block must follow", at, "indent what belongs to this line by four columns"
        )
    expected = _expected(terminals)
    return Reject("E002", f"expected {expected}, found {found}", at, hint(code, at.line))


def hint(code: str, line: int) -> str:
    """Help for a line that looks like a known mistake."""
    text = code.split("\n")[line - 1].rstrip() if line > 0 else ""
    found = next((words for pattern, words in HINTS if re.search(pattern, text)), "")
    first = re.match(r"\s*(\w+)", text)
    if found or first is None or first[1] in WORDS:
        return found
    close = get_close_matches(first[1], WORDS, 1, 0.75)
    return f"did you mean '{close[0]}'?" if close else ""


def _character(error: UnexpectedCharacters, text: str, code: str) -> Reject:
    at = Span(error.line, error.column, error.line, error.column + 1)
    if error.char == '"':
        return Reject("E002", "the string is not closed", at,
                      'a string ends on its line; a text of several lines stands in """..."""')  # fmt: skip
    shown = f"'{error.char}'" if error.char.isprintable() else f"the character U+{ord(error.char):04X}"
    return Reject("E002", f"{shown} has no meaning here", at, hint(code, error.line))


def _unclosed(code: str, at: Span) -> Reject | None:
    """The bracket that is still open at the error, if it was opened on an earlier line."""
    open_at: list[tuple[int, int, str]] = []
    for number, line in enumerate(code.split("\n")[: at.line], 1):
        for column, character in enumerate(line, 1):
            if number == at.line and column >= at.column:
                break
            if character in _OPEN:
                open_at.append((number, column, character))
            elif character in _CLOSE and open_at:
                open_at.pop()
    if not open_at or open_at[-1][0] == at.line:
        return None
    line_number, column, character = open_at[-1]
    span = Span(line_number, column, line_number, column + 1)
    closing = _CLOSE[_OPEN.index(character)]
    return Reject("E002", f"'{character}' is not closed", span, f"a '{closing}' is missing")


def _line_end(at: Span, code: str, token: Token) -> tuple[Span, str]:
    """Point at the end of the line before a line end, not at the next line's start."""
    lines = code.split("\n")
    number = min(at.line if at.line else len(lines), len(lines))
    if token.type == "$END":
        number = len(lines)
    while number > 1 and not lines[number - 1].strip():
        number -= 1
    column = len(lines[number - 1].rstrip()) + 1
    return Span(number, column, number, column + 1), SPOKEN.get(token.type, "the end of the line")


def _expected(terminals: set[str]) -> str:
    """The terminals that may stand here, in few words."""
    words: list[str] = []
    left = set(terminals)
    for group, name in GROUPS:
        if group <= terminals:
            return name
    if len(OPERATORS & left) > 3:
        left -= OPERATORS
        words.append("an operator")
    left -= {"_HOLE"}
    left -= {"_DEDENT", "_NL"} if len(left) > 2 else {"_DEDENT"}
    words += sorted(SPOKEN.get(t, f"'{t.lower()}'") for t in left)
    if "_NL" in terminals and SPOKEN["_NL"] not in words:
        words.append(SPOKEN["_NL"])
    if len(words) > 6:
        words = [*words[:6], "..."]
    if not words:
        return "the end of the block"
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def dedent(text: str) -> Reject:
    """The line whose indentation matches no open block."""
    stack, brackets = [0], 0
    for number, line in enumerate(code_of(text).split("\n"), 1):
        inside = brackets > 0
        brackets = max(0, brackets + sum((c in _OPEN) - (c in _CLOSE) for c in line))
        if inside or not line.strip():
            continue
        blank = line[: len(line) - len(line.lstrip(" \t"))]
        indent = blank.count(" ") + 8 * blank.count("\t")
        if indent > stack[-1]:
            stack.append(indent)
        while indent < stack[-1]:
            stack.pop()
        if indent != stack[-1]:
            return Reject(
                "E002", "the indentation matches no open block", Span(number, 1, number, len(blank) + 1),
                f"indent it by {stack[-1]} columns, as the block it belongs to",
            )  # fmt: skip
    return Reject("E002", "the indentation matches no open block", Span(1, 1, 1, 1))
