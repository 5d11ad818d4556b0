"""The part of a device's ABI that follows from its layout alone, as LLVM IR text.

`init`, `peek`, and `save` and `restore` in the image format of docs/abi.md. The
image's slots are rows of a constant table that two small loops walk: code does
not grow with the device, and bytes are taken one by one, so that the image is
little-endian whatever the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from string import Template

from . import ir
from .image import FORMAT, HEAD, MAGIC, image_size, layout_hash, saved
from .native_ops import literal

ROW = "{ i64, i64, i64, i64, i64, i64, i64 }"


@dataclass(frozen=True, slots=True)
class Run:
    """Elements of one slot that lie at equal distances: a row of the table."""

    offset: int
    stride: int
    count: int
    size: int
    param: bool
    lo: int
    span: int


def state(module: ir.Module, extra: str = "noalias ") -> str:
    """The declaration of the state parameter `%s`."""
    return f"ptr {extra}noundef nonnull align 8 dereferenceable({module.size}) %s"


SMALL = "minsize optsize nounwind"
QUICK = "noinline optnone nounwind"


def build(module: ir.Module, quick: bool = False) -> str:
    """`init`, `save`, `restore` and a `peek` for each region.

    `quick`: compiled without optimisation, which spares LLVM 13 ms a device
    and costs the caller 20 ns; for code that no one keeps.
    """
    runs = [run for slot in saved(module) for run in _runs(slot)]
    fixed = HEAD.pack(MAGIC, FORMAT, module.version, layout_hash(module), 0)[:-8]
    values = {
        "dev": module.name,
        "state": state(module),
        "size": module.size,
        "row": ROW,
        "rows": len(runs),
        "table": ", ".join(f"{ROW} {{ {_row(run)} }}" for run in runs),
        "length": image_size(module),
        "fixed_size": len(fixed),
        "lock_at": ir.LOCK_AT,
        "unlocked_at": ir.UNLOCKED_AT,
        "behind_size": module.size - ir.UNLOCKED_AT,
        "fixed": "".join(f"\\{byte:02x}" for byte in fixed),
        "small": QUICK if quick else SMALL,
        "apart": "" if quick else "noinline ",
        "head_size": HEAD.size,
        "init_params": "".join(f", i64 %p{i}" for i, _ in _stored_params(module)),
        "init_stores": "".join(_init_store(module, i, p) for i, p in _stored_params(module)),
    }
    text = _TEMPLATE.substitute(values)
    return text + "".join(_PEEK.substitute(values, region=region.name) for region in module.regions)


def _row(run: Run) -> str:
    cells = (run.offset, run.stride, run.count, run.size, int(run.param), run.lo, run.span)
    return ", ".join(f"i64 {literal(cell)}" for cell in cells)


def _runs(slot: ir.Slot) -> Iterator[Run]:
    """The slot's elements in index order; neighbouring dimensions without a gap are one run."""
    span = slot.type.hi - slot.type.lo

    def walk(offset: int, dims: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int, int]]:
        if len(dims) < 2:
            count, stride = dims[0] if dims else (1, slot.size)
            yield offset, stride, count
            return
        (count, stride), (inner_count, inner_stride), *rest = dims
        if stride == inner_count * inner_stride:
            yield from walk(offset, ((count * inner_count, inner_stride), *rest))
            return
        for i in range(count):
            yield from walk(offset + i * stride, dims[1:])

    for offset, stride, count in walk(slot.offset, slot.dims):
        yield Run(offset, stride, count, slot.size, slot.kind == "param", slot.type.lo, span)


def _stored_params(module: ir.Module) -> list[tuple[int, ir.Param]]:
    return list(enumerate(p for p in module.params if p.slot is not None))


