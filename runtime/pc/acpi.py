"""ACPI tables for the devices that a machine has (ACPI 6.5; section numbers are its).

    tables = build(description, 0xE0000)
    host.load(tables.content, tables.address)     # the RSDP comes first

The description says where things stand; nothing here looks for them. Everything is
32-bit addressed, so both RSDT and XSDT name every table.

Non-goals: control methods: the DSDT declares sleep states and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

OEM, CREATOR = b"DEVC  ", b"DEVC"

IO_SPACE, MEMORY_SPACE = 1, 0  # 5.2.3.2, address space ids

LOCAL_APIC, IO_APIC = 0xFEE0_0000, 0xFEC0_0000
SCI = 9

SLEEP_S3, SLEEP_S5 = 1, 0
"""Values of SLP_TYP, which the DSDT gives away: \\_S3 and \\_S5."""


@dataclass(frozen=True, slots=True)
class Override:
    """An ISA interrupt that is not input `irq` of the I/O APIC, or not edge and high (5.2.12.5)."""

    irq: int
    gsi: int
    flags: int = 0


HIGH_LEVEL = 0x0D
"""Flags of an override: active high, level; 0 is as the bus has it (ISA: edge, active high)."""


@dataclass(frozen=True, slots=True)
class Description:
    """The machine as its tables tell it.

    `pm_base`: PM1a event block, timer at +8 (None: no PM timer, and no fixed hardware);
    `pm_control`: PM1a control block; `pm_wide`: a 32-bit timer;
    `hpet`: its base and 32 low bits of its capabilities;
    `apics`: processors have local APICs, else there is no MADT;
    `io_apic`: None without one; `overrides` of its inputs; `pics`: there are 8259s;
    `century`: CMOS index; `reset_port`: port and value;
    `legacy`: IA-PC boot architecture flags (5.2.9.3).
    """

    vcpus: int = 1
    pm_base: int | None = None
    pm_control: int | None = None
    pm_wide: bool = False
    hpet: tuple[int, int] | None = None
    apics: bool = True
    io_apic: int | None = IO_APIC
    overrides: tuple[Override, ...] = ()
    pics: bool = True
    century: int = 0
    reset_port: tuple[int, int] | None = None
    legacy: int = 0


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables as bytes for `address`, and where each of them lies, by signature.

    For a firmware that puts them elsewhere: `pointers` are (offset, bytes) of every
    address within, `sums` (offset, first, length) of every checksum.
    """

    address: int
    content: bytes
    places: Mapping[str, int] = field(default_factory=dict)
    pointers: tuple[tuple[int, int], ...] = ()
    sums: tuple[tuple[int, int, int], ...] = ()


LEGACY_DEVICES, NO_VGA, NO_CLOCK = 1 << 0, 1 << 2, 1 << 5
"""IA-PC boot architecture flags (5.2.9.3)."""

# Fixed feature flags (5.2.9, table 5.10).
_WBINVD, _C1, _NO_POWER_BUTTON, _NO_SLEEP_BUTTON = 1 << 0, 1 << 2, 1 << 4, 1 << 5
_RTC_OUTSIDE_PM1, _RTC_WAKES, _TIMER_WIDE, _RESET = 1 << 6, 1 << 7, 1 << 8, 1 << 10
_HARDWARE_REDUCED = 1 << 20
_NO_C2, _NO_C3 = 101, 1001  # latencies beyond 100 and 1000 us: the states are absent
_PC_AT_COMPATIBLE = 1  # 5.2.12, table 5.20

_HEADER = struct.Struct("<4sIBB6s8sI4sI")


