"""bpf(2): maps, type information and programs in the running kernel, by its system call.

    available()                                 # BpfUnavailable says what is missing, and how to mend it
    state = Map.create(MapSpec("state", value_size=64, flags=MMAPABLE | MMAPABLE))
    program = Program.load(code, license="Dual BSD/GPL")
    status = program.run(context)               # BPF_PROG_TEST_RUN; the context is written back

Every object owns a file descriptor, given back by `close` or with the object.

Non-goals: reading object files (bpf_object.py); attaching to anything.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361, "loongarch64": 280}
"""bpf(2)'s number, by machine."""

MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, PROG_LOAD, TEST_RUN = 0, 1, 2, 5, 10
INFO_BY_FD, BTF_LOAD, MAP_FREEZE = 15, 18, 22

ARRAY = 2
MMAPABLE, READ_ONLY_PROGRAM = 1 << 10, 1 << 7
"""Map flags: mmap(2) works; programs may not write."""

SYSCALL, SLEEPABLE = 31, 1 << 4
"""The type of program that a test run gives a context of one's own; it must be loaded as one
that may sleep."""

LOG_NONE, LOG_STEPS, LOG_ALL, LOG_FIGURES = 0, 1, 2, 4
"""What the verifier says: nothing; each step, but of what it has found to be right nothing is
left; each step and what it knew there; totals."""
SMALL_LOG, LARGE_LOG = 1 << 16, 1 << 24
"""Bytes; the second is the most that every kernel takes. Of a longer log its end is kept."""

NAME = 15
"""Characters of an object's name in the kernel."""
WORD = 8
"""Bytes of an instruction, and what a map's values are rounded up to."""


class BpfError(OSError):
    """A bpf(2) call failed: `what` was being done, `log` is what the kernel said of it."""

    def __init__(self, number: int, what: str, log: str = "") -> None:
        super().__init__(number, os.strerror(number))
        self.what, self.log = what, log

    def __str__(self) -> str:
        return f"{self.what}: {self.strerror}"


class Rejected(BpfError):
    """The verifier refused a program; `log` says why."""


class BpfUnavailable(Exception):
    """This machine or this process cannot use eBPF: `reason`, and how to `mend` it."""

    def __init__(self, reason: str, mend: str) -> None:
        super().__init__(f"{reason}; {mend}")
        self.reason, self.mend = reason, mend


# --- the attributes of each command (linux/bpf.h, union bpf_attr) ------------------


def _fields(text: str) -> list[tuple[str, Any]]:
    """`u32 name`, `u64 name` or `char name[n]`, separated by commas."""
    kinds: dict[str, Any] = {"u32": ctypes.c_uint32, "u64": ctypes.c_uint64, "char": ctypes.c_char}
    made = []
    for each in text.replace("\n", " ").split(","):
        kind, name = each.split()
        name, _, count = name.partition("[")
        made.append((name, kinds[kind] * int(count[:-1]) if count else kinds[kind]))
    return made


class _Create(ctypes.Structure):
    _fields_ = _fields(
        "u32 map_type, u32 key_size, u32 value_size, u32 max_entries, u32 map_flags, u32 inner_map_fd,"
        "u32 numa_node, char map_name[16], u32 map_ifindex, u32 btf_fd, u32 btf_key_type_id,"
        "u32 btf_value_type_id"
    )


class _Element(ctypes.Structure):
    _fields_ = _fields("u32 map_fd, u32 pad, u64 key, u64 value, u64 flags")


class _Load(ctypes.Structure):
    _fields_ = _fields(
        "u32 prog_type, u32 insn_cnt, u64 insns, u64 license, u32 log_level, u32 log_size, u64 log_buf,"
        "u32 kern_version, u32 prog_flags, char prog_name[16], u32 prog_ifindex, u32 expected_attach_type,"
        "u32 prog_btf_fd, u32 func_info_rec_size, u64 func_info, u32 func_info_cnt, u32 line_info_rec_size,"
        "u64 line_info, u32 line_info_cnt, u32 attach_btf_id"
    )


class _Run(ctypes.Structure):
    _fields_ = _fields(
        "u32 prog_fd, u32 retval, u32 data_size_in, u32 data_size_out, u64 data_in, u64 data_out,"
        "u32 repeat, u32 duration, u32 ctx_size_in, u32 ctx_size_out, u64 ctx_in, u64 ctx_out, u32 flags,"
        "u32 cpu, u32 batch_size, u32 pad"
    )


