"""A PC's interrupt controllers as devices: what leads to them, and what they tell a host.

    machine.add("i8259"), machine.add("ioapic"), machine.add("i8254")
    interrupts = Interrupts(machine, intr=..., message=..., routed=...)
    interrupts.connect("i8254.irq0", 0, missed="catchup")
    if interrupts.pending: vector = interrupts.acknowledge()

Interrupts are numbered as KVM numbers a PC's (GSIs): 0 to 15 lead to the 8259 pair and
to the I/O APIC, where 0 is input 2; 16 to 23 to the I/O APIC alone. The slave's place
at the master, 2, has no line of its own.

Ticks under a policy (docs/coalescing.md) hear from here what was taken: from the 8259
at the end of interrupt; from the I/O APIC at the EOI message for a level, and at once
for an edge, of which a local APIC tells nobody (unless `edge_eoi`).

Non-goals: local APICs; hosts (runtime/hosts/); which line leads where (runtime/pc/wiring.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from .lines import OutputLine, Sink
from .machine import Machine, MachineError
from .policies import Policy, PolicyError, choose

PIC_LEVELS, PINS = 16, 24
CASCADE = 2
TIMER_PIN = 2
"""The I/O APIC's input of interrupt 0."""

Message = Callable[[int, int, int], object]
"""Called with (address, data, virtual ns)."""
Route = Callable[[int, "int | None", int], object]
"""Called with (pin, address, data); address None: the pin has no message any more."""


