"""The device's eBPF object with more programs: its write handler, at the places where KVM ends a write.

A wildcard ioeventfd makes KVM end a write by itself: it signals an eventfd and
drops the value. A tracing program sees the value on its way, at one of two places:

- `DEV_pio` and `DEV_mmio` at KVM's tracepoints `kvm_pio` and `kvm_mmio`, which
  every access of every VM passes: so the program looks at the thread first.
- `DEV_ioeventfd` at the entry of the function `ioeventfd_write`, which only writes
  to ioeventfds reach. It knows them by the eventfd. Some kernels refuse programs
  at functions (they patch the kernel's code), and take those at tracepoints.
- `DEV_enrol` is run once by the vCPU's thread, to be known at the tracepoints.

They do under the state's lock what the object's other programs do. What it
cannot do, because the state is busy or a Python handler must serve the access,
it leaves in the log for user space, and puts off all that follows until that is
done: KVM has ended the write for good.

    object_code(load("i8254"))      # the object's bytes, sections as docs/bpf.md has them
                                    # and .data.io, .data.log, .data.page (shared.h)

Non-goals: reads (an unpatched KVM asks nobody but user space).
"""

from __future__ import annotations

import re
from string import Template

from ...compiler import bpf_compile, ir
from ...compiler.analysis import Analysis
from ...compiler.bpf_debug import Debug, Type
from ...compiler.bpf_functions import ATTRIBUTES, BpfUnit
from ...compiler.bpf_programs import CONSTANTS, lined, program, record
from ...compiler.driver import DeviceType

WINDOWS, RECORDS, PAGE = 4, 4096, 4096
"""As in shared.h."""

RECORD = (
    ("now", 8), ("value", 8), ("offset", 4), ("width", 4), ("region", 4), ("what", 4), ("status", 4),
    ("turn", 4),
)  # fmt: skip
WINDOW = (("eventfd", 4), ("region", 4), ("base", 8), ("size", 8), ("memory", 4), ("step", 4))
IO = (("origin", 8), ("made", 8), ("pending", 8), ("vcpu", 8), ("eventfd_at", 8), ("id_at", 8))
RUN = (("data", 8), ("width", 8), ("address", 8), ("memory", 8))
"""One access on its way, perhaps repeated: where its value lies, and where it goes."""
RECORD_SIZE, WINDOW_SIZE, IO_SIZE, RUN_SIZE = (
    sum(size for _, size in fields) for fields in (RECORD, WINDOW, IO, RUN)
)

HELPERS = {
    "ktime_get_ns": 5, "get_current_pid_tgid": 14, "probe_read_kernel": 113, "loop": 181, "get_func_arg": 183,
}  # fmt: skip
"""Their numbers (linux/bpf.h)."""


class NotStatic(Exception):
    """A page cannot stand for a window: what its reads give depends on time, or they change something."""


def object_code(device: DeviceType, page: bool = False) -> bytes:
    """The object. `page`: the first window's registers are kept in `.data.page`, which a guest may read
    without an exit; NotStatic if that is not the same as reading the device."""
    module = device.reference_module()
    if page:
        check_static(module, module.regions[0])
    return bpf_compile.object_code(module, device.source, more=lambda unit: text(unit, page))


def check_static(module: ir.Module, region: ir.Region) -> None:
    """NotStatic if a read in the window is more than a function of the state."""
    functions = {function.name: function for function in module.functions}
    analysis = Analysis(functions)
    for register in region.registers:
        if "r" not in register.access:
            continue
        read = re.sub(r"\[\d+\]", "", register.name) + ".read"
        effects = analysis.of(read) if read in functions else None
        if effects is None or effects.time or effects.writes:
            why = "depends on time" if effects and effects.time else "may be more than a look at the state"
            raise NotStatic(f"a page cannot stand for {module.name}: a read of {register.name} {why}")


# --- the text ---------------------------------------------------------------------


