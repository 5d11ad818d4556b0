"""The threads of a guest's vCPUs: starting, stopping and pausing them together.

The first vCPU is run by whoever runs the guest, each other one in a thread of its
own for as long. Getting one out of the guest takes a flag in its record, then
`immediate_exit`, then a signal: the native loop looks for them in that order.

Non-goals: what a vCPU does (kvm.py, kvm.ll).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .host import HostError
from .kvm_loop import STOP_ASKED, STOP_OTHER
from .kvm_system import wake_thread
from .kvm_vcpu import VirtualCpu


class Crew:
    """All vCPUs of a guest, and their threads while it runs."""

    def __init__(self, cpus: Sequence[VirtualCpu]) -> None:
        self.cpus = cpus
        self._gate = threading.Condition()
        self._pausing = self._parked = self._active = 0

    @contextmanager
    def others(self, run: Callable[[VirtualCpu], object]) -> Iterator[None]:
        """Have `run` run each vCPU but the first in a thread of its own; none does when this is left."""
        others = self.cpus[1:]
        with self._gate:
            self._active = 1
        try:
            for cpu in others:
                cpu.block.stop = 0
                self._begin(run, cpu)
            yield
        finally:
            self._end()
            self._await_others()
            if self.cpus[0].block.stop == STOP_OTHER:
                self.cpus[0].block.stop = 0

    def _begin(self, run: Callable[[VirtualCpu], object], cpu: VirtualCpu) -> None:
        name = f"devc vCPU {cpu.number}"
        thread = threading.Thread(target=self._other, args=[run, cpu], name=name, daemon=True)
        with self._gate:
            self._active += 1
        try:
            thread.start()
        except RuntimeError as error:
            self._end()
            raise HostError(f"vCPU {cpu.number} gets no thread: {error}") from None

    def _other(self, run: Callable[[VirtualCpu], object], cpu: VirtualCpu) -> None:
        # Signals for Python are the main thread's.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            run(cpu)
        finally:
            self._end_first()
            self._end()

    def _end_first(self) -> None:
        """One of the others has ended: the first one must. A `stop` from outside counts for more."""
        first = self.cpus[0]
        if not first.block.stop:
            first.block.stop = STOP_OTHER
        self._kick(first)

    def _end(self) -> None:
        with self._gate:
            self._active -= 1
            self._gate.notify_all()

    def _await_others(self) -> None:
        """Stop the others and wait until they run no guest, whatever interrupts that.

        Not by `Thread.join`: interrupted, Python 3.11's takes a running thread for ended.
        """
        interrupted: BaseException | None = None
        while True:
            try:
                self.stop(*self.cpus[1:])
                with self._gate:
                    self._gate.wait_for(lambda: not self._active)
                break
            except KeyboardInterrupt as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

    # --- out of the guest ---

    def stop(self, *cpus: VirtualCpu) -> None:
        """Have vCPUs' loops leave with STOPPED; from anywhere."""
        for cpu in cpus:
            cpu.block.stop = STOP_ASKED
            self._kick(cpu)

    def look(self) -> None:
        """A thread of Python's moved a deadline: have the first vCPU look for it."""
        if not self._is_ours():
            self._kick(self.cpus[0])

    def _kick(self, cpu: VirtualCpu) -> None:
        """Get a vCPU out of the guest, if another thread has it there."""
        thread = cpu.block.thread
        if thread and thread != threading.get_native_id():
            cpu.head.immediate_exit = 1
            wake_thread(thread)

    def _is_ours(self) -> bool:
        """This thread runs a vCPU."""
        return threading.get_native_id() in [cpu.block.thread for cpu in self.cpus]

    # --- pausing ---

    def pause(self) -> None:
        """Return once every vCPU's thread is in `park`."""
        if self._is_ours():
            raise HostError("a vCPU's own thread cannot pause the guest; stop it")
        with self._gate:
            self._pausing += 1
            for cpu in self.cpus:
                cpu.block.pause = 1
                self._kick(cpu)
            try:
                self._gate.wait_for(lambda: self._parked == self._active)
            except BaseException:
                self._resume()
                raise

    def resume(self) -> None:
        """End one `pause`."""
        with self._gate:
            if not self._pausing:
                raise HostError("the guest is not paused")
            self._resume()

    def _resume(self) -> None:
        self._pausing -= 1
        if not self._pausing:
            for cpu in self.cpus:
                cpu.block.pause = 0
            self._gate.notify_all()

    def park(self) -> None:
        """Wait until nobody wants the guest paused."""
        with self._gate:
            self._parked += 1
            self._gate.notify_all()
            try:
                self._gate.wait_for(lambda: not self._pausing)
            finally:
                self._parked -= 1