class Interrupts:
    """The interrupt controllers of one machine.

    To be used by who has the machine's lock, if it is shared. Nothing here is saved: the
    devices' images have all of it, and the host is told again after a reset or a restore.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        intr: Sink | None = None,
        message: Message | None = None,
        native_message: tuple[int, int] | None = None,
        routed: Route | None = None,
        edge_eoi: bool = False,
        pic: str = "i8259",
        ioapic: str = "ioapic",
    ) -> None:
        """`intr`: told the level of the 8259's INT. `message`: told every message of a device
        that the machine has now; `native_message`: instead, a C function and its first
        argument (`OutputLine.messages_to`). `routed`: told the message of an I/O APIC's
        pin where it is another. `edge_eoi`: the host tells `eoi` of edges, too, so that a
        tick waits for it. `pic`, `ioapic`: the devices' names; either may be absent.
        """
        self.machine = machine
        self.edge_eoi = edge_eoi
        self._pic = machine.devices.get(pic)
        self._ioapic = machine.devices.get(ioapic)
        self._intr, self._routed = intr, routed
        self._routes: dict[int, tuple[int, int]] = {}
        self._ticks: dict[int, list[OutputLine]] = {}
        if self._pic is not None and intr is not None:
            machine.wire(f"{pic}.int", intr)
        self._hears_of_entries = False
        if routed is not None:
            self._hear_of_entries()
        self._wire_messages(message, native_message)
        self._tell_routes()
        machine.restarted.append(self.refresh)

    def _hear_of_entries(self) -> None:
        """Be told of each write to the I/O APIC's entries: it costs every one of them."""
        if self._ioapic is not None and not self._hears_of_entries:
            self._hears_of_entries = True
            self.machine.wire(f"{self._ioapic.name}.table", self._table_written)

    def _wire_messages(self, message: Message | None, native: tuple[int, int] | None) -> None:
        for device in self.machine.devices.values():
            for line in device.lines:
                if not device.module.lines[line.bit].carries:
                    continue
                if native is not None:
                    self.machine.wire(line.path, line.messages_to(*native))
                elif message is not None:
                    self.machine.wire(line.path, _messenger(line, message))

    # --- what leads to the controllers ---------------------------------------------

    def inputs(self, number: int) -> tuple[str, ...]:
        """The controllers' inputs that an interrupt leads to, as "device.input". MachineError."""
        if not 0 <= number < PINS:
            raise MachineError(f"there is no interrupt {number}; a PC has 0 to {PINS - 1}")
        found = []
        if self._pic is not None and number < PIC_LEVELS and number != CASCADE:
            found.append(f"{self._pic.name}.ir[{number}]")
        if self._ioapic is not None:
            found.append(f"{self._ioapic.name}.irq[{TIMER_PIN if number == 0 else number}]")
        return tuple(found)

    def connect(
        self,
        line: str,
        number: int,
        *,
        missed: str | Policy | None = None,
        minimum: int | None = None,
    ) -> None:
        """A device's line, "device.line", drives an interrupt; several are or-ed.

        With a policy, its ticks are counted and held back (`Machine.wire`). MachineError.
        """
        source = self.machine.line(line)
        if missed is not None or minimum is not None:
            try:
                # the 8259 forgets a request whose input falls before it is acknowledged
                missed = replace(choose(source, missed, minimum, None), holds=True)
            except PolicyError as error:
                raise MachineError(str(error)) from None
        for path in self.inputs(number):
            self.machine.wire(line, path, missed=missed)
        if source.coalescer is not None:
            self._listen(number)
            self._ticks[number].append(source)
            source.mask(int(self._closed(number)), self.machine.now)

    def wire_pc(self, missed: Mapping[str, str | Policy] | None = None) -> None:
        """Connect the timers that the machine has as they are in a PC; `missed` gives
        policies by line. MachineError."""
        from .pc.wiring import pc_lines

        policies = missed or {}
        for line, target in pc_lines(self.machine):
            if isinstance(target, str):
                self.machine.wire(line, target)
            else:
                self.connect(line, target, missed=policies.get(line))

    def drive(self, number: int, level: int, source: object = "host") -> None:
        """A device of the host's drives an interrupt; `source` tells them apart. MachineError."""
        for path in self.inputs(number):
            self.machine.pull(self.machine.input(path), source, level)

    # --- what the host does ----------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether the 8259's INT is high."""
        return self._pic is not None and bool(self._pic.instance.lines & 1)

    def acknowledge(self) -> int:
        """The processor's INTA sequence: the vector, a spurious one if nothing asks any more.
        MachineError without an 8259."""
        if self._pic is None:
            raise MachineError("there is no 8259 to acknowledge; add the device i8259")
        with self.machine.lock:
            self.machine.service()
            return self._pic.cycles["inta"].read(0, 4, self.machine.now)

    def eoi(self, vector: int) -> None:
        """A local APIC has ended an interrupt, and tells the I/O APIC."""
        if self._ioapic is None:
            return
        with self.machine.lock:
            self.machine.service()
            ended = [pin for pin in range(PINS) if self._ends(pin, vector)]
            self._ioapic.cycles["eoi"].write(0, 4, vector, self.machine.now)
            for pin in ended:
                self._acknowledged(_number(pin), self.machine.now)

    def routes(self) -> dict[int, tuple[int, int]]:
        """Address and data of each of the I/O APIC's pins that is not masked."""
        return {pin: self._message_of(pin) for pin in range(PINS) if self._ioapic and not self._masked(pin)}

    def refresh(self) -> None:
        """Tell the host INT's level and every route, as if it knew nothing."""
        for pin in self._routes:
            if self._routed is not None:
                self._routed(pin, None, 0)
        self._routes.clear()
        if self._pic is not None and self._intr is not None:
            self._intr(int(self.pending), self.machine.now)
        self._tell_routes()
        self._tell_masks(self.machine.now)

    # --- the I/O APIC's entries ----------------------------------------------------------

    def _entry(self, slot: str, pin: int) -> int:
        assert self._ioapic is not None
        return self._ioapic.instance.get(f"entry.{slot}", pin)

    def _masked(self, pin: int) -> bool:
        return bool(self._entry("redirection.mask", pin))

    def _message_of(self, pin: int) -> tuple[int, int]:
        return self._entry("address", pin), self._entry("data", pin)

    def _is_level(self, pin: int) -> bool:
        return bool(self._entry("data", pin) & 1 << 15)

    def _ends(self, pin: int, vector: int) -> bool:
        """Whether an EOI of the vector is one of the pin's interrupt."""
        if self._entry("redirection.vector", pin) != vector:
            return False
        return bool(self._entry("redirection.remote", pin)) or (self.edge_eoi and not self._is_level(pin))

    def _table_written(self, level: int, now: int) -> None:
        if level:
            self._tell_routes()
            self._tell_masks(now)

    def _tell_routes(self) -> None:
        """Tell of messages that have changed. A masked entry keeps the one that it had: the
        interrupt that it sent may still be in service, and its EOI must be heard of."""
        for pin, (address, data) in self.routes().items():
            if self._routes.get(pin) != (address, data):
                self._routes[pin] = address, data
                if self._routed is not None:
                    self._routed(pin, address, data)

    # --- ticks under a policy ------------------------------------------------------------

    def _listen(self, number: int) -> None:
        """Hear from the controllers what becomes of an interrupt's ticks."""
        if number in self._ticks:
            return
        self._hear_of_entries()
        if not self._ticks and self._pic is not None:
            self.machine.wire(f"{self._pic.name}.masks", self._masks_written)
        self._ticks[number] = []
        for path in self.inputs(number):
            device = path.partition(".")[0]
            if self._pic is not None and device == self._pic.name:
                self.machine.wire(f"{device}.served[{number}]", partial(self._served, number))
            else:
                pin = TIMER_PIN if number == 0 else number
                self.machine.wire(f"{device}.msi[{pin}]", partial(self._sent, number, pin))

    def _masks_written(self, level: int, now: int) -> None:
        if level:
            self._tell_masks(now)

    def _served(self, number: int, level: int, now: int) -> None:
        if not level:
            self._acknowledged(number, now)

    def _sent(self, number: int, pin: int, level: int, now: int) -> None:
        if level and not self._is_level(pin) and not self.edge_eoi:
            self._acknowledged(number, now)

    def _acknowledged(self, number: int, now: int) -> None:
        for line in self._ticks.get(number, ()):
            line.acknowledge(now)

    def _tell_masks(self, now: int) -> None:
        for number, lines in self._ticks.items():
            closed = self._closed(number)
            for line in lines:
                if line.coalescer is not None and line.coalescer.masked != closed:
                    line.mask(int(closed), now)

    def _closed(self, number: int) -> bool:
        """Whether no controller would take an interrupt."""
        closed = True
        if self._pic is not None and number < PIC_LEVELS:
            levels = self._pic.cycles["inta"].peek(4, 2, self.machine.now)
            closed = bool(levels >> number & 1)
        if self._ioapic is not None:
            closed = closed and self._masked(TIMER_PIN if number == 0 else number)
        return closed


def _number(pin: int) -> int:
    """The interrupt that leads to an I/O APIC's pin."""
    return 0 if pin == TIMER_PIN else pin


def _messenger(line: OutputLine, message: Message) -> Sink:
    def sink(level: int, now: int) -> None:
        if level:
            address, data = line.carried()
            message(address, data, now)

    return sink
