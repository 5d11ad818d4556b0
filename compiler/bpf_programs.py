"""The programs of an eBPF object, which the kernel runs, as LLVM IR; and what they and user space share.

One piece of code, `serve`, does one call under the state's lock; it becomes
part of each program, over the program's context or over an entry of the
table `calls`.

Non-goals: the device's functions (bpf_functions.py).
"""

from __future__ import annotations

import re
from string import Template

from . import ir
from .bpf_debug import Debug, Type
from .bpf_functions import ATTRIBUTES, STATE, BpfUnit
from .image import layout_hash

FORMAT = 1
"""Of the object: sections, variables, programs and structures as docs/bpf-object.md has them."""

CALLS = 256
"""Entries of the table that the batch program serves."""
MOST_ROUNDS = 1 << 15
"""Of the batch program: with CALLS, what bpf_loop takes at most."""
AT_ONCE = 4
"""Entries that one call of the batch's callback serves; the verifier follows each."""
TRIES = 64
"""For the lock, before the answer is `BUSY`."""

SERVED, BUSY, USER_SPACE, NO_SUCH = range(4)
"""What `status` says."""
READ, WRITE, SETTLE, DEADLINE = range(4)
"""What `what` asks for."""

PROGRAMS = {"read": READ, "write": WRITE, "settle": SETTLE, "deadline": DEADLINE}

Layout = tuple[tuple[str, int], ...]
CALL: Layout = (
    ("now", 8), ("value", 8), ("offset", 4), ("width", 4), ("region", 4), ("what", 4),
    ("status", 4), ("pad", 4),
)  # fmt: skip
BATCH: Layout = (("first", 4), ("count", 4), ("done", 4), ("repeat", 4))
LICENSE = b"Dual MIT/GPL\0"
"""Of the object's code, to the kernel."""
ABOUT: Layout = (("format", 4), ("size", 4), ("layout", 8), ("regions", 4), ("version", 4))
CALL_SIZE = sum(size for _, size in CALL)

HELPER_LOOP = 181
"""bpf_loop's number (linux/bpf.h)."""


def about(module: ir.Module) -> bytes:
    """The content of the variable `about`: what object this is."""
    values = {
        "format": FORMAT,
        "size": module.size,
        "layout": layout_hash(module),
        "regions": len(module.regions),
        "version": module.version,
    }
    return b"".join(values[name].to_bytes(size, "little") for name, size in ABOUT)


def record(debug: Debug, name: str, fields: Layout) -> Type:
    """A struct of unsigned fields, one behind the other."""
    members, at = [], 0
    for field, size in fields:
        members.append((field, debug.integer(size), at))
        at += size
    return debug.struct(name, at, members)


def variables(module: ir.Module, debug: Debug, content: bytes) -> str:
    """What every object has: the state, with its initial `content`, `about`, the license."""
    license = debug.array(debug.integer(1, signed=True), len(LICENSE))
    return "\n".join(
        [
            variable(debug, "state", debug.state(module), ".data", content),
            variable(debug, "about", record(debug, "devc_about", ABOUT), ".rodata", about(module)),
            variable(debug, "_license", license, "license", LICENSE),
        ]
    )


def variable(debug: Debug, name: str, kind: Type, section: str, content: bytes = b"") -> str:
    """A global variable, in a section that becomes a map; zero without `content`."""
    text = "".join(f"\\{byte:02X}" for byte in content)
    sort = "global" if section.startswith(".data") else "constant"
    value = f'c"{text}"' if content else "zeroinitializer"
    return (
        f'@{name} = dso_local {sort} [{kind.size} x i8] {value}, section "{section}", align 8, '
        f"!dbg {debug.variable(name, kind)}"
    )


