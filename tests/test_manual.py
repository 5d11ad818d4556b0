"""The manual and the list of errors say what is so: every example compiles, or is refused as it says.

A fence marked `device` is a file; one marked `members` stands inside a device,
which the test puts around it; `refused CODE` is either, and refused with that
code; `python` is Python.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from devc.compiler.elaborate import elaborate
from devc.compiler.jit import compile_module
from devc.dsl.diagnostics import CODES, DeviceFileError, Source
from devc.dsl.parser import parse

DOCS = Path(__file__).parent.parent / "docs"
FENCE = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.M | re.S)
FILE = re.compile(r"^(device|block|enum|layout)\b", re.M)


def fences(name: str) -> list[tuple[str, str, str]]:
    """Every fence of a document: its mark, the code after it, the text."""
    return FENCE.findall((DOCS / name).read_text())


def source(text: str) -> Source:
    """The example as a file."""
    if FILE.search(text):
        return Source("example.dev", text)
    return Source("example.dev", "device example():\n" + re.sub(r"^(?=.)", "    ", text, flags=re.M))


EXAMPLES = [(name, *fence) for name in ("language.md", "errors.md") for fence in fences(name)]


@pytest.mark.parametrize(
    ("mark", "code", "text"),
    [example[1:] for example in EXAMPLES],
    ids=[f"{name}-{mark}{code}-{i}" for i, (name, mark, code, _) in enumerate(EXAMPLES)],
)
def test_an_example_is_what_it_is_marked_as(mark: str, code: str, text: str) -> None:
    given = source(text)
    match mark:
        case "python":
            ast.parse(text)
        case "device" | "members":
            module, warnings = elaborate(parse(given), given)
            assert not [w.render(given) for w in warnings if w.code != code]
            assert {w.code for w in warnings} == ({code} if code else set())
            compile_module(module, None)
        case "refused":
            with pytest.raises(DeviceFileError) as caught:
                elaborate(parse(given), given)
            assert {found.code for found in caught.value.diagnostics} == {code}, str(caught.value)
        case _:
            raise AssertionError(f"what is a fence marked {mark!r}?")


def test_the_list_of_errors_has_every_code_and_no_other() -> None:
    text = (DOCS / "errors.md").read_text()
    found = re.findall(r"^### ([EW]\d{3}): (.*)$", text, re.M)
    assert [code for code, _ in found] == list(CODES)
    assert dict(found) == CODES


def test_every_code_that_a_file_alone_can_have_is_shown() -> None:
    shown = {code for mark, code, _ in fences("errors.md") if mark in ("refused", "members", "device")}
    assert {code for code in CODES if code[1] not in "78"} - shown == set()


def test_links_of_the_manual_lead_somewhere() -> None:
    for name in ("language.md", "errors.md"):
        text = (DOCS / name).read_text()
        heads = {
            re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-")
            for head in re.findall(r"^#+ (.*)$", text, re.M)
        }
        for target in re.findall(r"\]\(([^)]+)\)", text):
            page, _, anchor = target.partition("#")
            assert not page or (DOCS / page).exists(), target
            assert page or anchor in heads, target
