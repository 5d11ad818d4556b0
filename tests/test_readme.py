"""The README's device file and program are what they are said to be."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(kind: str = "") -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for language, text in fenced if language == kind]


def test_the_device_file_shown_is_the_one_shipped() -> None:
    assert (ROOT / "devices" / "acpi_pm.dev").read_text() in blocks()


def test_the_program_shown_prints_what_is_shown() -> None:
    (program,) = blocks("python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "README.md", "exec"), {})
    assert printed.getvalue() in blocks()


def test_every_file_linked_is_there() -> None:
    linked = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [path for path in linked if not path.startswith("http") and not (ROOT / path).exists()]
    assert missing == []
