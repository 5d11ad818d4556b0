"""Every program of an object put to the running kernel's verifier, one by one.

The kernel reads each instruction on every path: that memory stays within the
maps and that each loop ends is then known to something that is not devc.

Non-goals: keeping what was loaded; showing it (cli/verify.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from . import bpf, verifier_log
from .bpf_object import BpfObject
from .verifier_log import Figures, Refusal


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier said of a program; `refusal` is None if it accepted it.

    `instructions` counts the program with the functions that it calls, as they go in;
    `milliseconds` is the verifier's own time where the kernel tells it, else the loading's.
    """

    program: str
    instructions: int
    figures: Figures
    milliseconds: float
    refusal: Refusal | None
    log: str

    @property
    def accepted(self) -> bool:
        return self.refusal is None


def verify(source: BpfObject, steps: bool = False) -> Iterator[Verdict]:
    """Load each program and let it go again; `steps`: logs of each step, of accepted programs too.

    Raises BpfUnavailable where nothing can be loaded at all, ObjectError, BpfError.
    """
    try:
        loaded = source.load()
    except bpf.BpfError as error:
        raise bpf.why(error) if error.errno in bpf.NOT_HERE else error from None
    try:
        for name in source.programs:
            linked = loaded.linked(name)
            began = time.perf_counter()
            refusal = None
            try:
                program = loaded.program(name, linked, steps)
                log = program.log
                program.close()
            except bpf.Rejected as rejected:
                log, refusal = rejected.log, verifier_log.refusal(rejected.log, linked)
            except bpf.BpfError as error:
                raise bpf.why(error) if error.errno in bpf.NOT_HERE else error from None
            taken = 1e3 * (time.perf_counter() - began)
            figures = verifier_log.figures(log, linked.calls)
            told = figures.microseconds / 1e3 or taken
            yield Verdict(name, len(linked.code) // bpf.WORD, figures, told, refusal, log)
    finally:
        loaded.close()