def _init_store(module: ir.Module, number: int, param: ir.Param) -> str:
    """Clamp the argument into the parameter's range and store it."""
    assert param.slot is not None
    slot = module.slot(param.slot)
    sign = "s" if param.type.signed else "u"
    lo, hi = literal(param.type.lo), literal(param.type.hi)
    p = f"%p{number}"
    return f"""
  {p}.below = icmp {sign}lt i64 {p}, {lo}
  {p}.low = select i1 {p}.below, i64 {lo}, i64 {p}
  {p}.above = icmp {sign}gt i64 {p}.low, {hi}
  {p}.in = select i1 {p}.above, i64 {hi}, i64 {p}.low
  {p}.at = getelementptr inbounds i8, ptr %s, i64 {slot.offset}
  call void @"{module.name}..put"(ptr {p}.at, i64 {p}.in, i64 {slot.size})"""


_PEEK = Template("""

define dso_local i64 @"${dev}_${region}_peek"($state, i64 %now, i32 %offset, i32 %width) $small {
  %copy = alloca [$size x i8], align 8
  call void @llvm.memcpy.p0.p0.i64(ptr align 8 %copy, ptr align 8 %s, i64 $size, i1 false)
  %value = call i64 @"${dev}_${region}_read"(ptr %copy, i64 %now, i32 %offset, i32 %width)
  ret i64 %value
}""")

