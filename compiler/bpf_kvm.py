"""Programs in the shape of the `KVM_DEV_TYPE_BPF` patch series: KVM runs them for a guest's access.

Will Deacon's tree (linux, branch kvm/bpf, May 2023; kvmtool, branch willdeacon/bpf) has a
program type for reads and one for writes of a region of KVM's MMIO bus, with
`struct bpf_kvm_io_ctx` as their context. A program returns 0 if the access is
served; anything else sends it on, to user space at last. Time is the kernel's
monotonic clock plus the variable `clock`, which user space sets by mapping its map.

No released kernel knows these types, so they are in an object of their own.

Non-goals: interrupts; the series has none yet, so that user space has to look at the
state's `attention`.
"""

from __future__ import annotations

from string import Template

from . import bpf_programs
from .bpf_functions import BpfUnit
from .bpf_programs import CONSTANTS, variable

READ_SECTION, WRITE_SECTION = "kvm_io_read", "kvm_io_write"
"""Named as the series names the program types (32 and 33 in its tree)."""

CONTEXT_SIZE = 24
AT_BUF, AT_OFFSET, AT_LEN, AT_VCPU_ID = 0, 8, 16, 20
"""`struct bpf_kvm_io_ctx`: u8 buf[8], u64 offset, u8 len, 24 bits of padding, u32 vcpu_id."""

NOT_SERVED = 95
"""EOPNOTSUPP: as KVM's own devices say that an access is not theirs."""

KTIME_GET_NS = 5
"""The helper's number (linux/bpf.h)."""


def build(unit: BpfUnit) -> str:
    """One read and one write program for each region: `DEV_REGION_read`, `DEV_REGION_write`."""
    debug = unit.debug
    members = [
        ("buf", debug.array(debug.integer(1), 8), AT_BUF),
        ("offset", debug.integer(8), AT_OFFSET),
        ("len", debug.integer(1), AT_LEN),
        ("vcpu_id", debug.integer(4), AT_VCPU_ID),
    ]
    context = debug.struct("bpf_kvm_io_ctx", CONTEXT_SIZE, members)
    parts = [
        variable(debug, "clock", debug.integer(8), ".data.clock"),
        bpf_programs.serve(unit, _NOW),
    ]
    for number, region in enumerate(unit.module.regions):
        for kind, section, template in (("read", READ_SECTION, _READ), ("write", WRITE_SECTION, _WRITE)):
            name = f"{unit.module.name}_{region.name}_{kind}"
            body = template.substitute(_VALUES, region=number)
            parts.append(bpf_programs.program(debug, name, context, body, section))
    return "\n\n".join(parts)


_VALUES = CONSTANTS | {
    "ctx_buf": AT_BUF,
    "ctx_offset": AT_OFFSET,
    "ctx_len": AT_LEN,
    "not_served": NOT_SERVED,
    "call_size": bpf_programs.CALL_SIZE,
}

# Under the lock, so that time never goes backwards from one vCPU to another.
_NOW = f"""\
  %clock = load volatile i64, ptr @clock, align 8
  %since = call i64 inttoptr (i64 {KTIME_GET_NS} to ptr)()
  %now = add i64 %since, %clock"""

# The context's fields are read whole: the series allows little else.
_ENTER = """\
  %call = alloca [$call_size x i8], align 8
  %offset.from = getelementptr inbounds i8, ptr %context, i64 $ctx_offset
  %offset.in = load volatile i64, ptr %offset.from, align 8
  %len.from = getelementptr inbounds i8, ptr %context, i64 $ctx_len
  %len.in = load volatile i8, ptr %len.from, align 1
  %far = icmp ugt i64 %offset.in, 4294967295
  br i1 %far, label %pass, label %near
near:
  %offset = trunc i64 %offset.in to i32
  %offset.at = getelementptr inbounds i8, ptr %call, i64 $at_offset
  store i32 %offset, ptr %offset.at, align 8
  %width = zext i8 %len.in to i32
  %width.at = getelementptr inbounds i8, ptr %call, i64 $at_width
  store i32 %width, ptr %width.at, align 4
  %region.at = getelementptr inbounds i8, ptr %call, i64 $at_region
  store i32 $region, ptr %region.at, align 8
  %value.at = getelementptr inbounds i8, ptr %call, i64 $at_value
  %status.at = getelementptr inbounds i8, ptr %call, i64 $at_status
"""

_READ = Template(
    _ENTER
    + """\
  store i64 0, ptr %value.at, align 8
  call void @serve(ptr %call, i32 $read_is)
  %status = load i32, ptr %status.at, align 8
  %served = icmp eq i32 %status, $served_is
  br i1 %served, label %answer, label %pass
answer:
  %value = load i64, ptr %value.at, align 8
  %buf.at = getelementptr inbounds i8, ptr %context, i64 $ctx_buf
  store volatile i64 %value, ptr %buf.at, align 8
  ret i64 0
pass:
  ret i64 -$not_served"""
)

_WRITE = Template(
    _ENTER
    + """\
  %buf.at = getelementptr inbounds i8, ptr %context, i64 $ctx_buf
  %value = load volatile i64, ptr %buf.at, align 8
  store i64 %value, ptr %value.at, align 8
  call void @serve(ptr %call, i32 $write_is)
  %status = load i32, ptr %status.at, align 8
  %served = icmp eq i32 %status, $served_is
  br i1 %served, label %done, label %pass
done:
  ret i64 0
pass:
  ret i64 -$not_served"""
)
