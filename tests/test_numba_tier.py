"""The numba tier: compiled Python, the same on every engine, and light exits in the native loop."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import sys
import zlib
from pathlib import Path
from textwrap import dedent

import pytest
from devc.cli.report import registers, weights
from devc.compiler.cache import Cache
from devc.compiler.driver import load
from devc.runtime import numba_tier
from devc.runtime.assemble import assemble
from devc.runtime.hosts import Reason, hosts
from devc.runtime.machine import Machine, MachineError
from devc.runtime.vmm import Vmm
from rich.console import Console

from .rig_numba import SCRATCH, WAYS, Way, own

DATA, CRC, RANDOM = 4, 8, 12
FRAME = b"123456789"

ODD = """
device odd(base: port = 0x300):
    state small: 0..99 = 5
    state big: u64 = 0xffff_ffff_ffff_fff0
    line full
    io at base size 32, gaps zeros:
        reg r @0 u8:
            read python part
            write python part
        reg q @8 u64:
            read python mix
            write python mix
        reg now @16 u64:
            read python time
            write python time
    drive full = small == 99
    python "odd.py" part:
        why "tests errors"
        reads small
        writes small
        tier numba
    python "odd.py" mix:
        why "tests 64 bits"
        reads big
        writes big
        tier numba
    python "odd.py" time:
        why "reads and writes nothing"
        tier numba
"""
ODD_PY = '''
"""Fails in every way that a handler can."""
import numpy
import zlib  # what is not used need not compile

M = 0xFFFF_FFFF_FFFF_FFFF
TABLE = (10, 20, 30)
ARRAY = numpy.array([1, 2, 3])

def part_read(now, offset, width, small):
    if small == 7:
        raise ValueError(f"seven at {now}")
    return divided(small), small

def divided(small):
    assert small != 8, f"eight is not {small}"
    return TABLE[small % 5] + 100 // (small - 6) + ARRAY[small // 30]

def part_write(now, offset, width, value, small):
    return (value,)

def mix_read(now, offset, width, big):
    big ^= big << 13 & M
    big ^= big >> 7
    big ^= big << 17 & M
    return big, big

def mix_write(now, offset, width, value, big):
    return (value + big,)

def time_read(now, offset, width):
    return now

def time_write(now, offset, width, value):
    if value == 1:
        raise KeyError
'''


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return Way(request.param, SCRATCH)


@pytest.fixture(scope="module")
def odd_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("odd")
    (directory / "odd.py").write_text(ODD_PY)
    (directory / "odd.dev").write_text(ODD)
    return directory / "odd.dev"


@pytest.fixture(params=WAYS)
def odd(request: pytest.FixtureRequest, odd_file: Path) -> Way:
    return Way(request.param, odd_file)


# --- serving ------------------------------------------------------------------


def test_the_crc_of_what_is_written_is_that_of_zlib(way: Way) -> None:
    for byte in FRAME:
        way.write(DATA, 1, byte)
    assert way.read(CRC, 4) == zlib.crc32(FRAME)
    way.write(CRC, 4, 0)
    way.write(DATA, 4, int.from_bytes(FRAME[:4], "little"))
    way.write(DATA + 1, 2, int.from_bytes(FRAME[4:6], "little"))
    assert way.read(CRC, 4) == zlib.crc32(FRAME[:6]), "each of an access's bytes is one"


def test_a_line_follows_what_a_compiled_handler_writes(way: Way) -> None:
    edges: list[int] = []
    way.machine.wire("scratch.good", lambda level, now: edges.append(level))
    for byte in FRAME:
        way.write(DATA, 1, byte)
    assert edges == []
    way.write(DATA, 4, way.read(CRC, 4))
    way.write(DATA, 1, 0)
    assert edges == [1, 0]


def test_a_compiled_handler_is_a_light_exit() -> None:
    way = Way("loop", SCRATCH)
    for byte in FRAME:
        way.write(DATA, 1, byte)
    way.read(RANDOM, 4)
    way.write(RANDOM, 4, 7)
    assert way.counts() == {
        ("data", "write"): (len(FRAME), 0),
        ("random", "read"): (1, 0),
        ("random", "write"): (1, 0),
    }


def test_random_accesses_leave_the_same_bytes_on_every_way() -> None:
    ways = [Way(name, SCRATCH) for name in WAYS]
    draw = random.Random(1)
    for _ in range(1000):
        offset, width, value = draw.randrange(18), draw.choice((1, 2, 4, 8)), draw.getrandbits(64)
        if draw.random() < 0.5:
            assert len({way.read(offset, width) for way in ways}) == 1, (offset, width)
        else:
            for way in ways:
                way.write(offset, width, value)
        assert len({own(way.instance.state) for way in ways}) == 1, (offset, width, value)
    assert all(way.machine.failures == [] for way in ways)
    light, heavy = (sum(column) for column in zip(*ways[0].counts().values(), strict=True))
    assert (light > 500, heavy) == (True, 0)


def test_what_needs_all_of_64_bits_is_the_same_on_every_way(odd: Way) -> None:
    """Marsaglia's xorshift64, from 2**64 - 16; sums modulo 2**64."""
    state = 2**64 - 16
    for _ in range(5):
        state ^= state << 13 & 2**64 - 1
        state ^= state >> 7
        state ^= state << 17 & 2**64 - 1
        assert odd.read(8, 8) == state
    odd.write(8, 8, 2**64 - state)
    assert (odd.instance.get("big"), odd.machine.failures) == (0, [])
    odd.write(8, 8, 2**64 - 1)
    assert odd.instance.get("big") == 2**64 - 1
    if odd.vmm is not None:
        assert odd.counts() == {("q", "read"): (5, 0), ("q", "write"): (2, 0)}


