"""Integer operations of the typed IR as LLVM instructions on i64.

A `Writer` collects one function's text; the functions below it emit one IR
operator each and return the operand that holds the result. They tell LLVM what
the ranges prove (`nuw`, `nsw`, 32-bit division), and nothing more.

Non-goals: statements and the state (native.py); 128-bit values, which would
call into compiler-rt and which no other back end has.
"""

from __future__ import annotations

from .ir import SECOND, U32, Range

I64 = Range(-(2**63), 2**63 - 1)


def literal(value: int, bits: int = 64) -> str:
    """An LLVM integer literal, in two's complement."""
    value &= (1 << bits) - 1
    return str(value - (1 << bits) if value >> (bits - 1) else value)


class Writer:
    """The text of one function's body: values `%vN`, blocks `bN`.

    After a terminator `open` is false until the next `start`; what is
    appended in between would be unreachable and is dropped.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.block = "entry"
        self.open = True
        self._count = 0

    def do(self, text: str) -> None:
        if self.open:
            self.lines.append(f"  {text}")

    def op(self, text: str) -> str:
        self._count += 1
        name = f"%v{self._count}"
        self.do(f"{name} = {text}")
        return name

    def label(self) -> str:
        self._count += 1
        return f"b{self._count}"

    def start(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.block = label
        self.open = True

    def end(self, terminator: str) -> None:
        self.do(terminator)
        self.open = False

    def jump(self, label: str) -> None:
        self.end(f"br label %{label}")

    def branch(self, test: str, then: str, orelse: str) -> None:
        self.end(f"br i1 {test}, label %{then}, label %{orelse}")

    def bool(self, test: str) -> str:
        """An i1 as an i64."""
        return {"true": "1", "false": "0"}.get(test) or self.op(f"zext i1 {test} to i64")


def exact(w: Writer, op: str, a: str, b: str, left: Range, right: Range, result: Range) -> str:
    """`add`, `sub`, `mul` or `shl` whose result range contains every result."""
    flags = ""
    if left.lo >= 0 and right.lo >= 0 and result.lo >= 0:
        flags += " nuw"
    if I64.contains(left) and I64.contains(result) and (op == "shl" or I64.contains(right)):
        flags += " nsw"
    return w.op(f"{op}{flags} i64 {a}, {b}")


def divide(w: Writer, op: str, a: str, b: str, left: Range, right: Range) -> str:
    """`udiv` or `urem`; in 32 bits if both operands fit, as that takes half the time."""
    if not (U32.contains(left) and U32.contains(right)):
        return w.op(f"{op} i64 {a}, {b}")
    a, b = (w.op(f"trunc nuw i64 {x} to i32") for x in (a, b))
    return w.op(f"zext i32 {w.op(f'{op} i32 {a}, {b}')} to i64")


def compare(w: Writer, op: str, a: str, b: str, left: Range, right: Range) -> str:
    """`eq`, `ne`, `lt` or `le` on the mathematical values; an i1.

    Where one side is signed and the other may be 2**63 or more, no single
    comparison of 64-bit words is right: a negative value is less than the
    other side whatever its bits say.
    """
    if op in ("eq", "ne") and not _crossed(left, right):
        return w.op(f"icmp {op} i64 {a}, {b}")
    if op in ("lt", "le") and not _crossed(left, right):
        order = "s" if left.signed or right.signed else "u"
        return w.op(f"icmp {order}{op} i64 {a}, {b}")
    signed = a if left.signed else b
    negative = w.op(f"icmp slt i64 {signed}, 0")
    plain = w.op(f"icmp {op if op in ('eq', 'ne') else 'u' + op} i64 {a}, {b}")
    if op == "ne" or (left.signed and op != "eq"):
        return w.op(f"or i1 {negative}, {plain}")
    return w.op(f"and i1 {w.op(f'xor i1 {negative}, true')}, {plain}")


def _crossed(left: Range, right: Range) -> bool:
    return left.signed != right.signed and not (I64.contains(left) and I64.contains(right))


def extreme(w: Writer, op: str, a: str, b: str, left: Range, right: Range) -> str:
    """`min` or `max` on the mathematical values."""
    less = compare(w, "lt", a, b, left, right)
    return w.op(
        f"select i1 {less}, i64 {a}, i64 {b}" if op == "min" else f"select i1 {less}, i64 {b}, i64 {a}"
    )


def ticks(w: Writer, ns: str, hz: str, left: Range, right: Range) -> str:
    """floor(ns * hz / 10**9), exact for every 64-bit ns and hz up to 10**9.

    Split at the second: ns = s * 10**9 + r gives s * hz + r * hz / 10**9, and
    no product exceeds 64 bits (s < 2**35, hz <= 10**9 < 2**30).
    """
    if left.hi * right.hi < 2**64:
        return w.op(f"udiv i64 {w.op(f'mul nuw i64 {ns}, {hz}')}, {SECOND}")
    s = w.op(f"udiv i64 {ns}, {SECOND}")
    r = w.op(f"urem i64 {ns}, {SECOND}")
    whole = w.op(f"mul nuw i64 {s}, {hz}")
    part = w.op(f"udiv i64 {w.op(f'mul nuw nsw i64 {r}, {hz}')}, {SECOND}")
    return w.op(f"add nuw i64 {whole}, {part}")


def nanos(w: Writer, count: str, hz: str, left: Range, right: Range) -> str:
    """ceil(count * 10**9 / hz), 2**64 - 1 if that is beyond 64 bits."""
    less = w.op(f"add nsw i64 {hz}, -1")
    if left.hi * SECOND + right.hi < 2**64:
        up = w.op(f"add nuw i64 {w.op(f'mul nuw i64 {count}, {SECOND}')}, {less}")
        return w.op(f"udiv i64 {up}, {hz}")
    s = divide(w, "udiv", count, hz, left, right)
    r = w.op(f"sub nuw i64 {count}, {w.op(f'mul nuw i64 {s}, {hz}')}")
    up = w.op(f"add nuw nsw i64 {w.op(f'mul nuw nsw i64 {r}, {SECOND}')}, {less}")
    part = w.op(f"udiv i64 {up}, {hz}")  # < 2**60: r < hz <= 10**9
    whole = w.op(f"mul i64 {s}, {SECOND}")
    total = w.op(f"add i64 {whole}, {part}")
    beyond = w.op(f"icmp ugt i64 {s}, {(2**64 - 1) // SECOND}")
    wrapped = w.op(f"icmp ult i64 {total}, {whole}")
    return w.op(f"select i1 {w.op(f'or i1 {beyond}, {wrapped}')}, i64 -1, i64 {total}")
