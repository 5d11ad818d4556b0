"""Lark's contextual lexer, nearly all of it by one scanner.

Which words are keywords depends on where they stand. Lark compiles a regular
expression for each set of terminals that the parser may be waiting for, a
hundred of them, which takes longer than reading a device file. But the first
of all terminals that match, in the lexer's order, is also the first of any
set that has it in; only where it is not in the set is the set's own scanner asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from typing import Any

from lark import Token
from lark.common import LexerConf
from lark.lexer import AbstractBasicLexer, BasicLexer, ContextualLexer


class _Scanners(dict[int, AbstractBasicLexer]):
    """A parser's states' own lexers, made when they are asked for."""

    def __init__(self, conf: LexerConf, accepted: dict[int, set[str]]) -> None:
        self._conf, self._accepted = conf, accepted

    def __missing__(self, state: int) -> AbstractBasicLexer:
        conf = copy(self._conf)
        known = conf.terminals_by_name
        conf.terminals = [known[name] for name in sorted(self._accepted[state]) if name in known]
        self[state] = BasicLexer(conf)
        return self[state]


class QuickLexer(ContextualLexer):
    """The same tokens and errors as ContextualLexer's."""

    def __init__(self, conf: LexerConf, states: dict[int, Any], always_accept: Iterable[str] = ()) -> None:
        always = {*conf.ignore, *always_accept}
        self.root_lexer = BasicLexer(copy(conf))
        self._accepted = {state: always.union(names) for state, names in states.items()}
        self.lexers = _Scanners(conf, self._accepted)

    def lex(self, lexer_state: Any, parser_state: Any) -> Iterator[Token]:
        while True:
            token = self._usual(lexer_state, self._accepted[parser_state.position])
            if token is None:  # another reading of the text, an error, or the end
                token = next(super().lex(lexer_state, parser_state), None)
            if token is None:
                return
            yield token

    def _usual(self, state: Any, accepted: set[str]) -> Token | None:
        """The next token, if it is what it is anywhere."""
        root: Any = self.root_lexer
        text, counter = state.text, state.line_ctr
        while counter.char_pos < text.end:
            found = root.match(text, counter.char_pos)
            if not found:
                return None
            value, kind = found
            lines = kind in root.newline_types
            if kind in root.ignore_types:
                counter.feed(value, lines)
                continue
            token = Token(kind, value, counter.char_pos, counter.line, counter.column)
            if kind in root.callback:
                token = root.callback[kind](token)
            if token.type not in accepted:
                return None
            counter.feed(value, lines)
            token.end_line, token.end_column, token.end_pos = counter.line, counter.column, counter.char_pos
            state.last_token = token
            return token
        return None
