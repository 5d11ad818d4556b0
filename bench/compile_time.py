"""How long a user waits for both shipped devices: compiled anew, and from the cache.

Each sample is a fresh process. What is timed begins after
`import devc.compiler.driver` and is everything that a user then waits for:
importing the parser and the front end, loading the grammar's tables, parsing,
checking, LLVM, linking. Not timed: the start of the interpreter and the import
of llvmlite. Bytecode is there, as it is after an installation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .result import Benchmark, Disagreement, Report, Scale, nanoseconds

DEVICES = ("i8254", "acpi_pm")
SAMPLES = 15
TIME_LIMIT = 120

CHILD = """
import json, sys, time
from devc.compiler import driver
wall, cpu = time.perf_counter_ns(), time.process_time_ns()
codes = [driver.load(name).native() for name in sys.argv[1:]]
wall, cpu = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
print(json.dumps([wall, cpu, [code.cached for code in codes]]))
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """ns waited, and ns of processor time."""

    wall: int
    cpu: int


class Compilations:
    """Fresh processes that compile; their bytecode is kept in `folder`, which must be empty at first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0

    def fresh_cache(self) -> Path:
        self._number += 1
        return self._folder / f"cache{self._number}"

    def run(self, cache: Path, cached: bool) -> Sample:
        """One sample. `Disagreement` if the code came from elsewhere than expected."""
        environment = {
            **os.environ,
            "DEVC_CACHE": str(cache),
            "PYTHONPYCACHEPREFIX": str(self._folder / "bytecode"),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *DEVICES],
            capture_output=True,
            text=True,
            env=environment,
            timeout=TIME_LIMIT,
            check=False,
        )
        if done.returncode:
            raise Disagreement(f"the devices do not compile: {done.stderr.strip()[-400:]}")
        wall, cpu, origins = json.loads(done.stdout)
        if origins != [cached] * len(DEVICES):
            raise Disagreement(f"expected code {'from the cache' if cached else 'compiled anew'}: {origins}")
        return Sample(wall, cpu)


@contextmanager
def compilations() -> Iterator[Compilations]:
    with tempfile.TemporaryDirectory(prefix="devc-bench-") as folder:
        made = Compilations(Path(folder))
        made.run(made.fresh_cache(), cached=False)  # writes the bytecode
        yield made


def cold(made: Compilations) -> Callable[[], Sample]:
    return lambda: made.run(made.fresh_cache(), cached=False)


def warm(made: Compilations) -> Callable[[], Sample]:
    cache = made.fresh_cache()
    made.run(cache, cached=False)
    return lambda: made.run(cache, cached=True)


def timed(seconds: float, way: Callable[[Compilations], Callable[[], Sample]]) -> Callable[..., Report]:
    """A benchmark's `run`: the time waited against a limit."""

    def run(benchmark: Benchmark, scale: Scale) -> Report:
        with compilations() as made:
            once = way(made)
            samples = [once() for _ in range(max(3, min(scale.pairs, SAMPLES)))]
        return Report(
            benchmark.judge([sample.wall / 1e9 / seconds for sample in samples]),
            nanoseconds(min(sample.wall for sample in samples)),
            nanoseconds(seconds * 1e9),
            f"of processor time {nanoseconds(min(sample.cpu for sample in samples))}",
        )

    return run


BENCHMARKS = (
    Benchmark(
        "compile both devices, cold",
        1.0,
        "at most",
        "time from `import devc.compiler.driver` to callable code of i8254 and acpi_pm, empty cache / 0.3 s",
        timed(0.3, cold),
    ),
    Benchmark(
        "compile both devices, cached",
        1.0,
        "at most",
        "the same with both in the cache / 0.02 s",
        timed(0.02, warm),
    ),
)
