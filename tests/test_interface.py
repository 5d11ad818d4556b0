"""A module's interface survives JSON whole, and damaged JSON is refused."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from devc.compiler import interface, ir

from .ir_samples import ticker

PYTHON = ir.Python(
    "speaker", "speaker.py", "observer", "sound is no device's business", (("out", "rises", (0,)),), (), 7
)
MODULE = replace(ticker(), pythons=(PYTHON,), doc='ünïcode \x00 "quoted"')


def test_an_interface_is_read_back_as_it_was_but_for_its_functions() -> None:
    assert interface.load(interface.dump(MODULE)) == replace(MODULE, functions=())


def test_an_interface_is_rebuilt_in_milliseconds() -> None:
    slots = tuple(replace(MODULE.slots[-1], name=f"s{i}") for i in range(200))
    content = interface.dump(replace(MODULE, slots=slots))
    best = min(_seconds(content) for _ in range(5))
    assert best < 0.02


def _seconds(content: bytes) -> float:
    start = time.perf_counter()
    interface.load(content)
    return time.perf_counter() - start


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'["devc interface",3,[]]',
        b'["devc interface",1,[]]',
        b"[" * 10**5,
    ],
)
def test_what_is_no_interface_is_refused(content: bytes) -> None:
    with pytest.raises(interface.InterfaceError, match="not an interface"):
        interface.load(content)


def test_a_wrong_type_anywhere_is_refused() -> None:
    """Each leaf in turn becomes a value that no field allows."""
    document = json.loads(interface.dump(MODULE))
    count = 0
    for holder, index in _leaves(document):
        old, holder[index] = holder[index], 2.5
        with pytest.raises(interface.InterfaceError):
            interface.load(json.dumps(document).encode())
        holder[index] = old
        count += 1
    assert count > 100


def test_a_missing_or_an_extra_field_is_refused() -> None:
    document = json.loads(interface.dump(MODULE))
    for change in (lambda row: row.pop(), lambda row: row.append(0)):
        changed = json.loads(json.dumps(document))
        change(changed[2][4][0])
        with pytest.raises(interface.InterfaceError, match="array of"):
            interface.load(json.dumps(changed).encode())


def _leaves(node: list[object]) -> list[tuple[list[object], int]]:
    found = []
    for index, child in enumerate(node):
        found += _leaves(child) if isinstance(child, list) else [(node, index)]
    return found