def checksum(content: bytes | bytearray) -> int:
    """What makes the bytes' sum 0 modulo 256 (5.2.6)."""
    return -sum(content) & 0xFF


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A system description table: header (5.2.6) and body, checksum right."""
    identity = OEM + b"DEVC" + signature
    head = _HEADER.pack(
        signature, _HEADER.size + len(body), revision, 0, identity[:6], identity[6:], 1, CREATOR, 1
    )
    whole = bytearray(head + body)
    whole[9] = checksum(whole)
    return bytes(whole)


def address(space: int, width: int, place: int) -> bytes:
    """Generic Address Structure (5.2.3.2): `width` in bits, byte or word access by it."""
    access = {8: 1, 16: 2, 32: 3, 64: 4}.get(width, 0)
    return struct.pack("<BBBBQ", space, width, 0, access, place)


def rsdp(rsdt: int, xsdt: int) -> bytes:
    """Root System Description Pointer (5.2.5.3), version 2, with both its checksums."""
    first = bytearray(struct.pack("<8sB6sBI", b"RSD PTR ", 0, OEM, 2, rsdt))
    first[8] = checksum(first)
    whole = bytearray(first + struct.pack("<IQB3x", 36, xsdt, 0))
    whole[32] = checksum(whole)
    return bytes(whole)


def facs() -> bytes:
    """Firmware ACPI Control Structure (5.2.10): no checksum, aligned to 64 bytes."""
    return struct.pack("<4sIIIIIQB31x", b"FACS", 64, 0, 0, 0, 0, 0, 2)


def madt(about: Description) -> bytes:
    """Multiple APIC Description Table (5.2.12): processors, I/O APIC, what is not as on an ISA bus."""
    body = bytearray(struct.pack("<II", LOCAL_APIC, _PC_AT_COMPATIBLE if about.pics else 0))
    for number in range(about.vcpus):
        body += struct.pack("<BBBBI", 0, 8, number, number, 1)
    if about.io_apic is not None:
        body += struct.pack("<BBBBII", 1, 12, 0, 0, about.io_apic, 0)
        for o in about.overrides:
            body += struct.pack("<BBBBIH", 2, 10, 0, o.irq, o.gsi, o.flags)
    body += struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1)  # NMI at LINT1 of every processor
    return table(b"APIC", 3, bytes(body))


def hpet(base: int, capabilities: int) -> bytes:
    """IA-PC HPET specification 1.0a, 3.2.4: the event timer block's id, address, shortest period."""
    return table(
        b"HPET",
        1,
        struct.pack("<I", capabilities) + address(MEMORY_SPACE, 64, base) + struct.pack("<BHB", 0, 0x80, 0),
    )


def _package(name: bytes, values: tuple[int, ...]) -> bytes:
    """AML (20.2.5): Name (\\NAME, Package () {bytes})."""
    elements = b"".join(b"\x0a" + bytes([value]) for value in values)
    return b"\x08\\" + name + b"\x12" + bytes([len(elements) + 2, len(values)]) + elements


def dsdt(about: Description) -> bytes:
    """Differentiated System Description Table: the sleep states that PM1 control knows (7.4.2)."""
    states = b""
    if about.pm_control is not None:
        states = _package(b"_S3_", (SLEEP_S3, SLEEP_S3, 0, 0)) + _package(b"_S5_", (SLEEP_S5, SLEEP_S5, 0, 0))
    return table(b"DSDT", 2, states)


# The FADT's fields after the header (table 5.9), in order; "G" is an address structure.
_FADT = (
    ("firmware_ctrl", "I"), ("dsdt", "I"), ("int_model", "B"), ("pm_profile", "B"), ("sci_int", "H"),
    ("smi_cmd", "I"), ("acpi_enable", "B"), ("acpi_disable", "B"), ("s4bios_req", "B"), ("pstate_cnt", "B"),
    ("pm1a_evt_blk", "I"), ("pm1b_evt_blk", "I"), ("pm1a_cnt_blk", "I"), ("pm1b_cnt_blk", "I"),
    ("pm2_cnt_blk", "I"), ("pm_tmr_blk", "I"), ("gpe0_blk", "I"), ("gpe1_blk", "I"),
    ("pm1_evt_len", "B"), ("pm1_cnt_len", "B"), ("pm2_cnt_len", "B"), ("pm_tmr_len", "B"),
    ("gpe0_blk_len", "B"), ("gpe1_blk_len", "B"), ("gpe1_base", "B"), ("cst_cnt", "B"),
    ("p_lvl2_lat", "H"), ("p_lvl3_lat", "H"), ("flush_size", "H"), ("flush_stride", "H"),
    ("duty_offset", "B"), ("duty_width", "B"), ("day_alrm", "B"), ("mon_alrm", "B"), ("century", "B"),
    ("iapc_boot_arch", "H"), ("reserved", "B"), ("flags", "I"), ("reset_reg", "G"), ("reset_value", "B"),
    ("arm_boot_arch", "H"), ("minor_version", "B"), ("x_firmware_ctrl", "Q"), ("x_dsdt", "Q"),
    ("x_pm1a_evt_blk", "G"), ("x_pm1b_evt_blk", "G"), ("x_pm1a_cnt_blk", "G"), ("x_pm1b_cnt_blk", "G"),
    ("x_pm2_cnt_blk", "G"), ("x_pm_tmr_blk", "G"), ("x_gpe0_blk", "G"), ("x_gpe1_blk", "G"),
    ("sleep_control_reg", "G"), ("sleep_status_reg", "G"), ("hypervisor", "Q"),
)  # fmt: skip