def text(unit: BpfUnit, page: bool) -> str:
    """LLVM IR: the variables shared with the VMM, and the programs."""
    debug, name, regions = unit.debug, unit.module.name, unit.module.regions
    if len(regions) > WINDOWS:
        raise ValueError(f"{name} has {len(regions)} windows, and shared.h room for {WINDOWS}")
    values = {
        **CONSTANTS,
        **{f"helper_{helper}": f"inttoptr (i64 {number} to ptr)" for helper, number in HELPERS.items()},
        **{f"io_{field}": _io(field) for field, _ in IO},
        **{f"at_{field}": _at(RECORD, field) for field, _ in RECORD},
        **{f"run_{field}": _at(RUN, field) for field, _ in RUN},
        "writes": " ".join(f"i32 {number}, label %write.{number}" for number in range(len(regions))),
        "arms": "\n".join(_arm(unit, number) for number in range(len(regions))),
        "page": _refresh(unit) if page else "",
        "last": RECORDS - 1,
        "record_size": RECORD_SIZE,
        "shift": RECORDS.bit_length() - 1,
        "by_eventfd": "\n".join(_window(number, _BY_EVENTFD) for number in range(WINDOWS)),
        "by_place": "\n".join(_window(number, _BY_PLACE) for number in range(WINDOWS)),
        "regions": _phi("region"),
        "bases": _phi("base"),
        "run_words": RUN_SIZE // 8,
    }
    argument = debug.array(unit.word, 5)
    context = debug.struct("tracing_arguments", argument.size, [("argument", argument, 0)])
    run = record(debug, "in_kernel_run", RUN)
    node = debug.function("piece", (("index", unit.word), ("run", debug.pointer(run))), unit.word, 0, True)
    piece = f"define internal i64 @piece(i64 %index, ptr %run) {ATTRIBUTES} !dbg {node} {{\nentry:\n"
    piece += lined(debug, node, _PIECE.substitute(values)) + "\n}"
    made = [
        program(debug, f"{name}_{each}", context, template.substitute(values), section)
        for each, (section, template) in _PROGRAMS.items()
    ]
    return "\n\n".join([_variables(debug, page), _TAKE.substitute(values), piece, *made])


def _phi(field: str) -> str:
    return ", ".join(f"[ %w{number}.{field}, %w{number}.is ]" for number in range(WINDOWS))


def _variables(debug: Debug, page: bool) -> str:
    window = record(debug, "in_kernel_window", WINDOW)
    members = [(name, debug.integer(size), _at(IO, name)) for name, size in IO]
    members.append(("windows", debug.array(window, WINDOWS), IO_SIZE))
    kinds: dict[str, tuple[Type, str]] = {
        "io": (debug.struct("in_kernel_io", IO_SIZE + WINDOWS * WINDOW_SIZE, members), _io_content()),
        "log": (debug.array(record(debug, "in_kernel_record", RECORD), RECORDS), "zeroinitializer"),
    }
    if page:
        kinds["page"] = debug.array(debug.integer(1), PAGE), "zeroinitializer"
    return "\n".join(
        f'@{name} = dso_local global [{kind.size} x i8] {content}, section ".data.{name}", align 8, '
        f"!dbg {debug.variable(name, kind)}"
        for name, (kind, content) in kinds.items()
    )


def _io_content() -> str:
    """No eventfd yet: an id that none has."""
    window = b"\xff" * 4 + bytes(WINDOW_SIZE - 4)
    content = bytes(IO_SIZE) + WINDOWS * window
    return 'c"' + "".join(f"\\{byte:02X}" for byte in content) + '"'


def _at(fields: tuple[tuple[str, int], ...], name: str) -> int:
    return sum(size for _, size in fields[: [field for field, _ in fields].index(name)])


def _io(name: str) -> str:
    return f"getelementptr inbounds (i8, ptr @io, i64 {_at(IO, name)})"


def _window(number: int, test: Template) -> str:
    """Go on to the next window if the test says that it is not this one."""
    at = IO_SIZE + number * WINDOW_SIZE
    fields = {f: f"getelementptr inbounds (i8, ptr @io, i64 {at + _at(WINDOW, f)})" for f, _ in WINDOW}
    next_one = f"w{number + 1}" if number + 1 < WINDOWS else "foreign"
    return f"""\
w{number}:
  %w{number}.base = load i64, ptr {fields["base"]}, align 8
{test.substitute(fields, w=f"%w{number}")}
  br i1 %w{number}.same, label %w{number}.is, label %{next_one}
w{number}.is:
  %w{number}.region = load i32, ptr {fields["region"]}, align 4
  br label %ours"""