def build(unit: BpfUnit) -> str:
    """The programs' text: sections `syscall` and, for the callback, `.text`."""
    debug, module = unit.debug, unit.module
    call = record(debug, "devc_call", CALL)
    batch = record(debug, "devc_batch", BATCH)
    parts = [variable(debug, "calls", debug.array(call, CALLS), ".data.calls"), serve(unit)]
    for name, what in PROGRAMS.items():
        body = f"  call void @serve(ptr %context, i32 {what})\n  ret i64 0"
        parts.append(program(debug, f"{module.name}_{name}", call, body))
    parts.append(program(debug, f"{module.name}_batch", batch, _BATCH.substitute(CONSTANTS)))
    node = debug.function("each", (("index", unit.word), ("run", debug.pointer(batch))), unit.word, 0, True)
    body = lined(debug, node, _EACH.substitute(CONSTANTS))
    parts.append(
        f"define internal i64 @each(i64 %index, ptr %run) {ATTRIBUTES} !dbg {node} {{\nentry:\n{body}\n}}"
    )
    return "\n\n".join(parts)


def program(debug: Debug, name: str, context: Type, body: str, section: str = "syscall") -> str:
    """A function that the kernel calls with a pointer to its context. `section` says where it attaches."""
    node = debug.function(name, (("context", debug.pointer(context)),), debug.integer(8), 0, False)
    return (
        f'define dso_local i64 @{name}(ptr %context) {ATTRIBUTES} section "{section}" !dbg {node} '
        f"{{\nentry:\n{lined(debug, node, body)}\n}}"
    )


def lined(debug: Debug, node: str, body: str) -> str:
    """The body with the device's head as the line of each instruction."""
    return re.sub(r"^(  .*)$", rf"\1, !dbg {debug.location(0, node)}", body, flags=re.MULTILINE)


CALLERS_NOW = """\
  %now.at = getelementptr inbounds i8, ptr %call, i64 $at_now
  %now = load i64, ptr %now.at, align 8"""
"""The instant as the caller gives it."""


def serve(unit: BpfUnit, now: str = CALLERS_NOW) -> str:
    """`serve(call, what)`, to become part of programs. `now`: what sets `%now`, under the lock."""
    module = unit.module
    handlers = any(python.kind == "handler" for python in module.pythons)
    offset_and_width = "i64 %offset, i64 %width"
    return _SERVE.substitute(
        CONSTANTS,
        reads=" ".join(f"i32 {n}, label %read.{n}" for n in range(len(module.regions))),
        writes=" ".join(f"i32 {n}, label %write.{n}" for n in range(len(module.regions))),
        read_arms=_arms(unit, "read", offset_and_width),
        write_arms=_arms(unit, "write", f"{offset_and_width}, i64 %given"),
        values="".join(f", [ %read.{n}.result, %read.{n} ]" for n in range(len(module.regions))),
        settle=unit.target("settle"),
        next=unit.target("next"),
        leaving="%leave" if handlers else "0",
        now=Template(now).substitute(CONSTANTS),
    )


def _arms(unit: BpfUnit, kind: str, arguments: str) -> str:
    return "\n".join(
        f"{kind}.{n}:\n"
        f"  call void @open()\n"
        f"  %{kind}.{n}.result = call i64 {unit.target(f'{region.name}_{kind}')}(i64 %now, {arguments})"
        f" alwaysinline\n"
        f"  br label %{kind}.end"
        for n, region in enumerate(unit.module.regions)
    )


def _at(fields: Layout, name: str) -> int:
    """A field's offset."""
    return sum(size for _, size in fields[: [field for field, _ in fields].index(name)])


def _header(name: str) -> int:
    return next(slot.offset for slot in ir.HEADER if slot.name == name)


CONSTANTS = {
    **{f"at_{name}": _at(CALL, name) for name, _ in CALL},
    **{f"batch_{name}": _at(BATCH, name) for name, _ in BATCH},
    **{f"head_{name}": f"getelementptr inbounds (i8, ptr {STATE}, i64 {_header(name)})"
       for name in ("lock", "version", "attention")},
    "served_is": SERVED, "busy_is": BUSY, "user_is": USER_SPACE, "no_such_is": NO_SUCH,
    "read_is": READ, "write_is": WRITE, "settle_is": SETTLE, "deadline_is": DEADLINE,
    "tries": TRIES,
    "leave": ir.ATTENTION_LEAVE,
    "kept": ~ir.ATTENTION_LEAVE,
    "calls": CALLS,
    "last_call": CALLS - 1,
    "call_size": CALL_SIZE,
    "rounds": MOST_ROUNDS,
    "at_once": AT_ONCE,
    "loop": HELPER_LOOP,
}  # fmt: skip

