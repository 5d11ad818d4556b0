"""A whole machine as data, and the TOML file that says it.

    guest = "kernel.flat"
    append = "quiet"
    vcpus = 2

    [[device]]
    type = "hpet"
    timers = 5

    [disk]
    image = "disk.img"

`Description` is what the file, the command line and a saved guest have in common:
`from_mapping` reads it from TOML's or JSON's terms, `to_mapping` gives those back.
docs/run.md lists the keys.

Non-goals: building the machine (runtime/boot.py).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from .hosts.kvm_vm import Irqchip

IRQCHIPS: tuple[str, ...] = get_args(Irqchip)
SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
MOST_VCPUS = 64
_SIZE = re.compile(r"(\d+|0x[0-9a-fA-F]+)([KMG]?)(i?B)?")


class MachineFileError(ValueError):
    """A description that makes no sense; the message says which key, and what it takes."""


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """A device: a shipped one's name or a device file's path, and its parameters; an
    address parameter of None leaves its windows unmapped."""

    type: str
    name: str | None = None
    params: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DiskChoice:
    """A raw image for the ATA disk."""

    image: Path
    writable: bool = False


@dataclass(frozen=True, slots=True)
class ModuleChoice:
    """A file beside a multiboot kernel, and the text that goes with it."""

    file: Path
    text: str = ""


@dataclass(frozen=True, slots=True)
class Description:
    """A machine and its guest. None: what suits the guest (runtime/boot.py).

    `memory` in bytes; `timeout` in seconds of the guest's time; `serial` and
    `console`: "stdio", "none", or a file's path.
    """

    guest: Path | None = None
    firmware: Path | None = None
    append: str = ""
    modules: tuple[ModuleChoice, ...] = ()
    host: str | None = None
    memory: int | None = None
    vcpus: int = 1
    irqchip: str | None = None
    hide_kvm: bool = False
    devices: tuple[DeviceChoice, ...] | None = None
    disk: DiskChoice | None = None
    serial: str | None = None
    console: str | None = None
    timeout: float | None = None


def size(text: str | int, what: str = "memory") -> int:
    """Bytes: a number, or a text such as "640K", "128M", "2G". Raises MachineFileError."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise MachineFileError(f"{what} is a size such as 640K, 128M or 2G, not {text!r}")
    return int(match[1], 0) * SIZE_UNITS[match[2]]


def read(path: Path) -> Description:
    """The machine in a TOML file; its paths are relative to it. Raises MachineFileError."""
    try:
        mapping = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MachineFileError(f"cannot read the machine file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise MachineFileError(f"the machine file {path} is not text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise MachineFileError(f"{path}: {error}") from None
    try:
        return from_mapping(mapping, path.parent)
    except MachineFileError as error:
        raise MachineFileError(f"{path}: {error}") from None


def from_mapping(mapping: Mapping[str, Any], folder: Path = Path()) -> Description:
    """A description from TOML's or JSON's terms; paths are relative to `folder`."""
    _check_keys(mapping, _KEYS, "a machine")
    values = {}
    for key, value in mapping.items():
        name, read_value = _KEYS[key]
        values[name] = read_value(value, key, folder)
    return Description(**values)


def to_mapping(description: Description) -> dict[str, Any]:
    """The description in JSON's terms: `from_mapping` gives it back."""
    mapping: dict[str, Any] = {}
    names = {name: key for key, (name, _) in _KEYS.items()}
    for f in fields(Description):
        value = getattr(description, f.name)
        if value is None or value == f.default:
            continue
        mapping[names[f.name]] = _plain(value)
    return mapping


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, DeviceChoice):
        named = {} if value.name is None else {"name": value.name}
        params = {k: ("nowhere" if v is None else v) for k, v in value.params.items()}
        return {"type": value.type, **named, **params}
    if isinstance(value, DiskChoice):
        return {"image": _plain(value.image), "writable": value.writable}
    if isinstance(value, ModuleChoice):
        return {"file": _plain(value.file), "text": value.text}
    return value


# --- values -----------------------------------------------------------------------------