def _arm(unit: BpfUnit, number: int) -> str:
    handler = unit.target(f"{unit.module.regions[number].name}_write")
    return f"""\
write.{number}:
  call void @open()
  %written.{number} = call i64 {handler}(i64 %now, i64 %offset, i64 %width, i64 %value) alwaysinline
  br label %written"""


def _refresh(unit: BpfUnit) -> str:
    """Each register of the first window into the page, still under the lock."""
    region = unit.module.regions[0]
    read = unit.target(f"{region.name}_read")
    lines = []
    for n, register in enumerate(r for r in region.registers if "r" in r.access):
        kind = f"i{8 * register.width}"
        place = f"getelementptr inbounds (i8, ptr @page, i64 {register.offset})"
        where = f"i64 %now, i64 {register.offset}, i64 {register.width}"
        lines.append(f"  %register.{n} = call i64 {read}({where}) alwaysinline")
        value = f"%register.{n}"
        if register.width < 8:
            lines.append(f"  %cut.{n} = trunc i64 {value} to {kind}")
            value = f"%cut.{n}"
        lines.append(f"  store volatile {kind} {value}, ptr {place}, align {register.width}")
    return "\n".join(lines)


_BY_EVENTFD = Template("""\
  $w.eventfd = load i32, ptr $eventfd, align 8
  $w.same = icmp eq i32 $w.eventfd, %id""")

# The window listens to every `step`th address, and there (in memory) to the widths of one register.
_BY_PLACE = Template("""\
  $w.size = load i64, ptr $size, align 8
  $w.memory = load i32, ptr $memory, align 8
  $w.step = load i32, ptr $step, align 4
  $w.offset = sub i64 %address, $w.base
  $w.inside = icmp ult i64 $w.offset, $w.size
  $w.memory.wide = zext i32 $w.memory to i64
  $w.space = icmp eq i64 $w.memory.wide, %memory
  $w.low = add i32 $w.step, -1
  $w.low.wide = zext i32 $w.low to i64
  $w.rest = and i64 $w.offset, $w.low.wide
  $w.first = icmp eq i64 $w.rest, 0
  $w.there = and i1 $w.inside, $w.space
  $w.same = and i1 $w.there, $w.first""")

