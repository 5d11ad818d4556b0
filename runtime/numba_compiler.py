"""numba at work: a function of a handler file becomes an object file over the state struct.

The only module that imports numba. Around the function stands a generated
wrapper that catches what it raises: a `cfunc` that raises would print, take the
interpreter's lock and answer 0. In the object that is left, no call leads out
of it but to the C library.

Exceptions are compiled without their arguments: nobody sees them (the
interpreter, which serves the access then, raises them whole), and numba would
allocate them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from numba import carray, int64, types, uint64

from ..compiler import jit
from .handler_file import PythonTierError
from .numba_tier import CHANGED, FAILED, SAME, SYMBOL, Cell, Task
from .plain_functions import shape

SAFE = {"boundscheck": True, "_nrt": False}
"""How a handler file's functions are compiled: indices checked, nothing allocated."""

MOST_LINES = 8
"""Of numba's reason."""

INTERPRETER = ("numba_", "NRT_", "Py", "_Py")
"""How the names of functions begin that a handler must not call."""


def compile_handler(task: Task, file: ModuleType) -> bytes:
    """The object file with SYMBOL, for this CPU. Raises PythonTierError."""
    if numba.config.DISABLE_JIT or numba.config.BOUNDSCHECK == 0:
        raise PythonTierError(
            "NUMBA_DISABLE_JIT or NUMBA_BOUNDSCHECK is set; a part of tier numba is compiled, with its "
            "indices checked: unset it"
        )
    path = Path(str(file.__file__))
    functions = _functions(file, path)
    function = functions[task.function]
    try:
        function.compile(tuple(_argument_types(task)))
    except Exception as error:
        raise _refusal(error, task, path, function.py_func) from error
    for each in functions.values():
        _check_exact(each, task, path)
    returned = types.unliteral(function.nopython_signatures[-1].return_type)
    elements = _elements(returned, task)
    if elements is None:
        raise PythonTierError(
            f"{path}:{function.py_func.__code__.co_firstlineno}: {task.function} must return "
            f"{shape(task.part, task.direction)}; numba finds that it returns {returned}"
        )
    wrapper = _wrapper(task, function, isinstance(returned, types.BaseTuple), elements)
    return _object(wrapper.inspect_llvm(), wrapper.native_name, task, path)


# --- the file's functions ----------------------------------------------------------


class _Bare(ast.NodeTransformer):
    """Exceptions without arguments, functions without decorators."""

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        node.cause = None
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return node


def _functions(file: ModuleType, path: Path) -> dict[str, Any]:
    """The file's functions, each compiled when it is called; the file itself stays as it is."""
    tree = _Bare().visit(ast.parse(path.read_bytes(), str(path)))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    for node in functions:
        node.decorator_list = []
    names = dict(vars(file))
    body = ast.Module(body=list[ast.stmt](functions), type_ignores=[])
    exec(compile(body, str(path), "exec", flags=annotations.compiler_flag), names)
    compiled = {node.name: numba.njit(**SAFE)(names[node.name]) for node in functions}
    names.update(compiled)
    return compiled


def _argument_types(task: Task) -> Iterator[Any]:
    yield from (int64, int64, int64)
    if task.direction == "write":
        yield uint64 if task.wide_value else int64
    for cell in task.reads:
        yield _kind(cell)


def _kind(cell: Cell) -> Any:
    return uint64 if cell.wide else int64


def _check_exact(function: Any, task: Task, path: Path) -> None:
    """Refuse a function that numba makes inexact: 64 bits unsigned and signed numbers, mixed, are
    floats to it, unlike to Python."""
    for overload in function.overloads.values():
        if types.uint64 not in overload.signature.args:
            continue
        for name, kind in overload.type_annotation.typemap.items():
            if isinstance(kind, types.Float):
                code = function.py_func.__code__
                raise PythonTierError(
                    f"{path}:{code.co_firstlineno}: {task.function} is given a number of 64 bits unsigned, "
                    f"and {code.co_name} mixes such with signed ones, which numba takes for floats "
                    f"({name.split('.')[0].strip('$')}): say numpy.uint64(...) of the others, and '//'"
                )


def _elements(returned: Any, task: Task) -> list[Any] | None:
    """The types of what the function returns, one a value; None if it is not what it must be."""
    reads = task.direction == "read"
    if isinstance(returned, types.BaseTuple):
        found = [types.unliteral(element) for element in returned.types]
        fits = len(found) == reads + len(task.writes)
    else:
        found = [] if isinstance(returned, types.NoneType) else [returned]
        fits = len(found) == 1 if reads else not found and not task.writes
    return found if fits and all(isinstance(e, (types.Integer, types.Boolean)) for e in found) else None


# --- the wrapper -----------------------------------------------------------------------


def _wrapper(task: Task, function: Any, is_tuple: bool, elements: list[Any]) -> Any:
    names = {"carray": carray, "int64": int64, "uint64": uint64, "function": function}
    exec("\n".join(_text(task, is_tuple, elements)), names)
    arguments = (types.uint64, types.uint32, types.uint32, types.uint64, types.CPointer(types.uint64))
    signature = types.uint32(types.CPointer(_record(task)), *arguments)
    return numba.cfunc(signature, boundscheck=True)(names["handler"])


