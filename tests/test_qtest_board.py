"""The boards that the qtest host builds: who stands where, wired to what."""

from __future__ import annotations

import pytest
from devc.runtime.hosts import board as boards
from devc.runtime.hosts.memory import PAGE, Memory
from devc.runtime.machine import Machine

from .qtest_talk import Talk


@pytest.fixture
def talk() -> Talk:
    return Talk()


def test_the_pm_timer_stands_where_the_chipset_s_registers_put_it(talk: Talk) -> None:
    assert talk("inl 0x608") == ["OK 0xffffffff"]
    talk.enable_pm_timer()
    assert talk("inl 0x608") == ["OK 0x0000"]
    talk("outl 0xcf8 0x80000b40")
    assert talk("inl 0xcfc") == ["OK 0x0601"]
    assert talk("outw 0xcfc 0xb001") == ["OK"]
    assert talk("inl 0x608") == ["OK 0xffffffff"]
    assert talk("inl 0xb008") == ["OK 0x0000"]
    talk("outl 0xcf8 0x80000b80")
    talk("outb 0xcfc 0")
    assert talk("inl 0xb008") == ["OK 0xffffffff"]


def test_on_q35_the_lpc_bridge_places_the_pm_timer() -> None:
    talk = Talk("q35")
    for line in ("outl 0xcf8 0x8000f840", "outl 0xcfc 0x601", "outl 0xcf8 0x8000f844", "outb 0xcfc 0x80"):
        talk(line)
    assert talk("inl 0x608") == ["OK 0x0000"]


def test_a_guest_that_puts_the_pm_timer_onto_the_pit_gets_no_pm_timer(talk: Talk) -> None:
    talk("outl 0xcf8 0x80000b80")
    talk("outb 0xcfc 1")
    talk("outl 0xcf8 0x80000b40")
    for base in range(0, 0x10000, 0x40):
        assert talk(f"outl 0xcfc {base | 1:#x}") == ["OK"]
    talk("outl 0xcfc 0x41")
    assert talk("inb 0x48") == ["OK 0x00ff"]
    talk("outl 0xcfc 0x601")
    assert talk("inl 0x608") == ["OK 0x0000"]


def test_configuration_space_is_defined_everywhere(talk: Talk) -> None:
    assert talk("inl 0xcf8") == ["OK 0x0000"]
    talk("outl 0xcf8 0x80000b00")
    assert talk("inl 0xcf8") == ["OK 0x80000b00"]
    assert talk("inl 0xcfc") == ["OK 0x71138086"]
    assert talk("inw 0xcfe") == ["OK 0x7113"]
    assert talk("inb 0xcf9") == ["OK 0x00ff"]
    talk("outl 0xcfc 0xffffffff")
    assert talk("inl 0xcfc") == ["OK 0x71138086"]
    for address in ("0x80010b00", "0x80ff0000", "0x0b00", "0xffffffff"):
        talk(f"outl 0xcf8 {address}")
        for width in "bwl":
            assert talk(f"in{width} 0xcfc")[0].startswith("OK 0x")
            assert talk(f"out{width} 0xcfc 0xffffffff") == ["OK"]


@pytest.mark.parametrize("name", ["pc", "q35", "isapc", "none", "pc-i440fx-7.2", "pc-q35-7.2"])
def test_machines_are_found_by_qemu_s_names(name: str) -> None:
    boards.find(name)


def test_an_unknown_machine_is_refused_with_those_there_are() -> None:
    with pytest.raises(boards.BoardError, match="no machine 'microvm'; there are: pc, q35, isapc, none"):
        boards.find("microvm")


def test_lines_on_one_interrupt_input_are_ored() -> None:
    seen: list[tuple[int, int]] = []
    machine = Machine()
    interrupts = boards.Interrupts(lambda number, level, now: seen.append((number, level)))
    for name, base in (("one", 0x600), ("two", 0x700)):
        device = machine.add("acpi_pm", name, base=base)
        interrupts.connect(machine, device, {"sci": 9})
        machine.write("io", base + 2, 2, 1)
    machine.step(2344 * 10**6)
    machine.write("io", 0x600, 2, 1)
    assert seen == [(9, 1)]
    machine.write("io", 0x700, 2, 1)
    assert seen == [(9, 1), (9, 0)]