def test_an_instant_that_machine_integers_cannot_hold_is_left_to_the_interpreter(odd: Way) -> None:
    odd.machine.advance_to(2**63 + 5)
    assert odd.read(16, 8) == 2**63 + 5
    if odd.vmm is not None:
        assert odd.counts() == {("now", "read"): (0, 1)}


def test_after_a_restore_the_handlers_see_what_was_restored() -> None:
    way = Way("loop", SCRATCH)
    way.write(RANDOM, 4, 99)
    image = way.machine.save()
    numbers = [way.read(RANDOM, 4) for _ in range(3)]
    way.machine.restore(image)
    assert [way.read(RANDOM, 4) for _ in range(3)] == numbers


GUEST = """
        mov     $0x2e4, %dx
        mov     $text, %si
        mov     $9, %cx
1:      lodsb
        out     %al, %dx
        loop    1b
        mov     $0x2e8, %dx
        in      %dx, %eax
        mov     %eax, 0x3000
        mov     $0x2ec, %dx
        mov     $1000, %cx
2:      in      %dx, %eax
        loop    2b
        mov     %eax, 0x3004
        out     %al, $0xf4
        hlt
text:   .ascii "123456789"
"""


@pytest.mark.parametrize("host", ["kvm", "unicorn"])
def test_a_guest_is_served_by_compiled_handlers_without_python(host: str) -> None:
    if (obstacle := hosts()[host]) is not None:
        pytest.skip(obstacle)
    machine = Machine()
    machine.add(SCRATCH)
    with Vmm(machine, host) as vmm:
        vmm.exit_port()
        vmm.host.load(assemble(GUEST, 0x1000), 0x1000)
        vmm.host.boot(0x1000)
        assert vmm.run(until=machine.now + 10**10).reason is Reason.STOPPED
        crc, number = (int.from_bytes(vmm.host.memory[at : at + 4], "little") for at in (0x3000, 0x3004))
        counts = {(c.register, c.access): (c.light, c.heavy) for c in vmm.counts() if c.device != "host"}
    assert crc == zlib.crc32(FRAME)
    assert number == machine.devices["scratch"].instance.get("seed")
    assert counts == {("data", "write"): (9, 0), ("crc", "read"): (1, 0), ("random", "read"): (1000, 0)}


# --- failing ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("small", "kind", "message", "where"),
    [
        (7, "ValueError", "seven at 3", "odd.py:12"),
        (8, "AssertionError", "eight is not 8", "odd.py:16"),
        (6, "ZeroDivisionError", "integer division or modulo by zero", "odd.py:17"),
        (13, "IndexError", "tuple index out of range", "odd.py:17"),
        (90, "IndexError", "index 3 is out of bounds for axis 0 with size 3", "odd.py:17"),
    ],
)
def test_a_handler_that_raises_is_reported_with_its_place(
    odd: Way, small: int, kind: str, message: str, where: str
) -> None:
    odd.machine.step(3)
    odd.write(0, 1, small)
    before = own(odd.instance.state)
    assert [odd.read(0, 1), odd.read(0, 1)] == [0xFF, 0xFF]
    assert odd.failures() == [("odd", "r", kind, message, where, 2)]
    assert own(odd.instance.state) == before
    if odd.vmm is not None:
        assert odd.counts() == {("r", "write"): (1, 0), ("r", "read"): (0, 2)}