# In the state a slot has the machine's byte order (`get`, `put`); in the image
# the lowest byte comes first (`take`, `give`).
_TEMPLATE = Template("""\
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

@"$dev..table" = internal unnamed_addr constant [$rows x $row] [ $table ], align 8
@"$dev..head" = internal unnamed_addr constant [$fixed_size x i8] c"$fixed", align 8

define internal i64 @"$dev..get"(ptr %at, i64 %size) $small {
  switch i64 %size, label %get8 [ i64 1, label %get1 i64 2, label %get2 i64 4, label %get4 ]
get1:
  %v1 = load i8, ptr %at, align 1
  %z1 = zext i8 %v1 to i64
  ret i64 %z1
get2:
  %v2 = load i16, ptr %at, align 2
  %z2 = zext i16 %v2 to i64
  ret i64 %z2
get4:
  %v4 = load i32, ptr %at, align 4
  %z4 = zext i32 %v4 to i64
  ret i64 %z4
get8:
  %v8 = load i64, ptr %at, align 8
  ret i64 %v8
}

define internal void @"$dev..put"(ptr %at, i64 %value, i64 %size) $small {
  switch i64 %size, label %put8 [ i64 1, label %put1 i64 2, label %put2 i64 4, label %put4 ]
put1:
  %v1 = trunc i64 %value to i8
  store i8 %v1, ptr %at, align 1
  ret void
put2:
  %v2 = trunc i64 %value to i16
  store i16 %v2, ptr %at, align 2
  ret void
put4:
  %v4 = trunc i64 %value to i32
  store i32 %v4, ptr %at, align 4
  ret void
put8:
  store i64 %value, ptr %at, align 8
  ret void
}

define internal i64 @"$dev..take"(ptr %image, i64 %size) $small {
entry:
  br label %next
next:
  %i = phi i64 [ %size, %entry ], [ %j, %next ]
  %value = phi i64 [ 0, %entry ], [ %more, %next ]
  %j = add i64 %i, -1
  %at = getelementptr i8, ptr %image, i64 %j
  %byte = load i8, ptr %at, align 1
  %low = zext i8 %byte to i64
  %high = shl i64 %value, 8
  %more = or i64 %high, %low
  %done = icmp eq i64 %j, 0
  br i1 %done, label %end, label %next
end:
  ret i64 %more
}

define internal void @"$dev..give"(ptr %image, i64 %whole, i64 %size) $small {
entry:
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %j, %next ]
  %value = phi i64 [ %whole, %entry ], [ %rest, %next ]
  %byte = trunc i64 %value to i8
  %at = getelementptr i8, ptr %image, i64 %i
  store i8 %byte, ptr %at, align 1
  %rest = lshr i64 %value, 8
  %j = add i64 %i, 1
  %done = icmp eq i64 %j, %size
  br i1 %done, label %end, label %next
end:
  ret void
}

; Walk the table. what: 0 save, 1 check, 2 store. The refusal code, or 0.
define internal i32 @"$dev..walk"(ptr %s, ptr %image, i32 %what) $apart$small {
entry:
  br label %run
run:
  %r = phi i64 [ 0, %entry ], [ %r.next, %run.end ]
  %from = phi i64 [ $head_size, %entry ], [ %from.next, %run.end ]
  %refusal = phi i32 [ 0, %entry ], [ %refusal.run, %run.end ]
  %end = icmp eq i64 %r, $rows
  br i1 %end, label %done, label %row
row:
  %row.offset = getelementptr [$rows x $row], ptr @"$dev..table", i64 0, i64 %r, i32 0
  %row.stride = getelementptr [$rows x $row], ptr @"$dev..table", i64 0, i64 %r, i32 1
  %row.count = getelementptr [$rows x $row], ptr @"$dev..table", i64 0, i64 %r, i32 2
  %row.size = getelementptr [$rows x $row], ptr @"$dev..table", i64 0, i64 %r, i32 3
  %row.param = getelementptr [$rows x $row], ptr @"$dev..table", i64 0, i64 %r, i32 4
  %row.lo = getelementptr [$rows x $row], ptr @"$dev..table", i64 0, i64 %r, i32 5
  %row.span = getelementptr [$rows x $row], ptr @"$dev..table", i64 0, i64 %r, i32 6
  %offset = load i64, ptr %row.offset
  %stride = load i64, ptr %row.stride
  %count = load i64, ptr %row.count
  %size = load i64, ptr %row.size
  %param.word = load i64, ptr %row.param
  %param = icmp ne i64 %param.word, 0
  %lo = load i64, ptr %row.lo
  %span = load i64, ptr %row.span
  %bits = shl i64 %size, 3
  %unused = sub i64 64, %bits
  %mask = lshr i64 -1, %unused
  br label %element
element:
  %i = phi i64 [ 0, %row ], [ %i.next, %element.end ]
  %at = phi i64 [ %offset, %row ], [ %at.next, %element.end ]
  %pos = phi i64 [ %from, %row ], [ %pos.next, %element.end ]
  %refusal.in = phi i32 [ %refusal, %row ], [ %refusal.out, %element.end ]
  %slot = getelementptr i8, ptr %s, i64 %at
  %bytes = getelementptr i8, ptr %image, i64 %pos
  switch i32 %what, label %save [ i32 1, label %check i32 2, label %store ]
save:
  %saved = call i64 @"$dev..get"(ptr %slot, i64 %size)
  call void @"$dev..give"(ptr %bytes, i64 %saved, i64 %size)
  br label %element.end
store:
  %stored = call i64 @"$dev..take"(ptr %bytes, i64 %size)
  call void @"$dev..put"(ptr %slot, i64 %stored, i64 %size)
  br label %element.end
check:
  %value = call i64 @"$dev..take"(ptr %bytes, i64 %size)
  br i1 %param, label %check.param, label %check.range
check.param:
  %own = call i64 @"$dev..get"(ptr %slot, i64 %size)
  %same = icmp eq i64 %own, %value
  br i1 %same, label %element.end, label %foreign
foreign:
  ret i32 5
check.range:
  %above = sub i64 %value, %lo
  %distance = and i64 %above, %mask
  %inside = icmp ule i64 %distance, %span
  %refusal.new = select i1 %inside, i32 %refusal.in, i32 6
  br label %element.end
element.end:
  %refusal.out = phi i32 [ %refusal.in, %save ], [ %refusal.in, %store ], [ %refusal.in, %check.param ],
                         [ %refusal.new, %check.range ]
  %i.next = add i64 %i, 1
  %at.next = add i64 %at, %stride
  %pos.next = add i64 %pos, %size
  %last = icmp eq i64 %i.next, %count
  br i1 %last, label %run.end, label %element
run.end:
  %from.next = phi i64 [ %pos.next, %element.end ]
  %refusal.run = phi i32 [ %refusal.out, %element.end ]
  %r.next = add i64 %r, 1
  br label %run
done:
  ret i32 %refusal
}

define dso_local void @"${dev}_init"($state, i64 %now$init_params) $small {
  call void @llvm.memset.p0.i64(ptr align 8 %s, i8 0, i64 $size, i1 false)$init_stores
  call void @"${dev}_reset"(ptr %s, i64 %now)
  ret void
}

define dso_local void @"${dev}_save"($state, i64 %now, ptr noalias noundef %image) $small {
  call void @"${dev}_settle"(ptr %s, i64 %now)
  call void @llvm.memcpy.p0.p0.i64(ptr %image, ptr align 8 @"$dev..head", i64 $fixed_size, i1 false)
  %time = getelementptr i8, ptr %image, i64 $fixed_size
  call void @"$dev..give"(ptr %time, i64 %now, i64 8)
  %walked = call i32 @"$dev..walk"(ptr %s, ptr %image, i32 0)
  ret void
}

define dso_local i32 @"${dev}_restore"($state, i64 %now, ptr noalias noundef %image, i64 %length) $small {
  %whole = icmp eq i64 %length, $length
  br i1 %whole, label %magic, label %refuse1
magic:
  %magic.in = call i64 @"$dev..take"(ptr %image, i64 8)
  %magic.own = call i64 @"$dev..take"(ptr @"$dev..head", i64 8)
  %magic.same = icmp eq i64 %magic.in, %magic.own
  br i1 %magic.same, label %format, label %refuse2
format:
  %format.at = getelementptr i8, ptr %image, i64 8
  %format.in = call i64 @"$dev..take"(ptr %format.at, i64 4)
  %format.head = getelementptr i8, ptr @"$dev..head", i64 8
  %format.own = call i64 @"$dev..take"(ptr %format.head, i64 4)
  %format.same = icmp eq i64 %format.in, %format.own
  br i1 %format.same, label %version, label %refuse3
version:
  %version.at = getelementptr i8, ptr %image, i64 12
  %version.in = call i64 @"$dev..take"(ptr %version.at, i64 4)
  %version.head = getelementptr i8, ptr @"$dev..head", i64 12
  %version.own = call i64 @"$dev..take"(ptr %version.head, i64 4)
  %version.same = icmp eq i64 %version.in, %version.own
  br i1 %version.same, label %layout, label %refuse4
layout:
  %layout.at = getelementptr i8, ptr %image, i64 16
  %layout.in = call i64 @"$dev..take"(ptr %layout.at, i64 8)
  %layout.head = getelementptr i8, ptr @"$dev..head", i64 16
  %layout.own = call i64 @"$dev..take"(ptr %layout.head, i64 8)
  %layout.same = icmp eq i64 %layout.in, %layout.own
  br i1 %layout.same, label %slots, label %refuse4
slots:
  %refusal = call i32 @"$dev..walk"(ptr %s, ptr %image, i32 1)
  %accepted = icmp eq i32 %refusal, 0
  br i1 %accepted, label %instant, label %refuse
instant:
  %since.at = getelementptr i8, ptr %image, i64 $fixed_size
  %since = call i64 @"$dev..take"(ptr %since.at, i64 8)
  %future = icmp ugt i64 %since, %now
  br i1 %future, label %refuse7, label %accept
accept:
  call void @llvm.memset.p0.i64(ptr align 8 %s, i8 0, i64 $lock_at, i1 false)
  %behind = getelementptr i8, ptr %s, i64 $unlocked_at
  call void @llvm.memset.p0.i64(ptr align 8 %behind, i8 0, i64 $behind_size, i1 false)
  %walked = call i32 @"$dev..walk"(ptr %s, ptr %image, i32 2)
  call void @"${dev}_resume"(ptr %s, i64 %since)
  call void @"${dev}_settle"(ptr %s, i64 %now)
  ret i32 0
refuse:
  ret i32 %refusal
refuse1:
  ret i32 1
refuse2:
  ret i32 2
refuse3:
  ret i32 3
refuse4:
  ret i32 4
refuse7:
  ret i32 7
}""")
