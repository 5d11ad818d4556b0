"""What a running machine tells of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from devc.cli.live import rendered, watched
from devc.cli.terminal import OutputError
from devc.runtime.assemble import assemble
from devc.runtime.clock import HostClock
from devc.runtime.counters import Deadlines, Sample, Watch, median
from devc.runtime.hosts.kvm import VcpuTimes
from devc.runtime.machine import Machine
from devc.runtime.vmm import RegisterCount, Vmm
from rich.console import Console

GUEST = """
        .code16
        movw    $100, %cx
1:      inb     $0x40, %al
        loop    1b
        outb    %al, $0xf4
"""


def times(runs: int, host_ns: int, asleep_ns: int = 0) -> VcpuTimes:
    return VcpuTimes(runs, 0, 3, guest_ns=3 * host_ns, host_ns=host_ns, asleep_ns=asleep_ns)


def sample(seconds: float, light: int, posted: int, runs: int) -> Sample:
    return Sample(
        seconds,
        int(seconds * 1e9),
        (
            RegisterCount("rtc", "index", "write", 0, 0, posted),
            RegisterCount("pit", "data", "read", light, 2, 0, light_ns=7 * light, heavy_ns=60_000),
        ),
        (Deadlines("pit", 5, 2047, 1900),),
        (times(runs, runs * 300),),
        (0, 0),
    )


def shown(now: Sample, before: Sample | None) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(rendered(now, before))
    return console.export_text()


def test_a_rate_is_of_the_time_since_the_last_look() -> None:
    text = shown(sample(2.5, 1500, 40, 2000), sample(2.0, 1000, 40, 1000))
    assert "1,000 exits/s" in text  # 500 more, in half a second
    pit, rtc = (
        next(line for line in text.splitlines() if name in line) for name in ("pit.data", "rtc.index")
    )
    assert pit.split() == ["pit.data", "read", "1,000", "1,500", "7", "2", "30,000", "0"]
    assert rtc.split() == ["rtc.index", "write", "0", "0", "-", "0", "-", "40"]
    assert text.index("pit.data") < text.index("rtc.index")  # the busiest comes first


def test_a_posted_write_is_no_exit() -> None:
    assert sample(1, 10, 1000, 0).exits == 12


def test_lateness_and_a_vcpus_time_are_shown() -> None:
    text = shown(sample(1.0, 1000, 0, 1000), None)
    assert ["pit", "5", "<", "2.0", "1.9"] in [line.split() for line in text.splitlines()]
    assert ["0", "1,000", "300", "75%", "0%", "3"] in [line.split() for line in text.splitlines()]


@pytest.mark.parametrize(
    ("buckets", "upper"), [([1], 1), ([0, 0, 3], 7), ([2, 1, 2], 3), ([0] * 10 + [1, 1], 2047)]
)
def test_the_median_is_the_upper_end_of_its_bucket(buckets: list[int], upper: int) -> None:
    assert median(buckets) == upper


def run(path: Path | None) -> list[RegisterCount]:
    machine = Machine(HostClock())
    machine.add("i8254")
    with Vmm(machine) as vmm:
        vmm.exit_port()
        vmm.host.load(assemble(GUEST, 0x1000), 0x1000)
        vmm.host.boot(0x1000)
        with watched(vmm, table=False, file=path):
            vmm.run()
        return vmm.counts()


def test_the_last_line_of_json_tells_all_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / "counters.json"
    counts = run(path)
    last = json.loads(path.read_text().splitlines()[-1])
    (read,) = (r for r in last["registers"] if r["access"] == "read")
    assert (read["device"], read["register"], read["light"]) == ("i8254", "channel[0].data", 100)
    assert last["exits"] == sum(c.light + c.heavy for c in counts) == 101
    assert last["seconds"] > 0


def test_a_file_that_cannot_be_written_is_an_error_before_the_guest_runs(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        run(tmp_path / "missing" / "counters.json")


def test_a_sample_can_be_taken_before_anything_ran() -> None:
    machine = Machine(HostClock())
    machine.add("acpi_pm")
    with Vmm(machine) as vmm:
        taken = Watch(vmm).sample()
    assert (taken.registers, taken.deadlines, taken.exits) == ((), (), 0)