def fadt(about: Description, facs_at: int, dsdt_at: int) -> bytes:
    """Fixed ACPI Description Table (5.2.9), revision 6. SMI_CMD 0: always in ACPI mode."""
    values: dict[str, int | bytes] = {
        "firmware_ctrl": facs_at,
        "dsdt": dsdt_at,
        "x_dsdt": dsdt_at,
        "sci_int": SCI,
        "p_lvl2_lat": _NO_C2,
        "p_lvl3_lat": _NO_C3,
        "century": about.century,
        "iapc_boot_arch": about.legacy,
        "flags": _flags(about),
    }
    blocks: dict[str, tuple[int | None, int]] = {
        "pm1a_evt": (about.pm_base, 4),
        "pm1a_cnt": (about.pm_control, 2),
        "pm_tmr": (None if about.pm_base is None else about.pm_base + 8, 4),
    }
    for name, (place, size) in blocks.items():
        if place is not None:
            values[f"{name}_blk"] = place
            values[f"{name.replace('1a', '1')}_len"] = size
            values[f"x_{name}_blk"] = address(IO_SPACE, 8 * size, place)
    if about.reset_port is not None:
        values["reset_reg"] = address(IO_SPACE, 8, about.reset_port[0])
        values["reset_value"] = about.reset_port[1]
    return table(b"FACP", 6, b"".join(_field(kind, values.get(name, 0)) for name, kind in _FADT))


def _field(kind: str, value: int | bytes) -> bytes:
    if kind == "G":
        return value if isinstance(value, bytes) else bytes(12)
    return struct.pack(f"<{kind}", value)


def _flags(about: Description) -> int:
    conditions = (
        (about.pm_base is None, _HARDWARE_REDUCED),
        (about.pm_wide, _TIMER_WIDE),
        (about.reset_port is not None, _RESET),
        (bool(about.century), _RTC_OUTSIDE_PM1 | _RTC_WAKES),
    )
    always = _WBINVD | _C1 | _NO_POWER_BUTTON | _NO_SLEEP_BUTTON
    return always | sum(flag for condition, flag in conditions if condition)


ROOT = 64
"""Bytes before the first table: the RSDP's, and what aligns the rest."""
_RSDP_SIZE, _FACS, _DSDT, _X_DSDT = 36, 36, 40, 140


def build(about: Description, base: int) -> Tables:
    """All tables for `base`, a multiple of 64: the RSDP first, each on a 64-byte border."""
    content = bytearray(ROOT)
    places: dict[str, int] = {}
    pointers: list[tuple[int, int]] = [(16, 4), (24, 8)]
    sums: list[tuple[int, int, int]] = [(8, 0, 20), (32, 0, _RSDP_SIZE)]

    def put(name: str, made: bytes, *inside: tuple[int, int]) -> int:
        content.extend(bytes(-len(content) % 64))
        at = len(content)
        places[name] = base + at
        content.extend(made)
        pointers.extend((at + offset, size) for offset, size in inside)
        if name != "FACS":
            sums.append((at + 9, at, len(made)))
        return base + at

    facs_at = put("FACS", facs())
    fixed = fadt(about, facs_at, put("DSDT", dsdt(about)))
    listed = [put("FACP", fixed, (_FACS, 4), (_DSDT, 4), (_X_DSDT, 8))]
    if about.apics:
        listed.append(put("APIC", madt(about)))
    if about.hpet is not None:
        listed.append(put("HPET", hpet(*about.hpet)))
    roots = []
    for name, kind, size in (("RSDT", "I", 4), ("XSDT", "Q", 8)):
        made = table(name.encode(), 1, struct.pack(f"<{len(listed)}{kind}", *listed))
        roots.append(put(name, made, *((_HEADER.size + size * n, size) for n in range(len(listed)))))
    content[:_RSDP_SIZE] = rsdp(*roots)
    places["RSD PTR "] = base
    return Tables(base, bytes(content), places, tuple(pointers), tuple(sums))
