"""Lark's contextual lexer, nearly all of it by one scanner.

Which words are keywords depends on where they stand. Lark compiles a regular
expression for each set of terminals that the parser may be waiting for, a
hundred of them, which takes longer than reading a device file. But the first
of all terminals that match, in the lexer's order, is also the first of any
set that has it in; only where it is not in the set is the set's own scanner asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lark import Token
from lark.lexer import BasicLexer, ContextualLexer


class QuickLexer(ContextualLexer):
    """The same tokens and errors as ContextualLexer's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._names: dict[int, frozenset[str]] = {}

    def lex(self, lexer_state: Any, parser_state: Any) -> Iterator[Token]:
        while True:
            lexer: Any = self.lexers[parser_state.position]
            token = self._usual(lexer_state, lexer)
            if token is None:  # another reading of the text, an error, or the end
                token = next(super().lex(lexer_state, parser_state), None)
            if token is None:
                return
            yield token

    def _accepted(self, lexer: BasicLexer) -> frozenset[str]:
        names = self._names.get(id(lexer))
        if names is None:
            names = self._names[id(lexer)] = frozenset(terminal.name for terminal in lexer.terminals)
        return names

    def _usual(self, state: Any, lexer: BasicLexer) -> Token | None:
        """The next token, if it is what it is anywhere."""
        root: Any = self.root_lexer
        text, counter = state.text, state.line_ctr
        accepted = self._accepted(lexer)
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
