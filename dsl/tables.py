"""The parser's tables, made ahead of time: building them from the grammar takes longer than a device.

`grammar.json` says which grammar, options and version of Lark it was made of;
for any other it counts as absent, and the tables are built. Make it anew with

    python -m devc.dsl.tables

Plain data, not Lark's own pickles, since a pickle may run anything when read.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import lark
from lark import Lark
from lark.grammar import Rule
from lark.lexer import TerminalDef

from .lexing import QuickLexer

GRAMMAR = Path(__file__).with_name("grammar.lark")
TABLES = Path(__file__).with_name("grammar.json")
PLUGINS = {"ContextualLexer": QuickLexer}
OPTIONS: dict[str, Any] = {"parser": "lalr", "propagate_positions": True, "maybe_placeholders": True}

FORMAT = 1

# JSON has no integers as keys and no classes: such a dictionary is {PAIRS: [[key, value], ...]},
# and Lark's record of a class {RECORD + its name: [values]}, its keys being in the file's first line.
PAIRS = "#"
RECORD = "="
CLASS = "__type__"


def load(postlex: Any) -> Lark:
    """The parser of device files: from the tables if they fit, else from the grammar."""
    text = GRAMMAR.read_text(encoding="utf-8")
    try:
        with TABLES.open(encoding="utf-8") as file:
            made_of, classes = json.loads(file.readline())
            if made_of != identity(text):
                return build(text, postlex)
            data, memo = json.loads(file.read(), object_hook=lambda found: _revived(found, classes))
    except (OSError, ValueError):
        return build(text, postlex)
    parser = data["parser"]["parser"]
    parser["states"] = {state: _actions(row) for state, row in parser["states"].items()}
    data["options"] |= {"postlex": postlex, "_plugins": PLUGINS}
    return Lark.load({"data": data, "memo": memo})


def build(text: str, postlex: Any) -> Lark:
    """The parser, from the grammar's text."""
    return Lark(text, postlex=postlex, _plugins=PLUGINS, **OPTIONS)


def identity(text: str) -> str:
    """What tables depend on."""
    return hashlib.sha256(f"{FORMAT} {lark.__version__} {OPTIONS}\n{text}".encode()).hexdigest()


def dump(text: str, postlex: Any) -> str:
    """The tables of a grammar; Lark numbers what is in them in no fixed order."""
    data, memo = build(text, postlex).memo_serialize([TerminalDef, Rule])
    del data["options"]["postlex"], data["options"]["_plugins"]
    parser = data["parser"]["parser"]
    parser["states"] = {state: _row(actions) for state, actions in parser["states"].items()}
    classes: dict[str, list[str]] = {}
    body = [_plain(data, classes), _plain(memo, classes)]
    head = [identity(text), dict(sorted(classes.items()))]
    return "".join(json.dumps(part, separators=(",", ":")) + "\n" for part in (head, body))


def _row(actions: dict[int, tuple[int, Any]]) -> list[int]:
    """A state's actions: token, then the state to go to or -1 - the rule to reduce by, token, ..."""
    return [n for token, (reduce, arg) in actions.items() for n in (token, -1 - arg["@"] if reduce else arg)]


def _actions(row: list[int]) -> dict[int, tuple[int, Any]]:
    pairs = zip(row[::2], row[1::2], strict=True)
    return {token: (0, action) if action >= 0 else (1, {"@": -1 - action}) for token, action in pairs}


def _plain(value: Any, classes: dict[str, list[str]]) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item, classes) for item in value]
    if not isinstance(value, dict):
        return value
    if any(isinstance(key, int) for key in value):
        return {PAIRS: [[key, _plain(item, classes)] for key, item in value.items()]}
    keys = [key for key in value if key != CLASS]
    if CLASS in value and classes.setdefault(value[CLASS], keys) == keys:
        return {RECORD + value[CLASS]: [_plain(value[key], classes) for key in keys]}
    return {key: _plain(item, classes) for key, item in value.items()}


def _revived(found: dict[str, Any], classes: dict[str, list[str]]) -> Any:
    if len(found) == 1:
        ((key, value),) = found.items()
        if key == PAIRS:
            return dict(value)
        if key[0] == RECORD:
            return {**dict(zip(classes[key[1:]], value, strict=True)), CLASS: key[1:]}
    return found


def main() -> None:
    """Write the tables of the grammar as it is."""
    from .parser import Blocks

    TABLES.write_text(dump(GRAMMAR.read_text(encoding="utf-8"), Blocks()), encoding="utf-8")


if __name__ == "__main__":
    main()