def test_a_write_of_what_the_state_cannot_hold_is_refused(odd: Way) -> None:
    odd.write(0, 1, 99)
    odd.write(0, 1, 100)
    assert odd.instance.get("small") == 99
    assert odd.failures() == [("odd", "r", "ValueError", "small takes 0..99, not 100", "odd.py", 1)]


def test_a_write_handler_that_declares_no_writes_may_fail_too(odd: Way) -> None:
    odd.write(16, 8, 0)
    odd.write(16, 8, 1)
    assert [(f.register, f.kind) for f in odd.machine.failures] == [("now", "KeyError")]


def test_a_million_errors_take_no_memory(odd_file: Path) -> None:
    """numba keeps what an exception carries; so a compiled handler's carries nothing."""
    way = Way("loop", odd_file)
    way.write(0, 1, 7)
    compiled = way.device.python.compiled  # type: ignore[union-attr]
    call = ctypes.CFUNCTYPE(
        ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32,
        ctypes.c_uint64, ctypes.c_uint64,
    )(compiled.table[0].read)  # fmt: skip
    answer = ctypes.c_uint64()
    before = _resident()
    for _ in range(100_000):
        assert call(way.instance.address, 0, 0, 1, 0, ctypes.addressof(answer)) == numba_tier.FAILED
    assert _resident() - before < 1_000_000


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        pytest.skip("there is no /proc here")


# --- files that cannot be used --------------------------------------------------