class _Info(ctypes.Structure):
    _fields_ = _fields("u32 bpf_fd, u32 info_len, u64 info")


class _Btf(ctypes.Structure):
    _fields_ = _fields("u64 btf, u64 btf_log_buf, u32 btf_size, u32 btf_log_size, u32 btf_log_level")


class _Freeze(ctypes.Structure):
    _fields_ = _fields("u32 map_fd")


class ProgramInfo(ctypes.Structure):
    """What the kernel says of a program (linux/bpf.h, struct bpf_prog_info); sizes in bytes."""

    _fields_ = _fields(
        "u32 type, u32 id, char tag[8], u32 jited_prog_len, u32 xlated_prog_len, u64 jited_prog_insns,"
        "u64 xlated_prog_insns, u64 load_time, u32 created_by_uid, u32 nr_map_ids, u64 map_ids,"
        "char name[16], u32 ifindex, u32 bits, u64 netns_dev, u64 netns_ino, u32 nr_jited_ksyms,"
        "u32 nr_jited_func_lens, u64 jited_ksyms, u64 jited_func_lens, u32 btf_id, u32 func_info_rec_size,"
        "u64 func_info, u32 nr_func_info, u32 nr_line_info, u64 line_info, u64 jited_line_info,"
        "u32 nr_jited_line_info, u32 line_info_rec_size, u32 jited_line_info_rec_size, u32 nr_prog_tags,"
        "u64 prog_tags, u64 run_time_ns, u64 run_cnt, u64 recursion_misses, u32 verified_insns,"
        "u32 attach_btf_obj_id, u32 attach_btf_id, u32 pad"
    )


@cache
def _entry() -> Any:
    """The C library's syscall(2), for bpf(2)'s arguments."""
    if not sys.platform.startswith("linux") or platform.machine() not in _NUMBERS:
        raise BpfUnavailable(
            f"there is no bpf(2) on {sys.platform} {platform.machine()}", "run this on Linux, x86-64 or arm64"
        )
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_ulong)
    function.restype = ctypes.c_long
    return function


def _call(command: int, attributes: ctypes.Structure, what: str) -> int:
    """bpf(2), once more where it asks for that. Raises BpfError."""
    entry, number = _entry(), _NUMBERS[platform.machine()]
    for _ in range(5):
        result: int = entry(number, command, ctypes.addressof(attributes), ctypes.sizeof(attributes))
        if result >= 0:
            return result
        # A load gives up with EAGAIN when a signal arrives while the verifier is at work.
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    raise BpfError(ctypes.get_errno(), what)


def _pointer(data: bytes | bytearray | ctypes.Array[Any] | None) -> int:
    """Where bytes lie; they must outlive the call."""
    if data is None:
        return 0
    if isinstance(data, ctypes.Array):
        return ctypes.addressof(data)
    if isinstance(data, bytearray):
        return ctypes.addressof(ctypes.c_char.from_buffer(data))
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0


def _named(name: str) -> bytes:
    """A name as the kernel takes it."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in name)[:NAME].encode()


class _Descriptor:
    """Owns a file descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.close = weakref.finalize(self, os.close, fd)


# --- type information ----------------------------------------------------------------


class Btf(_Descriptor):
    """Type information in the kernel."""

    @classmethod
    def load(cls, data: bytes) -> Btf:
        """BpfError, with the kernel's log, if it is malformed."""
        for size in (0, SMALL_LOG):
            log = ctypes.create_string_buffer(size) if size else None
            attributes = _Btf(_pointer(data), _pointer(log), len(data), size, LOG_STEPS if size else 0)
            try:
                return cls(_call(BTF_LOAD, attributes, "loading type information"))
            except BpfError as error:
                error.log = log.value.decode(errors="replace") if log else ""
                refusal = error
        raise refusal


# --- maps ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MapSpec:
    """A map to be made. Sizes in bytes; `key_type` and `value_type` are BTF type numbers."""

    name: str
    value_size: int
    max_entries: int = 1
    flags: int = 0
    type: int = ARRAY
    key_size: int = 4
    key_type: int = 0
    value_type: int = 0


