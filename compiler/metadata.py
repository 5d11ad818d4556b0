"""Numbered metadata of an LLVM module's text: what is known of loads and stores, debug information."""

from __future__ import annotations


class Metadata:
    """Numbered metadata nodes, each text once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._texts: list[str] = []

    def node(self, text: str) -> str:
        if text not in self._numbers:
            self._numbers[text] = len(self._texts)
            self._texts.append(text)
        return f"!{self._numbers[text]}"

    def reserve(self) -> str:
        """A node whose text follows by `define`: others refer to it, and it to them."""
        self._texts.append("!{}")
        return f"!{len(self._texts) - 1}"

    def define(self, node: str, text: str) -> None:
        self._texts[int(node[1:])] = text

    def text(self) -> str:
        return "\n".join(f"!{number} = {text}" for number, text in enumerate(self._texts))
