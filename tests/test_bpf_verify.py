"""`devc verify`: what the running kernel says of each device, and of one that is unsafe."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from devc.cli.verify import FAILED, MISSING, Outcome, Subject, at_home, report, table
from devc.compiler import bpf_kvm
from devc.compiler.bpf_compile import object_code
from devc.compiler.driver import DEVICES, load
from devc.dsl.diagnostics import Source
from devc.runtime import bpf
from devc.runtime.verification import Verdict
from devc.runtime.verifier_log import Figures, Refusal
from rich.console import Console

from .bpf_rig import ROOT, devc, needs_bpf

NAMES = sorted(path.stem for path in DEVICES.glob("*.dev"))
AT_HOME = {"i8254": ["speaker"], "mc146818": ["nvram"]}


# --- accepted -------------------------------------------------------------------------


@needs_bpf
def test_the_kernel_accepts_every_program_of_every_device(tmp_path: Path) -> None:
    results = tmp_path / "verified.json"
    done = devc("verify", *NAMES, "--json", results)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(results.read_text())
    assert [device["name"] for device in found] == list(NAMES)
    for device in found:
        programs = {
            program["program"].removeprefix(device["name"] + "_"): program for program in device["programs"]
        }
        assert set(programs) >= {"read", "write", "settle", "deadline", "batch"}
        for program in programs.values():
            assert program["accepted"]
            assert program["processed"] < 1_000_000
            assert program["instructions"] > 0
            assert program["stack"] <= 512
            assert program["milliseconds"] > 0
            assert re.search(rf"{program['program']} +accepted +{program['instructions']} ", done.stdout)
    assert [device["user_space"] for device in found] == [AT_HOME.get(name, []) for name in NAMES]


@needs_bpf
def test_an_object_file_is_verified_without_its_device_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bpf.o"
    path.write_bytes(load("acpi_pm").bpf())
    done = devc("verify", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "acpi_pm_batch" in done.stdout


@needs_bpf
def test_programs_in_the_shape_of_the_patch_series_are_accepted(tmp_path: Path) -> None:
    device = load("acpi_pm")
    path = tmp_path / "acpi_pm.kvm.bpf.o"
    path.write_bytes(object_code(device.reference_module(), device.source, programs=bpf_kvm.build))
    done = devc("verify", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"acpi_pm_io_read +accepted", done.stdout)
    assert re.search(r"acpi_pm_io_write +accepted", done.stdout)


@needs_bpf
def test_the_log_tells_each_step(tmp_path: Path) -> None:
    done = devc("verify", "acpi_pm", "--log")
    assert done.returncode == 0
    assert "# acpi_pm_read\n" in done.stdout
    assert re.search(r"^\d+: \(..\) .*; R", done.stdout, re.M)


def test_what_stays_in_user_space_is_listed_by_name() -> None:
    listed = list(at_home(load(ROOT / "examples" / "scratch.dev").reference_module()))
    assert [re.search(r"user space: (\w+)", line)[1] for line in listed] == ["frame", "xorshift"]  # type: ignore[index]
    assert all("busy: user space" in line for line in listed)
    (speaker,) = at_home(load("i8254").module)
    assert "speaker (speaker.py)" in speaker


# --- refused --------------------------------------------------------------------------

UNSAFE = {
    # A slot whose index is not masked: the object, the program, and what the line says.
    "i8254": (["channel.load.due"], "i8254_settle", "on load:"),
    "hpet": (["timer.config.narrow"], "hpet_read", "reg config"),
}


@needs_bpf
@pytest.mark.parametrize("name", UNSAFE)
def test_a_device_made_unsafe_is_refused_and_reported_with_its_line(name: str, tmp_path: Path) -> None:
    slots, program, says = UNSAFE[name]
    device = load(name)
    path = tmp_path / "unsafe.o"
    path.write_bytes(object_code(device.reference_module(), device.source, unguarded=slots))
    done = devc("verify", path)
    assert done.returncode == FAILED
    assert re.search(rf"{program} +refused", done.stdout)
    told = next(each for each in done.stderr.split("\n\n") if f"refuses {program}:" in each)
    assert told.startswith("error[E801]: the kernel's verifier refuses")
    place = re.search(rf"--> .*{name}\.dev:(\d+):\d+\n", told)
    assert place is not None, told
    line = device.source.line(int(place[1]))
    assert says in line
    assert line.rstrip() in told
    assert "= help: instruction" in told


def test_a_refusal_without_a_line_names_the_device_file() -> None:
    subject = Subject("x", None, None, Source("x.dev", "device x():\n"))  # type: ignore[arg-type]
    told = report("x_read", Refusal("combined stack size of 9 calls is 704. Too large"), subject)
    assert told.startswith("error[E801]: the kernel's verifier refuses x_read: combined stack size")
    assert " --> x.dev:1:1" in told


def test_the_table_has_a_row_a_program() -> None:
    verdicts = [
        Verdict("x_read", 12, Figures(34, 5, 6700, 8), 6.7, None, ""),
        Verdict("x_write", 12, Figures(34, 5, 6700, 8), 6.7, Refusal("R1 !read_ok"), ""),
    ]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(Outcome(Subject("x", None), verdicts)))  # type: ignore[arg-type]
    text = console.export_text()
    assert re.search(r"x_read +accepted +12 +34 +8 +6\.7", text)
    assert re.search(r"x_write +refused", text)


BAD = {
    "none.dev": (None, "there is no device file|cannot read the file"),
    "none.o": (None, "No such file"),
    "bad.o": (b"\x7fELF nonsense", "no well-formed ELF object"),
    "bad.dev": (b"device 7", r"error\[E002\]"),
}


@needs_bpf
def test_files_that_cannot_be_used_are_errors_and_the_rest_is_verified(tmp_path: Path) -> None:
    for name, (content, _) in BAD.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    done = devc("verify", *(tmp_path / name for name in BAD), "acpi_pm")
    assert done.returncode == FAILED
    for _, says in BAD.values():
        assert re.search(says, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert "acpi_pm_read" in done.stdout


def test_no_file_is_a_usage_error() -> None:
    assert devc("verify").returncode == 2


# --- not permitted, or not there -------------------------------------------------------


def test_without_permission_it_says_so_and_how_to_mend_it_with_a_status_of_its_own() -> None:
    done = devc("verify", "acpi_pm", permitted=False)
    assert done.returncode == MISSING
    assert done.stdout == ""
    assert re.match(r"devc verify: (no permission for bpf\(2\)|th(is|ere) )", done.stderr)
    assert "= help: " in done.stderr
    assert "Traceback" not in done.stderr


@needs_bpf
def test_what_is_missing_and_what_would_give_it_are_named() -> None:
    done = devc("verify", "acpi_pm", permitted=False)
    assert "this process has no CAP_BPF and no CAP_PERFMON" in done.stderr
    assert "run as root, or give this Python CAP_BPF and CAP_PERFMON" in done.stderr


def test_a_refusal_says_that_the_verifier_distrusts_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CAP_PERFMON it refuses more: the HPET, on Linux 6.18."""
    subject = Subject("x", None, None, Source("x.dev", "device x():\n"))  # type: ignore[arg-type]
    refused = Refusal("The sequence of 8193 jumps is too complex.", 12, "(16) if w0 == 0x0 goto pc-9")
    monkeypatch.setattr(bpf, "capabilities", lambda: {"CAP_BPF"})
    assert "no CAP_PERFMON" in report("x_read", refused, subject)
    monkeypatch.setattr(bpf, "capabilities", lambda: {"CAP_BPF", "CAP_PERFMON"})
    assert "no CAP_PERFMON" not in report("x_read", refused, subject)


@pytest.mark.parametrize(
    ("number", "says"),
    [(38, "no bpf(2)"), (1, "no permission"), (22, "5.17 or newer"), (12, "Cannot allocate")],
)
def test_each_way_to_fail_has_its_own_words(number: int, says: str) -> None:
    told = bpf.why(bpf.BpfError(number, "making the map x"))
    assert says in f"{told.reason}; {told.mend}"