# Nothing but the lock is atomic. What lies between taking it and giving it back
# stays there: for LLVM by the empty asm, for the machine by the two exchanges,
# which are full barriers in eBPF.
_SERVE = Template("""\
define internal void @count() alwaysinline nounwind {
  %before = load volatile i32, ptr $head_version, align 4
  %after = add i32 %before, 1
  store volatile i32 %after, ptr $head_version, align 4
  ret void
}

define internal void @open() alwaysinline nounwind {
  call void @count()
  call void asm sideeffect "", "~{memory}"()
  ret void
}

; Whether Python must serve what was asked for: then nothing has changed.
define internal i1 @close() alwaysinline nounwind {
  %attention = load i32, ptr $head_attention, align 4
  %leave = and i32 %attention, $leave
  %leaves = icmp ne i32 $leaving, 0
  br i1 %leaves, label %left, label %done
left:
  %kept = and i32 %attention, $kept
  store i32 %kept, ptr $head_attention, align 4
  br label %done
done:
  call void asm sideeffect "", "~{memory}"()
  call void @count()
  ret i1 %leaves
}

define internal void @serve(ptr %call, i32 %what) alwaysinline nounwind {
entry:
  br label %try
try:
  %n = phi i32 [ 0, %entry ], [ %tried, %again ]
  %exchanged = cmpxchg ptr $head_lock, i32 0, i32 1 seq_cst seq_cst
  %held = extractvalue { i32, i1 } %exchanged, 0
  %got = icmp eq i32 %held, 0
  br i1 %got, label %locked, label %again
again:
  %tried = add nuw nsw i32 %n, 1
  %more = icmp ult i32 %tried, $tries
  br i1 %more, label %try, label %end
locked:
  call void asm sideeffect "", "~{memory}"()
$now
  %value.at = getelementptr inbounds i8, ptr %call, i64 $at_value
  %given = load i64, ptr %value.at, align 8
  %offset.at = getelementptr inbounds i8, ptr %call, i64 $at_offset
  %offset.in = load i32, ptr %offset.at, align 8
  %offset = zext i32 %offset.in to i64
  %width.at = getelementptr inbounds i8, ptr %call, i64 $at_width
  %width.in = load i32, ptr %width.at, align 4
  %width = zext i32 %width.in to i64
  %region.at = getelementptr inbounds i8, ptr %call, i64 $at_region
  %region = load i32, ptr %region.at, align 8
  switch i32 %what, label %unlock [
    i32 $read_is, label %read
    i32 $write_is, label %write
    i32 $settle_is, label %settle
    i32 $deadline_is, label %deadline
  ]
read:
  switch i32 %region, label %unlock [ $reads ]
$read_arms
read.none:
  br label %read.end
read.end:
  %result = phi i64 [ 0, %read.none ]$values
  %read.leaves = call i1 @close()
  br i1 %read.leaves, label %unlock, label %answer
write:
  switch i32 %region, label %unlock [ $writes ]
$write_arms
write.end:
  %write.leaves = call i1 @close()
  %written = select i1 %write.leaves, i32 $user_is, i32 $served_is
  br label %unlock
settle:
  call void @open()
  %settled = call i64 $settle(i64 %now)
  br label %write.end
deadline:
  %due = call i64 $next(i64 %now)
  br label %answer
answer:
  %answered = phi i64 [ %result, %read.end ], [ %due, %deadline ]
  store i64 %answered, ptr %value.at, align 8
  br label %unlock
unlock:
  %outcome = phi i32 [ $no_such_is, %locked ], [ $no_such_is, %read ], [ $user_is, %read.end ],
                     [ $no_such_is, %write ], [ %written, %write.end ], [ $served_is, %answer ]
  call void asm sideeffect "", "~{memory}"()
  %freed = atomicrmw xchg ptr $head_lock, i32 0 seq_cst
  br label %end
end:
  %status = phi i32 [ $busy_is, %again ], [ %outcome, %unlock ]
  %status.at = getelementptr inbounds i8, ptr %call, i64 $at_status
  store i32 %status, ptr %status.at, align 8
  ret void
}
""")

