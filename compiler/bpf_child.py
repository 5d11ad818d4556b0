"""The process in which LLVM makes eBPF: its back end ends the process on what eBPF cannot do.

    python bpf_child.py < LLVM-IR > object

Stands alone (it imports nothing of this package), so that it starts quickly.
What it says of a failure, bpf_compile.py understands.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import llvmlite.binding as llvm

TRIPLE = "bpfel"
CPU = "v3"
"""32-bit subregisters and atomic exchanges: Linux 5.12."""
MEMORY = 4 << 30
"""Bytes of address space."""


def optimised(text: str) -> tuple[Any, Any]:
    """The module, optimised, and its target machine."""
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine(cpu=CPU, opt=2)
    # The data layout comes before the text is parsed, or its types have another machine's sizes.
    head = f'target datalayout = "{machine.target_data}"\ntarget triple = "{TRIPLE}"\n'
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
    module, machine = optimised(sys.stdin.buffer.read().decode())
    sys.stdout.buffer.write(machine.emit_object(module))


if __name__ == "__main__":
    main()
