"""What a device file may be refused for: every case beside its line, every code, every place that refuses.

The files in `errors/` say themselves what is expected (error_cases.py). What
cannot be written as a file there (limits, bytes) stands below.
"""

from __future__ import annotations

import ast
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from devc.compiler import budget, locks
from devc.compiler.driver import load
from devc.compiler.elaborate import elaborate
from devc.dsl import diagnostics
from devc.dsl.diagnostics import CODES, DeviceFileError, Diagnostic, Reject, Source
from devc.dsl.parser import parse

from .error_cases import DIRECTORY, difference, expected, reported

ROOT = Path(diagnostics.__file__).parent.parent
FILES = sorted(DIRECTORY.glob("*.dev"))


def refused(text: str) -> list[Diagnostic]:
    """The errors of a text that must have some; in bounded time."""
    before = time.monotonic()
    source = Source("test.dev", text)
    with pytest.raises(DeviceFileError) as caught:
        elaborate(parse(source), source)
    assert time.monotonic() - before < 30
    assert str(caught.value)
    return caught.value.diagnostics


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_refused_for_exactly_what_it_says(path: Path) -> None:
    found = difference(Source(path.name, path.read_text()))
    assert not found, found


# --- limits ----------------------------------------------------------------

HEAD = "device d():\n    state s: u8\n"
LIMITS = {
    "a long line": HEAD + "    let x = " + "1 + " * 600 + "1\n",
    "many brackets": HEAD + "    let x = " + "(" * 50 + "1" + ")" * 50 + "\n",
    "deep indentation": HEAD + "".join(" " * i + "proc p():\n" for i in range(4, 200, 4)),
    "many operators": HEAD + "    let x = " + "1 + " * 100 + "1\n",
    "many negations": HEAD + "    let x = " + "not " * 300 + "true\n",
    "many powers": HEAD + "    let x = (" + "1 **\n" * 3000 + "1)\n",
    "many conditionals": HEAD + "    let x = (" + "1 if s == 1 else\n" * 3000 + "1)\n",
    "many attributes": HEAD + "    let x = s" + ".a" * 500 + "\n",
    "many indices": HEAD + "    let x = s" + "[0]" * 500 + "\n",
    "many calls": HEAD + "    let x = s" + "(0)" * 500 + "\n",
    "many elifs": HEAD + "    proc p():\n        if s == 1: pass\n" + "        elif s == 2: pass\n" * 200,
    "many choices": HEAD + "    let x = s in {" + ", ".join(f"s / {i + 1}" for i in range(100)) + "}\n",
    "equations in a row": HEAD
    + "    let x0 = s\n"
    + "".join(f"    let x{i + 1} = x{i} ^ 1\n" for i in range(100)),
    "equations in a row, backwards": HEAD
    + "".join(f"    let x{i} = x{i + 1} ^ 1\n" for i in range(100))
    + "    let x100 = s\n",
    "an expression that doubles": HEAD + "    let x = " + "(" * 16 + "s" + " in {1, 4}) + s" * 16 + "\n",
    "many Python parts": HEAD
    + "".join(f'    python "p.py" p{i}:\n        why "x"\n        reads s\n' for i in range(33)),
    "equations that double": HEAD
    + "    let x0 = s\n"
    + "".join(f"    let x{i + 1} = x{i} ^ x{i}\n" for i in range(40)),
    "procedures that double": HEAD
    + "    proc p0(): s = 1\n"
    + "".join(f"    proc p{i + 1}(): p{i}(); p{i}()\n" for i in range(40)),
    "too much stored": HEAD + "".join(f"    state x{i}: u8[4096]\n" for i in range(5)),
    "a great deal to check": "block B():\n    state s: u8\n"
    + "".join(f"    let x{i} = s + {i}\n" for i in range(600))
    + "device d():\n"
    + "".join(f"    b{i}: B()\n" for i in range(400)),
}


@pytest.mark.parametrize("name", LIMITS)
def test_what_is_too_long_or_too_deep_is_said_so(name: str) -> None:
    assert {"E003", "E601"} & {found.code for found in refused(LIMITS[name])}


def test_a_drive_of_equations_that_double_is_too_large() -> None:
    doubled = "".join(f"    let x{i + 1} = x{i} == (x{i} == {i % 2})\n" for i in range(40))
    text = (
        f"device d():\n    state s: bool\n    line out\n    let x0 = s\n{doubled}    drive out = x40 == 1\n"
    )
    assert [found.code for found in refused(text)] == ["E003"]