def _record(task: Task) -> Any:
    """The cells of the state struct. Its first byte is there so that there is one."""
    cells = {cell.offset: cell for cell in (*task.reads, *task.writes)}
    formats = {f"at{o}": (f"{'i' if c.type.signed else 'u'}{c.size}", o) for o, c in cells.items()}
    formats["at0"] = ("u1", 0)
    return numba.from_dtype(
        np.dtype(
            {
                "names": list(formats),
                "formats": [kind for kind, _ in formats.values()],
                "offsets": [offset for _, offset in formats.values()],
                "itemsize": task.state_size,
            },
            align=True,
        )
    )


def _text(task: Task, is_tuple: bool, elements: list[Any]) -> Iterator[str]:
    """What stands around the function. Whatever fails, fails before anything is stored."""
    reads = task.direction == "read"
    yield "def handler(state, now, offset, width, value, answer):"
    yield "    s = carray(state, 1)[0]"
    yield f"    if now > uint64({2**63 - 1}): return {FAILED}"
    given = ["int64(now)", "int64(offset)", "int64(width)"]
    if not reads:
        given.append("value" if task.wide_value else "int64(value)")
        if not task.wide_value:
            yield f"    if value > uint64({2**63 - 1}): return {FAILED}"
    given += [f"{_kind(cell)}(s.at{cell.offset})" for cell in task.reads]
    yield f"    try: result = function({', '.join(given)})"
    yield f"    except Exception: return {FAILED}"
    stored = list(zip(task.writes, elements[reads:], strict=False)) if is_tuple else []
    for number, (cell, element) in enumerate(stored):
        yield from _checked(f"w{number}", f"result[{number + reads}]", cell, element)
    yield f"    changed = {SAME}"
    for number, (cell, _) in enumerate(stored):
        yield f"    if {_kind(cell)}(s.at{cell.offset}) != w{number}:"
        yield f"        s.at{cell.offset} = w{number}"
        yield f"        changed = {CHANGED}"
    if reads:
        yield f"    carray(answer, 1)[0] = uint64({'result[0]' if is_tuple else 'result'})"
    yield "    return changed"


def _checked(name: str, value: str, cell: Cell, element: Any) -> Iterator[str]:
    """A value to be written: in its cell's range, or the call has failed."""
    kind = _kind(cell)
    if element == types.uint64 and not cell.wide:
        yield f"    if {value} > uint64({2**63 - 1}): return {FAILED}"
    yield f"    {name} = {kind}({value})"
    low, high = (f"{kind}({bound})" for bound in (cell.type.lo, cell.type.hi))
    yield f"    if {name} < {low} or {name} > {high}: return {FAILED}"


# --- the object --------------------------------------------------------------------------


def _object(text: str, name: str, task: Task, path: Path) -> bytes:
    """Optimise again, now that nothing but the handler need be kept: what numba prepares for
    an error in a `cfunc` proves unreachable and goes."""
    machine = jit.host().machine(2, jit=True)
    module = llvm.parse_assembly(text, llvm.create_context())
    for value in [*module.functions, *module.global_variables]:
        if not value.is_declaration:
            value.linkage = "external" if value.name == name else "internal"
    module.get_function(name).name = SYMBOL
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(module, builder)
    needed = [v.name for v in [*module.functions, *module.global_variables] if v.is_declaration]
    bad = [each for each in needed if each.startswith(INTERPRETER)]
    if bad:
        raise PythonTierError(
            f"{path}: {task.function} needs the interpreter or numba's run-time library "
            f"({', '.join(bad[:3])}): a compiled handler must do without print, objmode, generators "
            "and the rarer functions of math"
        )
    image: bytes = machine.emit_object(module)
    return image


# --- what numba says --------------------------------------------------------------------------


def _refusal(error: Exception, task: Task, path: Path, function: FunctionType) -> PythonTierError:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    line = _line(text, error, path) or function.__code__.co_firstlineno
    return PythonTierError(f"{path}:{line}: numba cannot compile {task.function}: {_reason(text, error)}")


def _line(text: str, error: Exception, path: Path) -> int | None:
    """The first line of the handler file that the message names: the innermost."""
    name = re.escape(path.name)
    found = re.search(rf" at \S*{name} \((\d+)\)", text) or re.search(rf'{name}", line (\d+)', text)
    if found:
        return int(found[1])
    place = getattr(error, "loc", None)
    return int(place.line) if place is not None and Path(place.filename).name == path.name else None


def _reason(text: str, error: Exception) -> str:
    """numba's own words, without its candidates and passes."""
    if "NRT required but not enabled" in text:
        return "it allocates memory (a list, a string, an array), which a handler must not"
    lines: list[str] = []
    for line in text.splitlines():
        if re.match(r"Failed in nopython mode|There (is|are) \d+ candidate|During: |File \"", line):
            if lines:
                break
        elif line.strip():
            lines.append(line.strip())
    return " ".join(lines[:MOST_LINES]) or type(error).__name__