# One write to the device: by the handler, or into the log for user space.
_TAKE = Template("""\
; A record in the ring. `turn`, stored last, says that it is whole.
define internal void @note(i64 %now, i64 %value, i64 %offset, i64 %width, i32 %region, i32 %status)
    alwaysinline nounwind {
  %number = atomicrmw add ptr $io_made, i64 1 seq_cst
  %entry = and i64 %number, $last
  %entry.at = mul nuw nsw i64 %entry, $record_size
  %record = getelementptr inbounds i8, ptr @log, i64 %entry.at
  %now.at = getelementptr inbounds i8, ptr %record, i64 $at_now
  store i64 %now, ptr %now.at, align 8
  %value.at = getelementptr inbounds i8, ptr %record, i64 $at_value
  store i64 %value, ptr %value.at, align 8
  %offset.cut = trunc i64 %offset to i32
  %offset.at = getelementptr inbounds i8, ptr %record, i64 $at_offset
  store i32 %offset.cut, ptr %offset.at, align 8
  %width.cut = trunc i64 %width to i32
  %width.at = getelementptr inbounds i8, ptr %record, i64 $at_width
  store i32 %width.cut, ptr %width.at, align 4
  %region.at = getelementptr inbounds i8, ptr %record, i64 $at_region
  store i32 %region, ptr %region.at, align 8
  %what.at = getelementptr inbounds i8, ptr %record, i64 $at_what
  store i32 $write_is, ptr %what.at, align 4
  %status.at = getelementptr inbounds i8, ptr %record, i64 $at_status
  store i32 %status, ptr %status.at, align 8
  %turns = lshr i64 %number, $shift
  %turns.cut = trunc i64 %turns to i32
  %turn = add i32 %turns.cut, 1
  %turn.at = getelementptr inbounds i8, ptr %record, i64 $at_turn
  call void asm sideeffect "", "~{memory}"()
  store volatile i32 %turn, ptr %turn.at, align 4
  ret void
}

define internal void @take(i64 %value, i64 %offset.full, i64 %width, i32 %region) alwaysinline nounwind {
entry:
  %offset = and i64 %offset.full, 4294967295
  %origin = load i64, ptr $io_origin, align 8
  %pending = load volatile i64, ptr $io_pending, align 8
  %idle = icmp eq i64 %pending, 0
  br i1 %idle, label %try, label %busy
try:
  %n = phi i32 [ 0, %entry ], [ %tried, %again ]
  %exchanged = cmpxchg ptr $head_lock, i32 0, i32 1 seq_cst seq_cst
  %held = extractvalue { i32, i1 } %exchanged, 0
  %got = icmp eq i32 %held, 0
  br i1 %got, label %locked, label %again
again:
  %tried = add nuw nsw i32 %n, 1
  %more = icmp ult i32 %tried, $tries
  br i1 %more, label %try, label %busy
busy:
  %one.more = atomicrmw add ptr $io_pending, i64 1 seq_cst
  %clock.busy = call i64 $helper_ktime_get_ns()
  %now.busy = sub i64 %clock.busy, %origin
  call void @note(i64 %now.busy, i64 %value, i64 %offset, i64 %width, i32 %region, i32 $busy_is)
  ret void
locked:
  call void asm sideeffect "", "~{memory}"()
  %clock = call i64 $helper_ktime_get_ns()
  %now = sub i64 %clock, %origin
  switch i32 %region, label %unlock [ $writes ]
$arms
written:
  %leaves = call i1 @close()
  br i1 %leaves, label %leave, label %served
leave:
  %another = atomicrmw add ptr $io_pending, i64 1 seq_cst
  br label %done
served:
$page
  br label %done
done:
  %status = phi i32 [ $user_is, %leave ], [ $served_is, %served ]
  call void @note(i64 %now, i64 %value, i64 %offset, i64 %width, i32 %region, i32 %status)
  br label %unlock
unlock:
  call void asm sideeffect "", "~{memory}"()
  %freed = atomicrmw xchg ptr $head_lock, i32 0 seq_cst
  ret void
}""")

# A write; KVM repeats an OUTS at once. What is wider than 4 bytes is nobody's: KVM splits a
# wide write to memory into eights, no ioeventfd takes the first, and so all of it goes to user space.
_PIECE = Template("""\
  %word = alloca i64, align 8
  store i64 0, ptr %word, align 8
  %width.at = getelementptr inbounds i8, ptr %run, i64 $run_width
  %width.any = load i64, ptr %width.at, align 8
  %width = and i64 %width.any, 15
  %address.at = getelementptr inbounds i8, ptr %run, i64 $run_address
  %address = load i64, ptr %address.at, align 8
  %memory.at = getelementptr inbounds i8, ptr %run, i64 $run_memory
  %memory = load i64, ptr %memory.at, align 8
  switch i64 %width.any, label %foreign [ i64 1, label %w0 i64 2, label %w0 i64 4, label %w0 ]
$by_place
foreign:
  ret i64 1
ours:
  %region = phi i32 $regions
  %base = phi i64 $bases
  %data.at = getelementptr inbounds i8, ptr %run, i64 $run_data
  %data = load i64, ptr %data.at, align 8
  %bad = call i64 $helper_probe_read_kernel(ptr %word, i64 %width, i64 %data)
  %value = load i64, ptr %word, align 8
  %offset = sub i64 %address, %base
  call void @take(i64 %value, i64 %offset, i64 %width, i32 %region)
  %data.next = add i64 %data, %width
  store i64 %data.next, ptr %data.at, align 8
  ret i64 0""")


def _traced(arguments: str) -> Template:
    """At a tracepoint: `arguments` names %write and %count, and the fields of RUN."""
    fields = "\n".join(
        f"  %{field}.at = getelementptr inbounds i8, ptr %run, i64 $run_{field}\n"
        f"  store i64 %{field}, ptr %{field}.at, align 8"
        for field, _ in RUN
    )
    return Template(
        f"""\
  %run = alloca [$run_words x i64], align 8
  %kind = load i64, ptr %context, align 8
{arguments}
  %thread = call i64 $helper_get_current_pid_tgid()
  %vcpu = load i64, ptr $io_vcpu, align 8
  %own = icmp eq i64 %thread, %vcpu
  %mine = and i1 %own, %write
  br i1 %mine, label %go, label %end
go:
{fields}
  %pieces = call i64 $helper_loop(i32 %count, ptr @piece, ptr %run, i64 0)
  br label %end
end:
  ret i64 0"""
    )


