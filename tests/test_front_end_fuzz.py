"""Whatever a text is, the front end takes it or refuses it: never a traceback, never long.

Shipped devices and error cases are changed at random: tokens and lines are
dropped, doubled, swapped, replaced by others; bytes change; the text is cut
off anywhere. What is still accepted passes the verifier (elaborate runs it),
and now and then is compiled. DEVC_LONG=1 tries many more.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from devc.compiler.driver import DEVICES
from devc.compiler.elaborate import elaborate
from devc.compiler.jit import compile_module
from devc.dsl.diagnostics import DeviceFileError, Source
from devc.dsl.parser import parse

from .error_cases import DIRECTORY

LONG = bool(int(os.environ.get("DEVC_LONG", "0")))
TEXTS = [path.read_text() for path in sorted([*DEVICES.glob("*.dev"), *DIRECTORY.glob("*.dev")])]
TOKEN = re.compile(r"\s+|\w+|\"[^\"\n]*\"|#[^\n]*|[^\w\s]")
WORDS = sorted({word for text in TEXTS for word in re.findall(r"\w+|[^\w\s]", text)})
ODD = ("\0", "\t", "\r\n", "\r", "\ufeff", "é", "\u2028", '"', '"""', "#", "0x", "9" * 30, "(" * 45, "\x7f")
LIMIT = 30
"""Seconds for one text, on a busy machine."""


def survives(text: str, compile_too: bool = False) -> None:
    """The text is taken or refused."""
    before = time.monotonic()
    source = Source("fuzz.dev", text)
    refused: DeviceFileError | None = None
    try:
        module, found = elaborate(parse(source), source)
    except DeviceFileError as error:
        refused, found = error, error.diagnostics
    assert time.monotonic() - before < LIMIT
    assert found or not refused
    assert all(each.span.line >= 1 and each.message and each.render(source) for each in found)
    if compile_too and not refused:
        compile_module(module, None)


def mutated(rng: Random, text: str) -> str:
    """The text after a few changes of one kind or several."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        text = rng.choice((tokens, tokens, tokens, lines, lines, characters, cut))(rng, text)
    return text


def tokens(rng: Random, text: str) -> str:
    found = TOKEN.findall(text)
    meaning = [i for i, token in enumerate(found) if not token.isspace() and token[0] != "#"]
    if len(meaning) < 2:
        return text
    i, j = rng.choice(meaning), rng.choice(meaning)
    match rng.randrange(5):
        case 0:
            found[i] = ""
        case 1:
            found[i] = f"{found[i]} {found[i]}"
        case 2:
            found[i], found[j] = found[j], found[i]
        case 3:
            found[i] = found[j]
        case _:
            found[i] = rng.choice(WORDS)
    return "".join(found)


def lines(rng: Random, text: str) -> str:
    found = text.split("\n")
    i, j = rng.randrange(len(found)), rng.randrange(len(found))
    match rng.randrange(6):
        case 0:
            del found[i]
        case 1:
            found.insert(j, found[i])
        case 2:
            found[i], found[j] = found[j], found[i]
        case 3:
            found[i] = " " * rng.choice((1, 4, 8)) + found[i]
        case 4:
            found[i] = found[i][rng.choice((1, 2, 4)) :]
        case _:
            found[i] = found[i].strip()
    return "\n".join(found)


def characters(rng: Random, text: str) -> str:
    at = rng.randrange(len(text) + 1)
    new = rng.choice((*ODD, chr(rng.randrange(32, 127)), ""))
    return text[:at] + new + text[at + rng.randrange(3) :]


def cut(rng: Random, text: str) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] if rng.random() < 0.7 else text[at:]


@pytest.mark.parametrize("seed", range(4000 if LONG else 60))
def test_a_changed_device_file_is_taken_or_refused(seed: int) -> None:
    rng = Random(seed)
    survives(mutated(rng, rng.choice(TEXTS)), compile_too=rng.random() < 0.02)


@pytest.mark.parametrize("path", sorted(DEVICES.glob("*.dev")), ids=lambda path: path.stem)
def test_a_device_file_cut_off_anywhere_is_taken_or_refused(path: Path) -> None:
    text = path.read_text()
    for end in range(0, len(text), 1 if LONG else len(text) // 12):
        survives(text[:end])


@pytest.mark.parametrize("seed", range(200 if LONG else 10))
def test_random_bytes_are_taken_or_refused(seed: int, tmp_path: Path) -> None:
    rng = Random(seed)
    path = tmp_path / "random.dev"
    path.write_bytes(rng.randbytes(rng.choice((1, 10, 1000, 100_000))))
    with suppress(DeviceFileError):
        survives(Source.read(path).text)


@pytest.mark.parametrize("seed", range(500 if LONG else 12))
def test_random_words_are_taken_or_refused(seed: int) -> None:
    rng = Random(seed)
    words = [rng.choice(WORDS) for _ in range(rng.choice((3, 30, 300)))]
    ends = [rng.choice((" ", " ", " ", "\n", "\n    ", "\n        ")) for _ in words]
    head = rng.choice(("", "device d():\n    ", "device d():\n    proc f():\n        "))
    survives(head + "".join(word + end for word, end in zip(words, ends, strict=True)))


def test_tabs_indent_and_crlf_ends_lines() -> None:
    text = "device d():\r\n\tstate a: u8\r\n\tline out\r\n\tdrive out = a == 3\r\n"
    survives(text)
    source = Source("tabs.dev", text)
    assert elaborate(parse(source), source)[0].lines[0].name == "out"


@pytest.mark.parametrize(
    "text",
    [
        "\n" * 200_000,
        "#" * 1_900 + "\n" * 100,
        "device d():\n" + "    state a: u8\n" * 4_000,
        "device d():\n" + "".join(f"    state a{i}: u8\n" for i in range(4_000)),
        "device d():\n    state s: u8\n" + "".join(f"    let a{i} = s + {i}\n" for i in range(4_000)),
        "device d():\n" + "    foo bar\n" * 5_000,
        'device d():\n    """' + "x\n" * 100_000,
        "(" * 1_000 + "\n" * 1_000,
        ")" * 1_000,
        "enum E: " + ", ".join(f"m{i}" for i in range(10_000)),
        "device d():\n    state a: u8\n    let x = match a:\n"
        + "".join(f"        {i} -> {i}\n" for i in range(256)),
        "device d():\n    state a: u16\n    let x = match a:\n"
        + "".join(f"        {i}..{i + 255} -> {i}\n" for i in range(0, 65536, 256)),
        "device d():\n    state a: u64\n    let x = a in {" + ",\n".join(map(str, range(0, 30_000, 3))) + "}",
    ],
    ids=str.__len__,
)  # fmt: skip
def test_a_long_text_is_taken_or_refused_in_time(text: str) -> None:
    survives(text)