Reader = Callable[[Any, str, Path], Any]


def _wrong(key: str, takes: str, value: object) -> MachineFileError:
    return MachineFileError(f"{key} is {takes}, not {value!r}")


def _text(value: Any, key: str, folder: Path) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _wrong(key, "a text", value)
    return value


def _flag(value: Any, key: str, folder: Path) -> bool:
    if not isinstance(value, bool):
        raise _wrong(key, "true or false", value)
    return value


def _path(value: Any, key: str, folder: Path) -> Path:
    return folder / Path(_text(value, key, folder)).expanduser()


def _output(value: Any, key: str, folder: Path) -> str:
    text = _text(value, key, folder)
    return text if text in ("stdio", "none") else str(_path(value, key, folder))


def _vcpus(value: Any, key: str, folder: Path) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_VCPUS:
        raise _wrong(key, f"a number from 1 to {MOST_VCPUS}", value)
    return value


def _irqchip(value: Any, key: str, folder: Path) -> str:
    if value not in IRQCHIPS:
        raise _wrong(key, f"one of {', '.join(IRQCHIPS)}", value)
    return str(value)


def _seconds(value: Any, key: str, folder: Path) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e9:
        raise _wrong(key, "a number of seconds", value)
    return float(value)


def _memory(value: Any, key: str, folder: Path) -> int:
    return size(value, key)


def _table(value: Any, key: str, keys: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(key, f"a table with {', '.join(keys)}", value)
    _check_keys(value, keys, key)
    return value


def _disk(value: Any, key: str, folder: Path) -> DiskChoice:
    table = _table(value, key, {"image": 0, "writable": 0})
    if "image" not in table:
        raise MachineFileError(f"{key} needs an image: a raw file of 512-byte sectors")
    return DiskChoice(
        _path(table["image"], "image", folder), _flag(table.get("writable", False), "writable", folder)
    )


def _modules(value: Any, key: str, folder: Path) -> tuple[ModuleChoice, ...]:
    found = []
    for item in _list(value, key):
        table = _table(item, key, {"file": 0, "text": 0})
        if "file" not in table:
            raise MachineFileError(f"{key} needs a file")
        found.append(
            ModuleChoice(_path(table["file"], "file", folder), _text(table.get("text", ""), "text", folder))
        )
    return tuple(found)


def _devices(value: Any, key: str, folder: Path) -> tuple[DeviceChoice, ...]:
    found = []
    for item in _list(value, key):
        if not isinstance(item, Mapping) or "type" not in item:
            raise MachineFileError(f"each {key} needs a type: a shipped device's name, or a device file")
        kind = _text(item["type"], "type", folder)
        if "/" in kind or kind.endswith(".dev"):
            kind = str(folder / kind)
        name = _text(item["name"], "name", folder) if "name" in item else None
        params = {k: _param(v, k) for k, v in item.items() if k not in ("type", "name")}
        found.append(DeviceChoice(kind, name, params))
    return tuple(found)


def _param(value: Any, key: str) -> int | None:
    if value == "nowhere":
        return None
    if not isinstance(value, int):
        raise _wrong(key, 'a number, true, false, or "nowhere" for an address', value)
    return int(value)


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(key, f"a list of tables: write [[{key}]]", value)
    return value


_KEYS: dict[str, tuple[str, Reader]] = {
    "guest": ("guest", _path),
    "firmware": ("firmware", _path),
    "append": ("append", _text),
    "module": ("modules", _modules),
    "host": ("host", _text),
    "memory": ("memory", _memory),
    "vcpus": ("vcpus", _vcpus),
    "irqchip": ("irqchip", _irqchip),
    "hide_kvm": ("hide_kvm", _flag),
    "device": ("devices", _devices),
    "disk": ("disk", _disk),
    "serial": ("serial", _output),
    "console": ("console", _output),
    "timeout": ("timeout", _seconds),
}


def _check_keys(given: Mapping[str, Any], known: Mapping[str, Any], what: str) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(known)}"
            raise MachineFileError(f"{what} has no {key!r}{hint}")
