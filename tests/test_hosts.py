"""What a guest sees and a host promises, the same on KVM and in Unicorn."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from devc.runtime.assemble import assemble
from devc.runtime.bus import U64_MAX, Access
from devc.runtime.dispatch import CLOCK_FIXED, CLOCK_RUNNING
from devc.runtime.hosts import GRACE, Host, HostError, Reason, hosts, pick

from .stub_device import DELAY, LEAVE, STUB_MMIO, STUB_PORT, Board

CODE, RESULTS = 0x1000, 0x3000
MS = 1_000_000

Start = Callable[..., Host]


@pytest.fixture(params=["kvm", "unicorn"])
def host_class(request: pytest.FixtureRequest) -> type[Host]:
    obstacle = hosts()[request.param]
    if obstacle is not None:
        pytest.skip(obstacle)
    return pick(request.param)[0]


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def start(host_class: type[Host], board: Board) -> Iterator[Start]:
    """Boots a guest made of assembly text on the board."""
    made: list[Host] = []

    def boot(text: str, memory: int | None = None) -> Host:
        host = host_class(board.dispatcher, **({} if memory is None else {"memory": memory}))
        made.append(host)
        host.load(assemble(text, CODE), CODE)
        host.boot(CODE)
        board.host = host
        return host

    yield boot
    for host in made:
        host.close()


def now(host: Host) -> int:
    return host.dispatcher.now()


def run_to_exit(host: Host, limit: int = 5000 * MS) -> None:
    outcome = host.run(until=now(host) + limit)
    assert outcome.reason is Reason.STOPPED, (str(outcome), host.registers)


def bytes_at(host: Host, address: int, length: int) -> bytes:
    return bytes(host.memory[address : address + length])


EXIT = "out %al, $0xf4\n hlt\n"

VECTOR = 0x20
# Vector 0x20 counts in a word at RESULTS.
HANDLER = f"""
    movw $handler, {4 * VECTOR}
    movw $0, {4 * VECTOR + 2}
    jmp begin
handler:
    incw {RESULTS}
    iret