def _arguments(*names: str) -> str:
    """The tracepoint's arguments behind the first, by name; each is a word."""
    return "\n".join(
        f"  %a{number} = getelementptr inbounds i8, ptr %context, i64 {8 * number}\n"
        f"  %{name} = load i64, ptr %a{number}, align 8"
        for number, name in enumerate(names, 1)
    )


# kvm_pio(rw, port, size, count, data): 1 is OUT.
_PIO = _traced(f"""\
{_arguments("address", "width", "times", "data")}
  %write = icmp eq i64 %kind, 1
  %count = trunc i64 %times to i32
  %memory = add i64 0, 0""")

# kvm_mmio(type, len, gpa, val): 2 is a write.
_MMIO = _traced(f"""\
{_arguments("length", "address", "data")}
  %write = icmp eq i64 %kind, 2
  %width = and i64 %length, 4294967295
  %count = add i32 0, 1
  %memory = add i64 0, 1""")

# ioeventfd_write(vcpu, this, addr, len, val). The arguments that are pointers come by
# the helper: as a load from the context, a `const void *` is refused before Linux 6.16,
# and `this` would be more than a number.
_IOEVENTFD = Template("""\
  %word = alloca i64, align 8
  %number = alloca i32, align 4
  store i64 0, ptr %word, align 8
  store i32 0, ptr %number, align 4
  %this.missing = call i64 $helper_get_func_arg(ptr %context, i32 1, ptr %word)
  %this = load i64, ptr %word, align 8
  %eventfd.at = load i64, ptr $io_eventfd_at, align 8
  %eventfd.place = add i64 %this, %eventfd.at
  %eventfd.bad = call i64 $helper_probe_read_kernel(ptr %word, i32 8, i64 %eventfd.place)
  %eventfd = load i64, ptr %word, align 8
  %id.at = load i64, ptr $io_id_at, align 8
  %id.place = add i64 %eventfd, %id.at
  %id.bad = call i64 $helper_probe_read_kernel(ptr %number, i32 4, i64 %id.place)
  %bad = or i64 %eventfd.bad, %id.bad
  %readable = icmp eq i64 %bad, 0
  %id = load i32, ptr %number, align 4
  br i1 %readable, label %w0, label %foreign
$by_eventfd
foreign:
  ret i64 0
ours:
  %region = phi i32 $regions
  %base = phi i64 $bases
  %length.at = getelementptr inbounds i8, ptr %context, i64 24
  %length = load i64, ptr %length.at, align 8
  %width = and i64 %length, 15
  %fits = icmp ule i64 %width, 8
  br i1 %fits, label %fetch, label %foreign
fetch:
  %pointer.missing = call i64 $helper_get_func_arg(ptr %context, i32 4, ptr %word)
  %pointer = load i64, ptr %word, align 8
  store i64 0, ptr %word, align 8
  %value.bad = call i64 $helper_probe_read_kernel(ptr %word, i64 %width, i64 %pointer)
  %value = load i64, ptr %word, align 8
  %address.at = getelementptr inbounds i8, ptr %context, i64 16
  %address = load i64, ptr %address.at, align 8
  %offset = sub i64 %address, %base
  call void @take(i64 %value, i64 %offset, i64 %width, i32 %region)
  ret i64 0""")

# The thread that runs it is the vCPU's: the tracepoints' programs serve no other's accesses.
_ENROL = Template("""\
  %thread = call i64 $helper_get_current_pid_tgid()
  store i64 %thread, ptr $io_vcpu, align 8
  ret i64 0""")

_PROGRAMS = {
    "pio": ("raw_tp/kvm_pio", _PIO),
    "mmio": ("raw_tp/kvm_mmio", _MMIO),
    "ioeventfd": ("fentry/ioeventfd_write", _IOEVENTFD),
    "enrol": ("syscall", _ENROL),
}
"""By name behind the device's: the section, which says where it attaches, and the text."""
