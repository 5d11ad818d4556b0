"""The devices' documents say what the devices are."""

from __future__ import annotations

import re

import pytest
from devc.compiler.driver import load

from . import device_docs
from .device_docs import DOCS, RECORDED, SHIPPED


def tables_of(device: str) -> set[str]:
    """What its document must have."""
    inputs = {"inputs"} if load(device).module.inputs else set()
    differences = {"differences"} if device in RECORDED else set()
    return {"parameters", "registers", "lines", *inputs, *differences}


def text_of(device: str) -> str:
    return (DOCS / f"{device}.md").read_text()


def test_every_device_has_a_document_and_every_document_a_device() -> None:
    assert sorted(path.stem for path in DOCS.glob("*.md")) == SHIPPED


@pytest.mark.parametrize("device", SHIPPED)
def test_a_document_has_every_table(device: str) -> None:
    assert {name for _, name, _, _ in re.findall(device_docs._TABLE, text_of(device))} == tables_of(device)


@pytest.mark.parametrize("device", SHIPPED)
def test_the_tables_of_a_document_are_current(device: str) -> None:
    text = text_of(device)
    assert text == device_docs.current(device, text), "run: python -m tests.device_docs --write"


@pytest.mark.parametrize("device", sorted(RECORDED))
def test_every_difference_from_qemu_is_explained(device: str) -> None:
    old = next(
        old for _, name, old, _ in re.findall(device_docs._TABLE, text_of(device)) if name == "differences"
    )
    explained = dict(device_docs.causes(old))
    assert len(explained) == len(old.splitlines()) - 2
    assert all(len(words) > 20 for words in explained.values())


@pytest.mark.parametrize("device", SHIPPED)
def test_the_tests_that_a_document_names_exist(device: str) -> None:
    tests = "\n".join(path.read_text() for path in DOCS.parent.parent.glob("tests/test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text_of(device)):
        assert f"def {name}(" in tests, name


def test_a_stale_table_is_noticed() -> None:
    text = text_of("i8254")
    assert device_docs.current("i8254", text.replace("`control`", "`kontrol`")) == text
