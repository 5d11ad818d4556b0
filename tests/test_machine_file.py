"""The machine description file: what it says, and how it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from devc.cli.run import described
from devc.runtime.machine_file import (
    Description,
    DeviceChoice,
    DiskChoice,
    MachineFileError,
    ModuleChoice,
    from_mapping,
    read,
    size,
    to_mapping,
)

WHOLE = """
guest = "kernel.flat"
append = "one two"
host = "kvm"
memory = "64M"
vcpus = 2
irqchip = "split"
hide_kvm = true
serial = "serial.txt"
console = "none"
timeout = 2.5

[[device]]
type = "i8254"

[[device]]
type = "hpet"
name = "timers"
timers = 5
base = "nowhere"
fsb = true

[[device]]
type = "mine.dev"

[disk]
image = "disk.img"
writable = true

[[module]]
file = "/env"
text = "NR_CPUS=2"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "pc.toml"
    path.write_text(text)
    return path


def test_every_key_is_read_and_paths_are_the_file_s_neighbours(tmp_path: Path) -> None:
    assert read(written(tmp_path, WHOLE)) == Description(
        guest=tmp_path / "kernel.flat",
        append="one two",
        host="kvm",
        memory=64 << 20,
        vcpus=2,
        irqchip="split",
        hide_kvm=True,
        serial=str(tmp_path / "serial.txt"),
        console="none",
        timeout=2.5,
        devices=(
            DeviceChoice("i8254"),
            DeviceChoice("hpet", "timers", {"timers": 5, "base": None, "fsb": 1}),
            DeviceChoice(str(tmp_path / "mine.dev")),
        ),
        disk=DiskChoice(tmp_path / "disk.img", True),
        modules=(ModuleChoice(Path("/env"), "NR_CPUS=2"),),
    )


def test_a_description_goes_through_json_and_back(tmp_path: Path) -> None:
    description = read(written(tmp_path, WHOLE))
    assert from_mapping(json.loads(json.dumps(to_mapping(description)))) == description


@pytest.mark.parametrize(
    ("text", "bytes"),
    [("640K", 640 << 10), ("128M", 128 << 20), ("2GiB", 2 << 30), ("0x1000", 4096), (77, 77)],
)
def test_sizes_have_units(text: str | int, bytes: int) -> None:
    assert size(text) == bytes


WRONG = {
    "x = = 1": "line 1",
    "vcpu = 2": "did you mean 'vcpus'",
    "colour = 1": "it has guest, firmware",
    "vcpus = 0": "a number from 1",
    "vcpus = true": "a number from 1",
    'memory = "much"': "640K, 128M",
    "memory = true": "640K, 128M",
    'irqchip = "some"': "kernel, split",
    "append = 3": "a text",
    'append = "\\u0000"': "a text",
    'hide_kvm = "yes"': "true or false",
    "timeout = -1": "a number of seconds",
    'disk = "disk.img"': "a table with image",
    "[disk]\nwritable = true": "needs an image",
    '[disk]\nimage = "x"\nwriteable = true': "did you mean 'writable'",
    "[device]\nx = 1": "[[device]]",
    "[[device]]\nbase = 1": "needs a type",
    '[[device]]\ntype = "hpet"\ntimers = "five"': "a number, true, false",
    "[[module]]\ntext = 'x'": "needs a file",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_makes_no_sense_is_refused_with_what_would(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(MachineFileError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert WRONG[text] in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MachineFileError, match="No such file"):
        read(tmp_path / "nowhere.toml")
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(MachineFileError, match="not text"):
        read(path)


# --- the command line over it ----------------------------------------------------------------


def test_options_win_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    options = {
        "guest": Path("other.flat"),
        "memory": "32M",
        "vcpus": 4,
        "devices": ["hpet,timers=7,base=nowhere"],
        "disk": "a,b.img,writable",
        "modules": ["env one two"],
        "append": None,
        "hide_kvm": False,
    }
    found = described(path, options)
    assert (found.guest, found.memory, found.vcpus) == (Path("other.flat"), 32 << 20, 4)
    assert found.devices == (DeviceChoice("hpet", None, {"timers": 7, "base": None}),)
    assert found.disk == DiskChoice(Path("a,b.img"), True)
    assert found.modules == (ModuleChoice(Path("env"), "one two"),)
    assert (found.append, found.hide_kvm) == ("one two", True)


def test_a_module_s_file_may_have_a_space_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "two words"
    path.touch()
    assert described(None, {"modules": [str(path)]}).modules == (ModuleChoice(path),)


def test_a_guest_on_the_command_line_replaces_the_file_s_firmware(tmp_path: Path) -> None:
    path = written(tmp_path, 'firmware = "bios.bin"')
    found = described(path, {"guest": Path("g.bin")})
    assert (found.guest, found.firmware) == (Path("g.bin"), None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"devices": ["hpet,timers"]}, "'timers' is not PARAM=NUMBER, such as"),
        ({"devices": ["hpet,timers=x"]}, "'timers=x' is not PARAM=NUMBER"),
        ({"vcpus": 0}, "vcpus is a number from 1"),
        ({"irqchip": "both"}, "irqchip is one of"),
        ({"memory": "lots"}, "memory is a size such as"),
    ],
)
def test_wrong_options_are_refused_with_what_would_do(options: dict[str, object], says: str) -> None:
    with pytest.raises(MachineFileError, match=says):
        described(None, options)
