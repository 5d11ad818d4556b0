"""The process in which LLVM makes an object: a back end ends the process on what its target cannot do.

    python back_end_child.py TRIPLE CPU FEATURES < LLVM-IR > object

Stands alone (it imports nothing of this package), so that it starts quickly.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import llvmlite.binding as llvm

MEMORY = 4 << 30
"""Bytes of address space."""


def optimised(text: str, triple: str, cpu: str, features: str) -> tuple[Any, Any]:
    """The module, optimised, and its target machine."""
    target = llvm.Target.from_triple(triple)
    machine = target.create_target_machine(cpu=cpu, features=features, opt=2, reloc="static")
    # The data layout comes before the text is parsed, or its types have another machine's sizes.
    head = f'target datalayout = "{machine.target_data}"\ntarget triple = "{triple}"\n'
    module = llvm.parse_assembly(head + text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = False
    options.loop_interleaving = options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module, machine


def main() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module, machine = optimised(sys.stdin.buffer.read().decode(), *sys.argv[1:4])
    sys.stdout.buffer.write(machine.emit_object(module))


if __name__ == "__main__":
    main()