def test_memory_costs_what_is_touched() -> None:
    memory = Memory(1 << 40)
    memory.store(5 * PAGE - 2, b"abcd")
    assert memory.load(5 * PAGE - 3, 6) == b"\0abcd\0"
    assert len(memory._pages) == 2
    assert memory.load(0, 3 * PAGE) == bytes(3 * PAGE)


HPET = 0xFED0_0000
LEGACY, ENABLE = 2, 1
SQUARE_WAVE = ("outb 0x43 0x36", "outb 0x40 0", "outb 0x40 0")  # 18.2 Hz


@pytest.mark.parametrize("board", ["pc", "q35"])
def test_legacy_replacement_takes_the_pit_s_and_the_rtc_s_inputs_and_gives_them_back(board: str) -> None:
    talk = Talk(board)
    talk("irq_intercept_in ioapic")
    for line in SQUARE_WAVE:
        talk(line)
    talk.register(0x0A, 0x2F)  # 2 Hz
    talk.register(0x0B, 0x42)
    assert "IRQ raise 8" in talk.edges("clock_step 510000000"), "the RTC's periodic interrupt"
    talk("clock_step 30000000")
    assert talk.edges(f"writel {HPET + 0x10:#x} {LEGACY | ENABLE}") == ["IRQ lower 8"], "OUT was low"
    assert talk.edges("clock_step 200000000") == [], "neither the PIT nor the RTC is heard"
    assert talk.edges(f"writel {HPET + 0x10:#x} {ENABLE}") == ["IRQ raise 0", "IRQ raise 8"], (
        "as they are now"
    )
    assert talk.edges("clock_step 100000000").count("IRQ raise 0") in (1, 2)


@pytest.mark.parametrize(("timer", "number"), [(0, 0), (1, 8)])
def test_in_legacy_replacement_the_hpet_s_timers_0_and_1_have_inputs_0_and_8(timer: int, number: int) -> None:
    talk = Talk("q35")
    talk("irq_intercept_in ioapic")
    talk(f"writel {HPET + 0x100 + 0x20 * timer:#x} 4")
    talk(f"writeq {HPET + 0x108 + 0x20 * timer:#x} 100")
    talk(f"writel {HPET + 0x10:#x} {LEGACY | ENABLE}")
    assert talk.edges("clock_step 2000") == [f"IRQ raise {number}", f"IRQ lower {number}"]


@pytest.mark.parametrize(("board", "routes"), [("pc", 0x0000_0004), ("q35", 0x00FF_0104)])
def test_an_hpet_s_routes_are_its_chipset_s(board: str, routes: int) -> None:
    assert Talk(board).value(f"readl {HPET + 0x104:#x}") == routes


def test_a_board_without_an_hpet_has_the_pit_and_the_rtc_at_the_same_inputs() -> None:
    talk = Talk("pc", hpet=False)
    talk("irq_intercept_in ioapic")
    assert talk.value(f"readl {HPET:#x}") == 0xFFFF_FFFF
    for line in SQUARE_WAVE:
        talk(line)
    assert "IRQ raise 0" in talk.edges("clock_step 60000000")
    talk.register(0x0B, 0x12)
    assert "IRQ raise 8" in talk.edges("clock_step 1000000000")


def test_the_boards_rtc_updates_in_no_time_and_the_chip_s_takes_1984_us() -> None:
    for params, uip, seconds in (({}, 0, 0x01), ({"update": 65, "locked": 1}, 0x80, 0x00)):
        talk = Talk("pc", date=0, **params)
        talk("clock_step 2001000000")
        assert talk.register(10) & 0x80 == uip
        assert talk.register(0) == seconds + 1, params
        talk("clock_step 1000000")
        assert (talk.register(10) & 0x80, talk.register(0)) == (0, 2)