class Map(_Descriptor):
    """An array map."""

    def __init__(self, fd: int, spec: MapSpec) -> None:
        super().__init__(fd)
        self.spec = spec

    @classmethod
    def create(cls, spec: MapSpec, btf: Btf | None = None) -> Map:
        types = (btf.fd, spec.key_type, spec.value_type) if btf and spec.value_type else (0, 0, 0)
        sizes = (spec.key_size, spec.value_size, spec.max_entries)
        attributes = _Create(spec.type, *sizes, spec.flags, 0, 0, _named(spec.name), 0, *types)
        return cls(_call(MAP_CREATE, attributes, f"making the map {spec.name}"), spec)

    def update(self, key: int, value: bytes) -> None:
        """Set a value, `value_size` bytes long."""
        place = key.to_bytes(4, sys.byteorder)
        _call(
            MAP_UPDATE,
            _Element(self.fd, 0, _pointer(place), _pointer(value), 0),
            f"filling the map {self.spec.name}",
        )

    def lookup(self, key: int) -> bytes:
        """A value, `value_size` bytes."""
        place, value = key.to_bytes(4, sys.byteorder), ctypes.create_string_buffer(self.spec.value_size)
        _call(
            MAP_LOOKUP,
            _Element(self.fd, 0, _pointer(place), _pointer(value), 0),
            f"reading the map {self.spec.name}",
        )
        return value.raw

    def freeze(self) -> None:
        """From now on, nobody changes it from user space; a read-only one is then constant."""
        _call(MAP_FREEZE, _Freeze(self.fd), f"freezing the map {self.spec.name}")

    def mapped(self) -> mmap.mmap:
        """The values in this process, each at a multiple of its size rounded up to 8 bytes."""
        size = -(-self.spec.value_size // WORD) * WORD * self.spec.max_entries
        return mmap.mmap(self.fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)


# --- programs ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Records:
    """Function or line information: records of `size` bytes."""

    size: int = 0
    data: bytes = b""

    @property
    def count(self) -> int:
        return len(self.data) // self.size if self.size else 0


class Program(_Descriptor):
    """A program that the verifier accepted. `log`: what it said."""

    def __init__(self, fd: int, name: str, log: str = "") -> None:
        super().__init__(fd)
        self.name, self.log = name, log

    @classmethod
    def load(
        cls,
        code: bytes,
        name: str = "",
        *,
        license: str = "Dual MIT/GPL",
        type: int = SYSCALL,
        flags: int = SLEEPABLE,
        expected_attach: int = 0,
        btf: Btf | None = None,
        functions: Records = Records(),
        lines: Records = Records(),
        steps: bool = False,
    ) -> Program:
        """Load a program; `Rejected`, with the full log, if the verifier refuses it.

        `steps`: the log tells each step of the verifier, of an accepted program too.
        """
        spdx = license.encode()
        attributes = _Load(
            prog_type=type, insn_cnt=len(code) // WORD, insns=_pointer(code), license=_pointer(spdx),
            prog_flags=flags, prog_name=_named(name), expected_attach_type=expected_attach,
        )  # fmt: skip
        if btf is not None:
            attributes.prog_btf_fd = btf.fd
            attributes.func_info_rec_size, attributes.func_info_cnt = functions.size, functions.count
            attributes.line_info_rec_size, attributes.line_info_cnt = lines.size, lines.count
            attributes.func_info, attributes.line_info = _pointer(functions.data), _pointer(lines.data)
        try:
            fd, log = _judged(attributes, name)
        except BpfError as error:
            if error.errno == errno.EPERM and not error.log:
                raise
            said = _retold(attributes, name, LOG_STEPS)
            raise Rejected(error.errno or 0, error.what, said) from None
        return cls(fd, name, _retold(attributes, name, LOG_ALL) if steps else log)

    def run(self, context: ctypes.Structure) -> int:
        """Run it once with the context, which it may change; what it returned."""
        size = ctypes.sizeof(context)
        attributes = _Run(self.fd, ctx_size_in=size, ctx_in=ctypes.addressof(context))
        _call(TEST_RUN, attributes, f"running {self.name}")
        return int(attributes.retval)

    def runner(self, context: ctypes.Structure) -> Any:
        """A function that runs it with this one context, made for being called often: 0, or -1 and
        `ctypes.get_errno()`."""
        attributes = _Run(self.fd, ctx_size_in=ctypes.sizeof(context), ctx_in=ctypes.addressof(context))
        entry, number, where = _entry(), _NUMBERS[platform.machine()], ctypes.addressof(attributes)
        size, keep = ctypes.sizeof(attributes), (self, context, attributes)

        def run(keep: object = keep) -> int:
            return int(entry(number, TEST_RUN, where, size))

        return run

    @property
    def info(self) -> ProgramInfo:
        """What the kernel says of it."""
        info = ProgramInfo()
        attributes = _Info(self.fd, ctypes.sizeof(info), ctypes.addressof(info))
        _call(INFO_BY_FD, attributes, f"asking about {self.name}")
        return info


def _load(attributes: _Load, name: str, level: int, size: int) -> tuple[int, str]:
    """The descriptor and the log. BpfError has the log too."""
    log = ctypes.create_string_buffer(size)
    attributes.log_level, attributes.log_size, attributes.log_buf = level, size, _pointer(log)
    try:
        return _call(PROG_LOAD, attributes, f"loading {name}"), log.value.decode(errors="replace")
    except BpfError as error:
        error.log = log.value.decode(errors="replace")
        raise


def _judged(attributes: _Load, name: str) -> tuple[int, str]:
    """The descriptor and the log of totals."""
    try:
        return _load(attributes, name, LOG_FIGURES, LARGE_LOG)
    except BpfError as error:
        if error.errno != errno.ENOSPC:
            raise
        # Of a program that it accepts, too: the kernel says so if its log was ever longer than the room.
        log = error.log
    attributes.log_level = attributes.log_size = attributes.log_buf = LOG_NONE
    return _call(PROG_LOAD, attributes, f"loading {name}"), log


def _retold(attributes: _Load, name: str, level: int) -> str:
    """The log of loading a program once more."""
    try:
        fd, log = _load(attributes, name, LOG_FIGURES | level, LARGE_LOG)
    except BpfError as error:
        return error.log
    os.close(fd)
    return log


# --- is it there, and allowed? ----------------------------------------------------------

_EXIT = bytes.fromhex("b700000000000000 9500000000000000")  # r0 = 0; exit


def available(types: Sequence[int] = (SYSCALL,)) -> None:
    """Try it: make a map and load an empty program. BpfUnavailable says what is missing."""
    try:
        Map.create(MapSpec("devc_probe", WORD, flags=MMAPABLE)).close()
        for kind in types:
            Program.load(_EXIT, "devc_probe", type=kind, flags=SLEEPABLE if kind == SYSCALL else 0).close()
    except BpfError as error:
        raise why(error) from None


NOT_HERE = (errno.ENOSYS, errno.EPERM)
"""What says that nothing can be loaded here, whatever it is."""


def why(error: BpfError) -> BpfUnavailable:
    """What a failed call says of this machine or this process."""
    if error.errno == errno.ENOSYS:
        return BpfUnavailable("this kernel has no bpf(2)", "use one that is built with CONFIG_BPF_SYSCALL=y")
    if error.errno == errno.EPERM:
        return BpfUnavailable(f"no permission for bpf(2): {_forbidden()}", _PERMIT)
    if error.errno == errno.EINVAL:
        return BpfUnavailable(
            f"Linux {platform.release()} does not know what is asked of it ({error})",
            "use Linux 5.17 or newer",
        )
    return BpfUnavailable(str(error), "see bpf(2)")


_PERMIT = (
    "run as root, or give this Python CAP_BPF and CAP_PERFMON"
    " (in a container: --cap-add BPF --cap-add PERFMON, and a seccomp profile that lets bpf through)"
)

_CAPABILITIES = {"CAP_BPF": 39, "CAP_PERFMON": 38, "CAP_SYS_ADMIN": 21}


def capabilities() -> set[str]:
    """Which of those that matter to bpf(2) this process has."""
    try:
        with open("/proc/self/status") as file:
            held = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))
    except (OSError, StopIteration):
        return set()
    return {name for name, bit in _CAPABILITIES.items() if held >> bit & 1}


def distrusted() -> bool:
    """Whether the verifier follows mispredicted branches of this process's programs, too, and so refuses
    some that it accepts from others."""
    return not capabilities() & {"CAP_PERFMON", "CAP_SYS_ADMIN"}


def _forbidden() -> str:
    """Which of the things that permit it are absent."""
    held = capabilities()
    if "CAP_SYS_ADMIN" in held or "CAP_BPF" in held:
        return (
            "this process has the capability, so a sandbox (a user namespace, seccomp, lockdown) forbids it"
        )
    absent = [name for name in ("CAP_BPF", "CAP_PERFMON") if name not in held]
    return f"this process has no {' and no '.join(absent)}"