# --- texts that are none -----------------------------------------------------


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"device d():\n    state \xff: u8\n", 2, "not UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00\x00", 1, "NUL"),
        (b"x" * (10 << 20), 1, "longer than 256 KiB"),
        (b"", 1, "no device"),
        (b"\n\n# nothing\n", 1, "no device"),
    ],
)
def test_a_file_that_is_no_device_file_is_refused_at_once(
    tmp_path: Path, content: bytes, line: int, message: str
) -> None:
    path = tmp_path / "bad.dev"
    path.write_bytes(content)
    before = time.monotonic()
    with pytest.raises(DeviceFileError, match=message) as caught:
        load(path, None).reference_module()
    assert time.monotonic() - before < 5
    assert [(found.code, found.span.line) for found in caught.value.diagnostics] == [("E001", line)]


def test_a_file_that_is_not_there_is_named_and_the_shipped_devices_are_listed(tmp_path: Path) -> None:
    with pytest.raises(DeviceFileError, match=r"E001.*\n.*nowhere\.dev"):
        load(tmp_path / "nowhere.dev", None)
    with pytest.raises(DeviceFileError, match=r"(?s)no device file 'i8255'.*acpi_pm, .*i8254"):
        load("i8255", None)
    with pytest.raises(DeviceFileError, match="E001"):
        load(tmp_path, None)


def test_a_byte_order_mark_and_crlf_line_ends_are_no_errors(tmp_path: Path) -> None:
    shipped = (ROOT / "devices" / "acpi_pm.dev").read_bytes()
    path = tmp_path / "acpi_pm.dev"
    path.write_bytes(b"\xef\xbb\xbf" + shipped.replace(b"\n", b"\r\n"))
    assert load(path, None).reference_module() == load("acpi_pm", None).reference_module()


def test_more_errors_than_are_shown_are_counted() -> None:
    found = refused(HEAD + "".join(f"    let x{i} = gone{i}\n" for i in range(30)))
    assert len(found) == 30
    assert "... and 10 more" in str(DeviceFileError(Source("test.dev", ""), found))


def test_a_report_has_place_line_marks_and_help() -> None:
    source = Source("test.dev", "device d():\n    state a: u8\n    let b: u8 = a + 1\n")
    with pytest.raises(DeviceFileError) as caught:
        elaborate(parse(source), source)
    assert str(caught.value) == (
        "error[E201]: 'b' holds u8, the value may be 1..256\n"
        " --> test.dev:3:17\n"
        "  |\n"
        "3 |     let b: u8 = a + 1\n"
        "  |                 ^^^^^\n"
        "  = help: narrow it: wrap(...) drops high bits, sat(...) clamps, a slice [7:0] or a branch selects"
    )


# --- completeness --------------------------------------------------------------


def test_a_lock_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.lock"
    path.write_text("no lock")
    found = locks.check(load("acpi_pm").module, path)
    assert [each.code for each in found] == ["E704"]


def test_every_code_has_a_case() -> None:
    covered = {case.code for path in FILES for case in expected(path.read_text())}
    with_locks = (DIRECTORY.parent / "test_locks.py").read_text()  # of two files: the device's and its lock
    covered |= {code for code in CODES if code[1] == "7" and code in with_locks}
    assert covered | {"E003", "E704", "E801"} == set(CODES)  # E801: test_bpf_verify.py


def refusals() -> Iterator[tuple[str, int]]:
    """Every place in the front end that makes an error, as file and line."""
    for path in sorted([*(ROOT / "dsl").glob("*.py"), *(ROOT / "compiler").glob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Reject" and node.args:
                yield f"{path.parent.name}/{path.name}", node.lineno


UNREACHED: dict[str, str] = {
    '"the indentation matches no open block", Span(1, 1, 1, 1)': "only if Lark sees another indentation",
    "too large together": "a test of its own, above",
    "takes more than": "a test of its own, above",
}
"""By a piece of the call's source: why no file leads there."""


def test_every_refusal_is_reached_by_some_case(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: set[tuple[str, int]] = set()
    make = Reject.__init__

    def recorded(self: Reject, *args: object, **named: object) -> None:
        caller = sys._getframe(1)
        path = Path(caller.f_code.co_filename)
        reached.add((f"{path.parent.name}/{path.name}", caller.f_lineno))
        make(self, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Reject, "__init__", recorded)
    for path in FILES:
        reported(Source(path.name, path.read_text()))
    for name, text in LIMITS.items():
        if name != "a great deal to check":
            refused(text)
    missing = {place for place in refusals() if place not in reached}
    lines = {
        (name, line): "\n".join((ROOT / name).read_text().split("\n")[line - 1 : line + 3])
        for name, line in missing
    }
    unexplained = {
        place: text for place, text in lines.items() if not any(part in text for part in UNREACHED)
    }
    assert not unexplained, "\n\n".join(f"{f}:{n}\n{text}" for (f, n), text in sorted(unexplained.items()))


def test_the_limits_stand_in_their_messages() -> None:
    assert re.search(f"{budget.MAX_STORED:,}", str(refused(LIMITS["too much stored"])))