begin:
"""


# --- accesses ------------------------------------------------------------------


def test_ports_are_accessed_with_every_width(start: Start, board: Board) -> None:
    host = start(
        f"""
        mov $0x44332211, %eax
        out %eax, $0x40
        in $0x41, %al
        mov %al, {RESULTS}
        in $0x42, %ax
        mov %ax, {RESULTS + 2}
        mov $0x55, %al
        out %al, $0x40
        mov $0x7766, %ax
        out %ax, $0x42
        mov $0x40, %dx
        in %dx, %eax
        mov %eax, {RESULTS + 4}
        {EXIT}"""
    )
    run_to_exit(host)
    assert bytes_at(host, RESULTS, 8).hex() == "2200334455226677"
    assert [event[0] for event in board.events] == ["exit"]


def test_light_accesses_never_enter_python_and_each_is_counted(start: Start, board: Board) -> None:
    host = start(f"mov $300, %cx\n1: in $0x40, %al\n out %al, $0x41\n loop 1b\n {EXIT}")
    run_to_exit(host)
    counters = board.dispatcher.stats(board.io.handle)
    assert (counters[0].light_reads, counters[1].light_writes) == (300, 300)
    assert (counters[0].heavy_reads, counters[1].heavy_writes) == (0, 0)
    assert board.events == [("exit", 0, 0)]


def test_any_width_at_any_port_is_defined(start: Start, board: Board) -> None:
    board.dispatcher.remove(board.exit)
    host = start(
        """
        xor %edx, %edx
        mov $0x1234, %eax
    1:  in %dx, %al
        in %dx, %ax
        in %dx, %eax
        out %al, %dx
        out %ax, %dx
        out %eax, %dx
        add $509, %dx
        jnc 1b
        mov $0xffff, %dx
        in %dx, %eax
        cli
        hlt"""
    )
    outcome = host.run(until=now(host) + 10_000 * MS)
    assert outcome.reason is Reason.HALTED, str(outcome)
    assert host.registers.rax == 0xFFFFFFFF
    reads, writes = board.dispatcher.unclaimed
    assert reads >= 3 * 126
    assert writes >= 3 * 126


def test_nobodys_ports_and_addresses_read_as_ones(start: Start) -> None:
    host = start(
        f"""
        mov $0xe000, %ax
        mov %ax, %ds
        xor %eax, %eax
        in $0x90, %al
        mov %eax, %cs:{RESULTS}
        movl $0x12345678, 0
        movl 0, %eax
        movl %eax, %cs:{RESULTS + 4}
        {EXIT}"""
    )
    run_to_exit(host)
    assert bytes_at(host, RESULTS, 8).hex() == "ff000000ffffffff"


def test_a_word_over_a_regions_end_is_put_together_from_its_bytes(start: Start, board: Board) -> None:
    host = start(f"in $0xe2, %eax\n mov %eax, {RESULTS}\n mov $0x3f, %dx\n in %dx, %ax\n {EXIT}")
    run_to_exit(host)
    assert bytes_at(host, RESULTS, 4).hex() == "a7a8ffff"
    assert host.registers.rax & 0xFFFF == 0x00FF


def test_string_instructions_serve_every_element_in_order(start: Start, board: Board) -> None:
    host = start(
        f"""
        cld
        mov $0xe0, %dx
        mov $data, %si
        mov $5, %cx
        rep outsb
        mov $0x42, %dx
        mov $3, %cx
        rep outsw
        mov $0x40, %dx
        mov ${RESULTS}, %di
        mov $3, %cx
        rep insl
        {EXIT}
    data: .ascii "hello"
          .word 1, 2, 0x0403"""
    )
    run_to_exit(host)
    assert bytes(value for name, _, value in board.events if name == "python") == b"hello"
    assert bytes_at(host, RESULTS, 12).hex() == "00000304" * 3
    counters = board.dispatcher.stats(board.io.handle)
    assert (counters[2].light_writes, counters[0].light_reads) == (3, 3)


def test_a_string_that_python_serves_gets_an_answer_for_each_element(start: Start, board: Board) -> None:
    answers = iter(range(1, 100))
    board.served = lambda access: setattr(board, "answer", next(answers))
    host = start(
        f"cld\n mov $0xe0, %dx\n mov ${RESULTS}, %di\n mov $6, %cx\n rep insw\n {EXIT}",
    )
    run_to_exit(host)
    assert bytes_at(host, RESULTS, 12).hex() == "010002000300040005000600"


@pytest.mark.parametrize(
    ("store", "load", "expected"),
    [
        ("movb %al, 1", "movb 1, %al", "00110000"),
        ("movw %ax, 2", "movw 2, %ax", "00001122"),
        ("movl %eax, 0", "movl 0, %eax", "11223344"),
    ],
)
def test_mmio_is_served_with_every_width(
    start: Start, board: Board, store: str, load: str, expected: str
) -> None:
    host = start(
        f"""
        mov $0xd000, %ax
        mov %ax, %ds
        mov $0x44332211, %eax
        {store}
        mov %eax, %ebx
        xor %eax, %eax
        {load}
        {EXIT}"""
    )
    run_to_exit(host)
    assert bytes(board.mmio.state.registers[:4]).hex() == expected
    width_mask = {"b": 0xFF, "w": 0xFFFF, "l": 0xFFFFFFFF}[load[3]]
    assert host.registers.rax == host.registers.rbx & width_mask


def test_a_region_that_moves_is_served_at_its_new_place(start: Start, board: Board) -> None:
    def move(access: Access) -> None:
        if access.entry == board.python:
            board.dispatcher.move(board.io.handle, 0x300)
            board.dispatcher.move(board.mmio.handle, STUB_MMIO + 0x1000)

    board.served = move
    board.io.state.registers[0] = 0x17
    board.mmio.state.registers[0] = 0x18
    host = start(
        f"""
        out %al, $0xe0
        mov $0x300, %dx
        in %dx, %al
        mov %al, {RESULTS}
        in $0x40, %al
        mov %al, {RESULTS + 1}
        mov $0xd100, %ax
        mov %ax, %ds
        mov 0, %al
        mov %al, %cs:{RESULTS + 2}
        {EXIT}"""
    )
    run_to_exit(host)
    assert bytes_at(host, RESULTS, 3).hex() == "17ff18"


# --- interrupts and deadlines -----------------------------------------------------


def test_deadlines_wake_a_halted_guest_with_interrupts(start: Start, board: Board) -> None:
    board.vector = VECTOR
    host = start(
        f"""{HANDLER}
        mov $4, %cx
    1:  mov $300000, %eax
        mov $0x48, %dx
        out %eax, %dx
        sti
        hlt
        cli
        loop 1b
        {EXIT}"""
    )
    before = now(host)
    run_to_exit(host)
    assert bytes_at(host, RESULTS, 2) == b"\x04\x00"
    assert now(host) - before >= 4 * 300_000
    assert board.io.state.settles == 4


def test_deadlines_interrupt_a_guest_that_never_exits(start: Start, board: Board) -> None:
    board.vector = VECTOR
    host = start(
        f"""{HANDLER}
        movb $1, %al
        out %al, $0x47
        mov $1000000, %eax
        mov $0x48, %dx
        out %eax, %dx
        sti
    1:  cmpw $3, {RESULTS}
        jb 1b
        cli
        {EXIT}"""
    )
    run_to_exit(host)
    assert board.io.state.settles >= 3


def now_of(board: Board) -> int:
    return board.dispatcher.now()


def test_a_period_of_a_nanosecond_does_not_keep_the_guest_from_running(start: Start, board: Board) -> None:
    board.vector = VECTOR
    host = start(
        f"""{HANDLER}
        movb $1, %al
        out %al, $0x47
        mov $1, %eax
        mov $0x48, %dx
        out %eax, %dx
        sti
        mov $200, %cx
    1:  nop
        loop 1b
        cli
        {EXIT}"""
    )
    run_to_exit(host)
    assert int.from_bytes(bytes_at(host, RESULTS, 2), "little") >= 1


def test_deadlines_come_no_closer_than_the_guests_grace(start: Start, board: Board) -> None:
    host = start("1: jmp 1b")
    state = board.io.state
    state.registers[7], state.period, state.deadline = 1, 1, 0
    board.dispatcher.deadlines_moved()
    before = now(host)
    assert host.run(until=before + 20 * MS).reason is Reason.TIME
    assert 2 <= state.settles <= (now(host) - before) // GRACE + 3


def test_a_deadline_that_came_before_an_access_is_settled_before_it(start: Start, board: Board) -> None:
    clock = board.dispatcher.clock
    clock.mode, clock.base = CLOCK_FIXED, 1000
    board.mmio.state.deadline = 1500
    host = start("1: in $0x40, %al\n jmp 1b")
    attend = board.dispatcher.attend

    def stop(access: Access) -> None:
        attend(access)
        host.stop()

    board.dispatcher.attend = stop
    # No timer tells of this clock: only the look at it that each access takes.
    timers = [threading.Timer(0.02, setattr, (clock, "base", 2000)), threading.Timer(2, host.stop)]
    for timer in timers:
        timer.start()
    assert host.run().reason is Reason.STOPPED
    timers[1].cancel()
    assert board.events == [("line", board.mmio.device, 2000)]


def test_an_interrupt_waits_until_the_guest_accepts_it(start: Start, board: Board) -> None:
    host = start(
        f"""{HANDLER}
        mov $50, %cx
    1:  in $0x40, %al
        loop 1b
        mov {RESULTS}, %ax
        mov %ax, {RESULTS + 2}
        sti
    1:  cmpw $0, {RESULTS}
        je 1b
        cli
        {EXIT}"""
    )
    assert host.inject(VECTOR)
    run_to_exit(host)
    assert bytes_at(host, RESULTS, 4).hex() == "01000000"


def test_an_interrupt_that_comes_before_sti_hlt_is_not_slept_through(start: Start, board: Board) -> None:
    host = start(f"{HANDLER} sti\n hlt\n cli\n {EXIT}")
    host.inject(VECTOR)
    run_to_exit(host)
    assert bytes_at(host, RESULTS, 2) == b"\x01\x00"


def test_queued_vectors_come_in_order_and_twice_the_same_is_one(start: Start, board: Board) -> None:
    host = start(
        f"""
        movw $first, 0x84
        movw $0, 0x86
        movw $second, 0x88
        movw $0, 0x8a
        mov ${RESULTS}, %di
        sti
    1:  cmp ${RESULTS + 2}, %di
        jb 1b
        cli
        {EXIT}
    first:
        movb $1, (%di)
        inc %di
        iret
    second:
        movb $2, (%di)
        inc %di
        iret"""
    )
    assert [host.inject(v) for v in (0x22, 0x21, 0x22)] == [True, True, False]
    run_to_exit(host)
    assert bytes_at(host, RESULTS, 3).hex() == "020100"


@pytest.mark.parametrize("vector", [-1, 256])
def test_a_vector_that_does_not_exist_is_refused(start: Start, vector: int) -> None:
    with pytest.raises(HostError, match="0 to 255"):
        start("hlt").inject(vector)


def test_a_deadline_that_has_come_already_is_settled_with_a_standing_clock(
    start: Start, board: Board
) -> None:
    board.vector = VECTOR
    board.dispatcher.clock.mode = CLOCK_FIXED
    board.dispatcher.clock.base = 1000
    host = start(f"{HANDLER} 1: sti\n hlt\n jmp 1b")
    board.io.state.deadline = 900
    assert host.run().reason is Reason.HALTED
    assert bytes_at(host, RESULTS, 2) == b"\x01\x00"


def test_software_interrupts_and_faults_go_through_the_vector_table(start: Start) -> None:
    host = start(
        f"""{HANDLER}
        movw $fault, 0
        movw $0, 2
        int ${VECTOR}
        int ${VECTOR}
        xor %cx, %cx
        div %cx
        {EXIT}
    fault:
        pop %bx
        movw %bx, {RESULTS + 2}
        {EXIT}"""
    )
    run_to_exit(host)
    counted, where = bytes_at(host, RESULTS, 2), bytes_at(host, RESULTS + 2, 2)
    assert counted == b"\x02\x00"
    assert bytes_at(host, int.from_bytes(where, "little"), 2) == b"\xf7\xf1"  # div %cx


# --- halting, stopping, time ----------------------------------------------------------


def test_a_guest_with_nothing_to_wait_for_is_halted(start: Start, board: Board) -> None:
    host = start(f"{HANDLER} sti\n 1: hlt\n jmp 1b")
    outcome = host.run()
    assert (outcome.reason, outcome.detail) == (Reason.HALTED, "")
    assert host.run().reason is Reason.HALTED
    host.inject(VECTOR)
    assert host.run().reason is Reason.HALTED
    assert bytes_at(host, RESULTS, 2) == b"\x01\x00"


def test_a_guest_that_halts_with_interrupts_off_says_so(start: Start, board: Board) -> None:
    board.io.state.deadline = U64_MAX - 1
    host = start(f"cli\n hlt\n {EXIT}")
    host.inject(VECTOR)
    outcome = host.run()
    assert (outcome.reason, outcome.detail) == (Reason.HALTED, "with interrupts off")


def test_with_a_standing_clock_the_caller_moves_time(start: Start, board: Board) -> None:
    board.vector = VECTOR
    clock = board.dispatcher.clock
    clock.mode, clock.base = CLOCK_FIXED, 1000
    host = start(f"{HANDLER} mov $500, %eax\n mov $0x48, %dx\n out %eax, %dx\n sti\n 1: hlt\n jmp 1b")
    assert host.run().reason is Reason.HALTED
    assert board.dispatcher.earliest() == 1500
    clock.base = 1499
    assert host.run().reason is Reason.HALTED
    assert bytes_at(host, RESULTS, 2) == b"\x00\x00"
    clock.base = 1500
    assert host.run().now == 1500
    assert bytes_at(host, RESULTS, 2) == b"\x01\x00"
    assert board.events == [("line", board.io.device, 1500)]


def test_run_returns_at_the_instant_it_was_given(start: Start) -> None:
    host = start("1: jmp 1b")
    until = now(host) + 3 * MS
    outcome = host.run(until=until)
    assert outcome.reason is Reason.TIME
    assert until <= outcome.now < until + 500 * MS
    assert host.run(until=until).reason is Reason.TIME


def test_registers_are_exact_when_time_is_up_during_an_access(start: Start, board: Board) -> None:
    clock = board.dispatcher.clock
    clock.mode, clock.base = CLOCK_FIXED, 0
    board.served = lambda access: setattr(clock, "base", 1000)
    host = start("in $0xe0, %al\n 1: jmp 1b")
    outcome = host.run(until=1000)
    assert (outcome.reason, outcome.now) == (Reason.TIME, 1000)
    assert host.registers.rax == board.answer


def test_a_halted_guest_is_waited_for_only_until_the_given_instant(start: Start) -> None:
    host = start("sti\n hlt")
    until = now(host) + 3 * MS
    outcome = host.run(until=until)
    assert outcome.reason is Reason.TIME
    assert until <= outcome.now


def test_another_thread_stops_a_guest_that_never_exits(start: Start) -> None:
    host = start("1: jmp 1b")
    timer = threading.Timer(0.02, host.stop)
    timer.start()
    assert host.run(until=now(host) + 5000 * MS).reason is Reason.STOPPED
    timer.join()


def test_another_thread_stops_a_guest_that_waits(start: Start, board: Board) -> None:
    board.io.state.deadline = now_of(board) + 60_000 * MS
    host = start("sti\n hlt")
    timer = threading.Timer(0.02, host.stop)
    timer.start()
    before = time.monotonic()
    assert host.run().reason is Reason.STOPPED
    assert time.monotonic() - before < 5
    timer.join()


def test_a_guest_runs_in_another_thread_than_the_one_that_made_it(start: Start, board: Board) -> None:
    board.vector = VECTOR
    host = start(f"{HANDLER} mov $100000, %eax\n mov $0x48, %dx\n out %eax, %dx\n sti\n hlt\n cli\n {EXIT}")
    reasons: list[Reason] = []
    thread = threading.Thread(target=lambda: reasons.append(host.run(until=now(host) + 5000 * MS).reason))
    thread.start()
    thread.join()
    assert reasons == [Reason.STOPPED]
    assert bytes_at(host, RESULTS, 2) == b"\x01\x00"


# --- signals and exceptions -------------------------------------------------------------


@pytest.fixture
def alarm() -> Iterator[Callable[[float, Callable[[], None]], None]]:
    """Calls a function in a signal handler after some seconds."""
    previous = signal.getsignal(signal.SIGALRM)

    def after(seconds: float, function: Callable[[], None]) -> None:
        signal.signal(signal.SIGALRM, lambda *_: function())
        signal.setitimer(signal.ITIMER_REAL, seconds)

    gc.disable()  # hypothesis hooks the collector, and what a handler raises in such a hook is lost
    yield after
    gc.enable()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


def interrupt() -> None:
    raise KeyboardInterrupt


Alarm = Callable[[float, Callable[[], None]], None]


@pytest.mark.parametrize(
    "guest",
    [
        "1: jmp 1b",
        "1: in $0x40, %al\n jmp 1b",
        "1: in $0xe0, %al\n jmp 1b",
        "1: sti\n hlt\n jmp 1b",
    ],
    ids=["spinning", "light accesses", "heavy accesses", "halted"],
)
def test_ctrl_c_ends_run_and_the_guest_can_go_on(
    start: Start, board: Board, alarm: Alarm, guest: str
) -> None:
    board.io.state.deadline = now_of(board) + 60_000 * MS
    host = start(guest)

    def run_into_the_alarm() -> None:
        alarm(0.01, interrupt)
        host.run(until=now(host) + 5000 * MS)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run_into_the_alarm()
        assert CODE <= host.registers.rip <= CODE + 4
    assert host.run(until=now(host) + MS).reason is Reason.TIME


def test_a_signal_handler_that_returns_does_not_end_run(start: Start, alarm: Alarm) -> None:
    host = start("1: jmp 1b")
    called: list[int] = []
    alarm(0.005, lambda: called.append(1))
    assert host.run(until=now(host) + 50 * MS).reason is Reason.TIME
    assert called == [1]


def test_a_signal_handler_may_stop_the_guest(start: Start, alarm: Alarm) -> None:
    host = start("1: in $0x40, %al\n jmp 1b")
    alarm(0.005, host.stop)
    assert host.run(until=now(host) + 5000 * MS).reason is Reason.STOPPED


def test_what_attend_raises_comes_out_of_run_with_the_access_complete(start: Start, board: Board) -> None:
    def broken(access: Access) -> None:
        board.served = None
        raise ZeroDivisionError("handler at port 0xe0")

    board.served = broken
    host = start(
        f"""
        in $0xe0, %al
        jmp 1f
    1:  mov %al, {RESULTS}
        in $0xe0, %al
        mov %al, {RESULTS + 1}
        {EXIT}"""
    )
    with pytest.raises(ZeroDivisionError, match="port 0xe0"):
        host.run()
    assert host.registers.rax == 0xFF
    run_to_exit(host)
    assert bytes_at(host, RESULTS, 2).hex() == "ffa5"


def test_a_stop_leaves_the_registers_as_after_the_instruction(start: Start, board: Board) -> None:
    board.served = lambda access: board.host.stop()
    host = start("mov $0xe0, %dx\n in %dx, %ax\n jmp 1f\n 1: in %dx, %ax\n jmp 1b")
    assert host.run().reason is Reason.STOPPED
    assert host.registers.rax & 0xFFFF == 0x00A5
    assert CODE + 4 <= host.registers.rip <= CODE + 6


def test_a_split_access_that_leaves_is_completed_before_run_raises(start: Start, board: Board) -> None:
    def broken(access: Access) -> None:
        board.served = None
        raise ValueError("first byte")

    board.served = broken
    host = start(f"in $0xe3, %ax\n mov %ax, {RESULTS}\n {EXIT}")
    with pytest.raises(ValueError, match="first byte"):
        host.run()
    run_to_exit(host)
    assert bytes_at(host, RESULTS, 2).hex() == "ffff"


def test_an_access_that_its_device_leaves_is_answered_by_python(start: Start, board: Board) -> None:
    host = start(f"in ${STUB_PORT + LEAVE}, %al\n mov %al, {RESULTS}\n {EXIT}")
    run_to_exit(host)
    assert bytes_at(host, RESULTS, 1)[0] == board.answer + LEAVE
    assert board.events[0] == ("leave", LEAVE, -1)


# --- a host's own manners -----------------------------------------------------------------


def test_an_image_must_fit_the_memory(start: Start) -> None:
    host = start("hlt")
    for address in (-1, 0x9FFFF):
        with pytest.raises(HostError, match="do not fit"):
            host.load(b"\x90\x90", address)
    with pytest.raises(HostError, match="below 1 MiB"):
        host.boot(1 << 20)


def test_a_guest_boots_above_64_kib(start: Start) -> None:
    host = start("hlt")
    host.load(assemble("mov %cs, %ax\n cli\n hlt", 0x234, 16), 0x20234)
    host.boot(0x20234)
    assert host.run().reason is Reason.HALTED
    assert host.registers.rax == 0x2000


@pytest.mark.parametrize("memory", [0, 100, 4097])
def test_memory_is_whole_pages(host_class: type[Host], board: Board, memory: int) -> None:
    with pytest.raises(HostError, match="multiple of 4096"):
        host_class(board.dispatcher, memory=memory)


def test_registers_are_what_they_were_set_to(start: Start) -> None:
    host = start("hlt")
    values = host.registers
    for number, name in enumerate(["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"]):
        setattr(values, name, 0x1111 * (number + 1))
    values.ds, values.es, values.ss, values.fs, values.gs = 0x10, 0x20, 0x30, 0x40, 0x50
    values.rflags = 0x202
    host.registers = values
    assert host.registers == values


def test_devices_in_the_guests_memory_are_refused(host_class: type[Host], board: Board) -> None:
    with pytest.raises(HostError, match=r"stub at 0xd0000 .* lies in the guest's 0xe0000 bytes"):
        host_class(board.dispatcher, memory=0xE0000)


def test_a_closed_host_says_so(start: Start) -> None:
    host = start("hlt")
    view = host.memory[:4]
    host.close()
    assert bytes(view) == b"\0\0\0\0"
    for use in (host.run, lambda: host.registers, lambda: host.boot(CODE)):
        with pytest.raises(HostError, match="is closed"):
            use()


def test_a_guest_cannot_be_run_or_closed_from_within_its_run(start: Start, board: Board) -> None:
    problems: list[str] = []

    def nested(access: Access) -> None:
        for use in (board.host.run, board.host.close):
            with pytest.raises(HostError) as raised:
                use()
            problems.append(str(raised.value))

    board.served = nested
    run_to_exit(start(f"in $0xe0, %al\n {EXIT}"))
    assert problems[0].startswith("the guest is running already")
    assert problems[1].startswith("the guest is running; stop it")


def test_closing_twice_does_no_harm(host_class: type[Host], board: Board) -> None:
    host = host_class(board.dispatcher)
    with host:
        pass
    host.close()


def test_several_guests_live_side_by_side_on_their_own_boards(host_class: type[Host]) -> None:
    boards = [Board() for _ in range(3)]
    code = assemble(f"in $0x40, %al\n mov %al, {RESULTS}\n {EXIT}", CODE)
    for number, board in enumerate(boards):
        board.io.state.registers[0] = number + 1
        board.host = host_class(board.dispatcher)
        board.host.load(code, CODE)
        board.host.boot(CODE)
    try:
        for number, board in enumerate(boards):
            run_to_exit(board.host)
            assert board.host.memory[RESULTS] == number + 1
    finally:
        for board in boards:
            board.host.close()


def test_pick_names_what_is_wrong_with_an_unknown_host() -> None:
    with pytest.raises(HostError, match="choose from kvm, unicorn"):
        pick("bochs")


def test_the_clock_runs_while_the_guest_does(start: Start, board: Board) -> None:
    assert board.dispatcher.clock.mode == CLOCK_RUNNING
    delay = 3000 * MS
    host = start(f"mov ${delay}, %eax\n mov ${STUB_PORT + DELAY}, %dx\n out %eax, %dx\n {EXIT}")
    before = now(host)
    run_to_exit(host)
    assert before + delay <= board.io.state.deadline <= now(host) + delay
