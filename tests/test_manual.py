"""Every construct that the manual shows compiles, and errors.md lists every code."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent

import pytest
from devc.compiler.elaborate import elaborate
from devc.dsl.diagnostics import CODES, Source
from devc.dsl.parser import parse

DOCS = Path(__file__).parent.parent / "docs"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / "language.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_what_the_manual_shows_compiles(number: int) -> None:
    kind, text = BLOCKS[number]
    assert kind in ("device", "member")
    if kind == "member":
        text = "device shown(base: port = 0x100):\n" + indent(text, "    ")
    source = Source("language.md", text)
    module, _ = elaborate(parse(source), source)
    assert module.functions


def test_the_manual_of_errors_lists_every_code_and_no_other() -> None:
    listed = re.findall(r"^## ([EW]\d+)", (DOCS / "errors.md").read_text(), re.MULTILINE)
    assert listed == list(CODES)