DEVICE = """
device d(base: port = 0x300):
    state x: u8
    io at base size 4:
        reg r @0 u8:
            read python f
            write python f
    python "f.py" f:
        why "a test"
        reads x
        writes x
        tier numba
"""
READ = "def f_read(now, offset, width, x):\n    "
WRITE = "def f_write(now, offset, width, value, x):\n    "
BAD = {
    "nothing": ("y = 1", r"f\.py defines neither f_read nor f_write"),
    "a class": ("class f:\n    def read(self, view, access): return 0", "defines neither f_read"),
    "no function": ("f_read = 3", "f_read is not a function"),
    "too few": ("def f_read(now): return 1", r"f\.py:1: f_read takes \(now\); .* it is: def f_read\(now"),
    "variadic": ("def f_read(*args): return 1", r"f_read takes \(, ...\)|f_read takes \(\.\.\.\)"),
    "an unknown name": (READ + "return foo(x)", r"f\.py:2: numba cannot compile f_read: NameError: "),
    "a module it does not know": (
        "import zlib\n" + READ + "return zlib.crc32(x)",
        r"f\.py:3: numba cannot compile f_read: Unknown attribute 'crc32' of type Module",
    ),
    "a list": (READ + "l = [x]\n    l.append(1)\n    return l[0]", r"f\.py:2: .*allocates memory \(a list"),
    "in a helper": ("def g(x):\n    return str(x)\n" + READ + "return len(g(x))", r"f\.py:2: .*f_read: "),
    "a file": (READ + "with open('x') as f: return 1", r"f\.py:1: .*construct is not supported"),
    "a fraction": (
        READ + "return x / 2",
        r"f\.py:1: f_read must return an integer, or a tuple \(value, x\); numba finds .* float64",
    ),
    "too many": (READ + "return x, x, x", r"f_read must return an integer, or a tuple \(value, x\)"),
    "no tuple": (WRITE + "return value", r"f_write must return a tuple \(x,\); numba .* int64"),
    "nothing returned": (WRITE + "pass", r"f_write must return a tuple \(x,\); numba .* none"),
    "this or that": (READ + "return 1 if x else (1, 2)", r"f\.py:\d: numba cannot compile f_read: "),
    "a generator": (READ + "yield 1", r"f_read must return an integer"),
    "prints": (READ + "print(x)\n    return 1", "needs the interpreter or numba's run-time library"),
    "a rare function": ("import math\n" + READ + "return int(math.gamma(x))", r"library \(numba_gamma\)"),
    "writes a global": (
        "import numpy\nT = numpy.zeros(4)\n" + READ + "T[0] = 1\n    return 1",
        r"f\.py:4: .*setitem\(readonly array",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_compiled_is_refused_with_place_and_reason(tmp_path: Path, name: str) -> None:
    source, message = BAD[name]
    (tmp_path / "f.py").write_text(source)
    (tmp_path / "d.dev").write_text(DEVICE)
    machine = Machine()
    with pytest.raises(MachineError, match=message) as caught:
        machine.add(tmp_path / "d.dev")
    assert len(str(caught.value)) < 1000
    assert machine.devices == {}


WIDE = DEVICE.replace("u8", "u64").replace("size 4", "size 8")
FLOATS = {
    "in the handler": WRITE + "if value == 0: value = 1\n    return (value,)",
    "in a comparison": WRITE + "y = max(value, x + 3)\n    return (1 if y > 2**53 else 0,)",
    "in a helper": "def g(x):\n    return 1 if max(x, 3) > 2**53 else 0\n" + WRITE + "return (g(value),)",
}


@pytest.mark.parametrize("name", FLOATS)
def test_a_function_that_numba_would_compute_in_floats_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "f.py").write_text(FLOATS[name])
    (tmp_path / "d.dev").write_text(WIDE)
    with pytest.raises(
        MachineError, match=r"f\.py:1: f_write is given .* numba takes for floats \(.*numpy\.uint64"
    ):
        Machine().add(tmp_path / "d.dev")


def test_numbers_of_64_bits_may_be_made_of_numpys(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(
        "import numpy\n" + WRITE + "if value == 0: value = numpy.uint64(1)\n    return (value,)"
    )
    (tmp_path / "d.dev").write_text(WIDE)
    for name in WAYS:
        way = Way(name, tmp_path / "d.dev")
        way.write(0, 8, 0)
        assert (way.instance.get("x"), way.machine.failures) == (1, [])


def test_functions_take_no_options(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(READ + "return x")
    (tmp_path / "d.dev").write_text(DEVICE)
    with pytest.raises(MachineError, match="f is of tier numba: functions, which take no options"):
        Machine().add(tmp_path / "d.dev", python={"f": {"a": 1}})


def test_a_direction_without_a_function_fails_when_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(READ + "return x + 1")
    (tmp_path / "d.dev").write_text(DEVICE)
    way = Way("loop", tmp_path / "d.dev")
    assert way.read(0, 1) == 1
    way.write(0, 1, 5)
    assert [f.message for f in way.machine.failures] == ["there is no function f_write"]


def test_functions_that_are_decorated_for_numba_are_served_alike(tmp_path: Path) -> None:
    decorated = "import numba\n@numba.njit\ndef g(x):\n    return x + 1\n@numba.njit\n" + READ + "return g(x)"
    (tmp_path / "f.py").write_text(decorated)
    (tmp_path / "d.dev").write_text(DEVICE)
    assert [Way(name, tmp_path / "d.dev").read(0, 1) for name in WAYS] == [1, 1, 1]


def test_the_report_names_the_tier() -> None:
    module = load(SCRATCH).module
    console = Console(width=200)
    with console.capture() as capture:
        console.print(registers(module))
    rows = [line.split() for line in capture.get().splitlines()]
    assert [row[-2:] for row in rows[-4:]] == [
        ["native", "native"], ["none", "numba"], ["native", "native"], ["numba", "numba"]
    ]  # fmt: skip
    assert dict(weights(module, {}))["python"].startswith("xorshift (handler of tier numba, scratch.py): ")


# --- the cache ------------------------------------------------------------------

SECOND = """
    import sys
    from devc.runtime.machine import Machine
    machine = Machine(engine=sys.argv[2])
    device = machine.add(sys.argv[1])
    machine.write("io", 0x2e4, 1, 0x61)
    print(device.instance.get("sum") ^ 0xffffffff, "numba" in sys.modules)
"""


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("DEVC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(numba_tier, "_compiled", {})
    return Cache(tmp_path / "cache")


def cached(path: Path) -> list[bool]:
    numba_tier._compiled.clear()
    machine = Machine()
    compiled = machine.add(path).python.compiled  # type: ignore[union-attr]
    return [code.cached for code in compiled.code]


def test_numba_is_imported_only_to_compile(empty_cache: Cache) -> None:
    assert cached(SCRATCH) == [False, False, False]
    for engine in ("native", "reference"):
        command = [sys.executable, "-c", dedent(SECOND), str(SCRATCH), engine]
        out = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
        assert out.split() == [str(zlib.crc32(b"a")), "False"]


def test_what_was_compiled_is_compiled_anew_for_another_text_constant_or_a_damaged_entry(
    empty_cache: Cache, tmp_path: Path
) -> None:
    path, file = tmp_path / "d.dev", tmp_path / "f.py"
    path.write_text(DEVICE)
    file.write_text("import os\nK = int(os.environ.get('F_K', '1'))\n" + READ + "return x + K")
    assert cached(path) == [False]
    assert cached(path) == [True]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("F_K", "2")
        assert cached(path) == [False]
    file.write_text(file.read_text() + "  # more")
    assert cached(path) == [False]
    for entry in empty_cache.directory.glob("handler-*"):
        content = entry.read_bytes()
        entry.write_bytes(content[:-9] + b"x" + content[-8:])
    assert cached(path) == [False]
    assert cached(path) == [True]
