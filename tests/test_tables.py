"""The parser's tables that are shipped, and what happens when they do not fit."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from devc.dsl import tables
from devc.dsl.parser import Blocks
from lark import Lark, UnexpectedInput
from lark.indenter import DedentError

GRAMMAR = tables.GRAMMAR.read_text(encoding="utf-8")
FILES = sorted(Path(tables.__file__).parent.parent.glob("*/*.dev"))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The grammars that a parser was built of, instead of being loaded."""
    seen: list[str] = []
    build = tables.build

    def noting(text: str, postlex: Any) -> Lark:
        seen.append(text)
        return build(text, postlex)

    monkeypatch.setattr(tables, "build", noting)
    return seen


def test_the_tables_are_of_the_grammar_as_it_is() -> None:
    made_of, _ = json.loads(tables.TABLES.read_text(encoding="utf-8").partition("\n")[0])
    assert made_of == tables.identity(GRAMMAR), "run: python -m devc.dsl.tables"


def test_the_tables_parse_every_device_file_as_the_grammar_does(built: list[str]) -> None:
    loaded, made = tables.load(Blocks()), tables.build(GRAMMAR, Blocks())
    assert len(built) == 1
    assert FILES
    for file in FILES:
        text = file.read_text(encoding="utf-8") + "\n"
        assert loaded.parse(text) == made.parse(text), file


@pytest.mark.parametrize("damage", ["older grammar", "cut short", "no JSON", "empty", "missing"])
def test_tables_that_do_not_fit_are_not_used(
    damage: str, built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tables.TABLES.read_text(encoding="utf-8")
    damaged = {
        "older grammar": whole.replace(tables.identity(GRAMMAR), tables.identity(GRAMMAR + " ")),
        "cut short": whole[: len(whole) // 2],
        "no JSON": "these are no tables",
        "empty": "",
    }
    monkeypatch.setattr(tables, "TABLES", tmp_path / "grammar.json")
    if damage in damaged:
        tables.TABLES.write_text(damaged[damage], encoding="utf-8")
    tables.load(Blocks()).parse("device d():\n    let a = 1\n")
    assert built == [GRAMMAR]


def test_tables_that_were_dumped_are_loaded_again(
    built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "grammar.json"
    path.write_text(tables.dump(GRAMMAR, Blocks()), encoding="utf-8")
    monkeypatch.setattr(tables, "TABLES", path)
    built.clear()
    tables.load(Blocks()).parse("device d():\n    let a = 1\n")
    assert built == []


def outcome(parser: Lark, text: str) -> object:
    """The tree, or all that an error says."""
    try:
        return parser.parse(text)
    except UnexpectedInput as error:
        expected = getattr(error, "accepts", None) or getattr(error, "expected", None) or error.allowed
        return type(error), error.pos_in_stream, error.line, error.column, frozenset(expected)
    except DedentError as error:
        return str(error)


def test_one_scanner_reads_what_a_scanner_for_each_state_reads() -> None:
    plain = Lark(GRAMMAR, postlex=Blocks(), **tables.OPTIONS)
    quick = tables.load(Blocks())
    chance = random.Random(5)
    words = sorted({word for file in FILES for word in file.read_text(encoding="utf-8").split()})
    for file in FILES:
        lines = file.read_text(encoding="utf-8").split("\n")
        for _ in range(12):
            changed = list(lines)
            at = chance.randrange(len(changed))
            parts = changed[at].split(" ")
            parts[chance.randrange(len(parts))] = chance.choice([*words, "state", "(", "é", '"', "*", ""])
            changed[at] = " ".join(parts)
            text = "\n".join(changed) + "\n"
            assert outcome(quick, text) == outcome(plain, text), text


def test_a_keyword_where_none_is_expected_is_a_name() -> None:
    text = "device reset(size: port = 1):\n    state lanes: u8\n    let step = lanes\n"
    assert "lanes" in {str(token) for token in tables.load(Blocks()).parse(text).scan_values(lambda v: True)}