# `run`, on the program's stack: { at, first, end, left }. To the verifier each may have any
# value of 32 bits, before and after each round: so it need not follow them all. bpf_loop calls
# once for several entries: where returns go through a thunk, each costs as much as an access.
_EACH = Template("""\
  br label %round
round:
  %k = phi i32 [ 0, %entry ], [ %k.next, %next ]
  %at = load i32, ptr %run, align 8
  %number = and i32 %at, $last_call
  %wide = zext nneg i32 %number to i64
  %offset = mul nuw nsw i64 %wide, $call_size
  %call = getelementptr inbounds i8, ptr @calls, i64 %offset
  %what.at = getelementptr inbounds i8, ptr %call, i64 $at_what
  %what = load i32, ptr %what.at, align 4
  call void @serve(ptr %call, i32 %what)
  %status.at = getelementptr inbounds i8, ptr %call, i64 $at_status
  %status = load i32, ptr %status.at, align 8
  %served = icmp eq i32 %status, $served_is
  br i1 %served, label %step, label %stop
step:
  %left.at = getelementptr inbounds i8, ptr %run, i64 12
  %left = load i32, ptr %left.at, align 4
  %left.next = add i32 %left, -1
  store i32 %left.next, ptr %left.at, align 4
  %first.at = getelementptr inbounds i8, ptr %run, i64 4
  %first = load i32, ptr %first.at, align 4
  %end.at = getelementptr inbounds i8, ptr %run, i64 8
  %end = load i32, ptr %end.at, align 8
  %behind = add i32 %at, 1
  %last = icmp eq i32 %behind, %end
  %at.next = select i1 %last, i32 %first, i32 %behind
  store i32 %at.next, ptr %run, align 8
  %none = icmp eq i32 %left.next, 0
  br i1 %none, label %stop, label %next
next:
  %k.next = add nuw nsw i32 %k, 1
  %more = icmp ult i32 %k.next, $at_once
  br i1 %more, label %round, label %again
again:
  ret i64 0
stop:
  ret i64 1""")

_BATCH = Template("""\
  %run = alloca [4 x i32], align 8
  %first.at = getelementptr inbounds i8, ptr %context, i64 $batch_first
  %first = load i32, ptr %first.at, align 8
  %count.at = getelementptr inbounds i8, ptr %context, i64 $batch_count
  %count.in = load i32, ptr %count.at, align 4
  %count.few = icmp ult i32 %count.in, $calls
  %count = select i1 %count.few, i32 %count.in, i32 $calls
  %repeat.at = getelementptr inbounds i8, ptr %context, i64 $batch_repeat
  %repeat.in = load i32, ptr %repeat.at, align 4
  %repeat.few = icmp ult i32 %repeat.in, $rounds
  %repeat.some = select i1 %repeat.few, i32 %repeat.in, i32 $rounds
  %repeat.none = icmp eq i32 %repeat.some, 0
  %repeat = select i1 %repeat.none, i32 1, i32 %repeat.some
  %total = mul i32 %count, %repeat
  %end = add i32 %first, %count
  store i32 %first, ptr %run, align 8
  %run.first = getelementptr inbounds i8, ptr %run, i64 4
  store i32 %first, ptr %run.first, align 4
  %run.end = getelementptr inbounds i8, ptr %run, i64 8
  store i32 %end, ptr %run.end, align 8
  %run.left = getelementptr inbounds i8, ptr %run, i64 12
  store i32 %total, ptr %run.left, align 4
  %rounds = call i64 inttoptr (i64 $loop to ptr)(i32 %total, ptr @each, ptr %run, i64 0)
  %left = load i32, ptr %run.left, align 4
  %done = sub i32 %total, %left
  %done.at = getelementptr inbounds i8, ptr %context, i64 $batch_done
  store i32 %done, ptr %done.at, align 8
  ret i64 0""")
