"""The qtest host: protocol, sockets, QMP and QEMU's options."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from devc.cli import qtest as command
from devc.runtime.hosts.qmp import BUFFER_LIMIT, Qmp, Quit
from devc.runtime.hosts.qtest import TRANSFER_LIMIT
from devc.runtime.hosts.qtest_channels import QtestPeer

from .golden_traces import recorded
from .qtest_talk import Talk

PROGRAM = "import sys; from devc.cli.qtest import qtest; sys.exit(qtest(sys.argv[1:]))"
PATIENCE = 20


@pytest.fixture
def talk() -> Talk:
    return Talk()


# --- the protocol -----------------------------------------------------------


def test_replies_are_formed_as_qemu_forms_them(talk: Talk) -> None:
    assert talk("outb 0x43 0x34") == ["OK"]
    assert talk("inb 0x60") == ["OK 0x00ff"]
    assert talk("inw 0x500") == ["OK 0xffff"]
    assert talk("inl 0x500") == ["OK 0xffffffff"]
    assert talk("readb 0x10") == ["OK 0x0000000000000000"]
    assert talk("writeq 0x10 0x1122334455667788") == ["OK"]
    assert talk("readw 0x10") == ["OK 0x0000000000007788"]
    assert talk("readq 0x10") == ["OK 0x1122334455667788"]
    assert talk("endianness") == ["OK little"]
    assert talk("") == []


def test_numbers_are_read_as_c_reads_them(talk: Talk) -> None:
    talk("writel 020 0X10")
    assert talk("readl 16") == ["OK 0x0000000000000010"]
    talk("writeb 16 -1")
    assert talk("readl 0x10") == ["OK 0x00000000000000ff"]


def test_memory_commands_move_bytes(talk: Talk) -> None:
    assert talk("write 0x100 4 0xdeadbeef") == ["OK"]
    assert talk("read 0x100 5") == ["OK 0xdeadbeef00"]
    assert talk("readl 0x100") == ["OK 0x00000000efbeadde"]
    assert talk("b64read 0x100 4") == ["OK 3q2+7w=="]
    assert talk("b64write 0x200 3 AQID") == ["OK"]
    assert talk("memset 0x201 2 0x7f") == ["OK"]
    assert talk("read 0x200 4") == ["OK 0x017f7f00"]
    assert talk("write 0x300 4 0x12") == ["OK"], "as QEMU, missing bytes are zero"
    assert talk("read 0x300 2") == ["OK 0x1200"]
    assert talk("read 0xffffe 4") == ["OK 0x0000ffff"], "beyond RAM nobody answers"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("frobnicate 1", "FAIL Unknown command 'frobnicate'"),
        ("inb", "FAIL inb takes ADDR"),
        ("inb 1 2", "FAIL inb takes ADDR"),
        ("outb 1", "FAIL outb takes ADDR VALUE"),
        ("outb 1 x", "FAIL 'x' is not a number"),
        ("inb 08", "FAIL '08' is not a number"),
        ("inb 0x", "FAIL '0x' is not a number"),
        ("clock_step 1 2", "FAIL clock_step takes [NS]"),
        ("clock_set", "FAIL clock_set takes NS"),
        ("endianness 1", "FAIL endianness takes no argument"),
        ("read 0 0", f"FAIL SIZE is 1..{TRANSFER_LIMIT}"),
        ("memset 0 0xffffffffffff 0", f"FAIL SIZE is 1..{TRANSFER_LIMIT}"),
        ("write 0 1 zz", "FAIL DATA must be 0x and two hexadecimal digits a byte"),
        ("b64write 0 3 !!!!", "FAIL DATA must be base64"),
        ("b64write 0 2 AQID", "FAIL DATA holds 3 bytes, not SIZE"),
        ("irq_intercept_in /nowhere", "FAIL Unknown device"),
        ("irq_intercept_out /nowhere", "FAIL Unknown device"),
    ],
)
def test_a_command_that_makes_no_sense_fails_and_says_why(talk: Talk, line: str, reply: str) -> None:
    assert talk(line) == [reply]
    assert talk("endianness") == ["OK little"]


def test_the_clock_moves_only_by_command(talk: Talk) -> None:
    assert talk("clock_step 1000") == ["OK 1000"]
    assert talk("clock_set 5000") == ["OK 5000"]
    assert talk("clock_set 10") == ["OK 5000"], "never back"
    assert talk("clock_step 0xffffffffffffffff") == [f"OK {2**64 - 2}"]
    assert talk("clock_step 1") == [f"OK {2**64 - 2}"]


def test_a_step_without_a_number_goes_to_the_next_deadline(talk: Talk) -> None:
    talk("irq_intercept_in ioapic")
    for line in ("outb 0x43 0x30", "outb 0x40 100", "outb 0x40 0"):
        talk(line)
    talk("clock_step")
    seen = []
    for _ in range(3):
        lines = talk("clock_step")
        seen += lines[:-1]
        if seen:
            break
    assert seen == ["IRQ raise 0"]


def test_a_step_without_a_deadline_stays(talk: Talk) -> None:
    assert Talk("none")("clock_step") == ["OK 0"]


def test_edges_come_before_the_reply_and_only_when_intercepted(talk: Talk) -> None:
    for line in ("outb 0x43 0x34", "outb 0x40 0xe8", "outb 0x40 3"):
        talk(line)
    assert talk("clock_step 1000000") == ["OK 1000000"]
    assert talk("irq_intercept_in ioapic") == ["OK"]
    *edges, reply = talk("clock_step 2000000")
    assert reply == "OK 3000000"
    assert edges == ["IRQ raise 0", "IRQ lower 0", "IRQ raise 0"], "the first fall was not seen to rise"
    assert talk("irq_intercept_in /machine/q35/ioapic") == ["OK"], "twice is once"
    assert talk("irq_intercept_out i8254") == ["FAIL IRQ intercept already enabled"]


def test_a_device_s_own_lines_can_be_intercepted_by_number() -> None:
    talk = Talk()
    assert talk("irq_intercept_out /machine/unattached/acpi_pm") == ["OK"]
    talk.enable_pm_timer()
    talk("outw 0x602 1")
    assert talk(f"clock_step {2344 * 10**6}")[:-1] == ["IRQ raise 0"]
    talk("outb 0x43 0x30")
    assert talk("outw 0x600 1") == ["IRQ lower 0", "OK"]


def test_a_new_client_starts_from_low_lines(talk: Talk) -> None:
    talk("irq_intercept_in ioapic")
    talk("outb 0x43 0x30")
    talk("outb 0x43 0x34")
    talk.session.restart()
    assert talk("outb 0x43 0x30") == ["OK"], "a fall of a line it never saw high is not reported"


def test_a_recording_replayed_over_the_protocol_gives_the_recorded_lines() -> None:
    trace = recorded("pmtimer", "common")[0]
    talk = Talk()
    talk("irq_intercept_in ioapic")
    letters = {1: "b", 2: "w", 4: "l"}
    for at, operation in enumerate(trace.operations[:600]):
        edges = [e for e in trace.edges if e.at == at and e.line == 9]
        expected = [f"IRQ {'raise' if e.level else 'lower'} 9" for e in edges]
        if operation.kind == "step":
            lines = talk(f"clock_step {operation.ns}")
            expected.append(f"OK {operation.t + operation.ns}")
        elif operation.kind == "write":
            lines = talk(f"out{letters[operation.width]} {operation.address} {operation.value}")
            expected.append("OK")
        else:
            lines = talk(f"in{letters[operation.width]} {operation.address}")
            expected.append(f"OK 0x{operation.answer:04x}")
        assert [line for line in lines if not line.endswith(" 0") or line.startswith("OK")] == expected, at


# --- QMP --------------------------------------------------------------------


class Monitor:
    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.resets = 0
        self.qmp = Qmp(lambda data: self.sent.append(json.loads(data)), self._reset)

    def _reset(self) -> None:
        self.resets += 1

    def say(self, text: str) -> list[dict[str, Any]]:
        self.sent.clear()
        assert self.qmp.feed(text.encode())
        return list(self.sent)


def test_qmp_greets_and_negotiates() -> None:
    monitor = Monitor()
    monitor.qmp.greet()
    assert "event" not in monitor.sent[0]
    assert monitor.sent[0]["QMP"]["capabilities"] == []
    assert monitor.say('{"execute": "qmp_capabilities"}') == [{"return": {}}]
    assert monitor.say('{"execute": "query-status", "id": 7}')[0]["id"] == 7


def test_qmp_messages_may_come_in_pieces_or_together() -> None:
    monitor = Monitor()
    text = '{"execute": "qmp_capabilities"}\n{"execute":"stop"}{"execute":"query-status"}\n'
    replies = [reply for letter in text for reply in monitor.say(letter)]
    assert [list(reply) for reply in replies] == [["return"]] * 3
    assert replies[2]["return"]["status"] == "paused"
    assert len(monitor.say(text)) == 3


def test_qmp_errors_are_answered_and_do_not_end_it() -> None:
    monitor = Monitor()
    assert monitor.say('{"execute": "migrate"}')[0]["error"]["class"] == "CommandNotFound"
    assert monitor.say("[1]")[0]["error"]["class"] == "GenericError"
    assert monitor.say('{"execute": 5}')[0]["error"]["class"] == "GenericError"
    assert monitor.say("}{\n")[0]["error"]["desc"] == "JSON parse error"
    assert monitor.say("[" * 100_000 + "\n")[0]["error"]["desc"] == "JSON parse error"
    assert monitor.say('{"execute": "qmp_capabilities"}\n') == [{"return": {}}]


def test_qmp_gives_up_on_a_message_without_end() -> None:
    monitor = Monitor()
    assert not monitor.qmp.feed(b"{" + b" " * BUFFER_LIMIT)


def test_qmp_resets_and_quits() -> None:
    monitor = Monitor()
    assert [next(iter(m)) for m in monitor.say('{"execute": "system_reset"}')] == ["return", "event"]
    assert monitor.resets == 1
    with pytest.raises(Quit):
        monitor.qmp.feed(b'{"execute": "quit"}')
    assert monitor.sent == [{"return": {}}] or monitor.sent[-1] == {"return": {}}


# --- options ----------------------------------------------------------------


def test_qemu_s_options_are_understood_or_accepted() -> None:
    line = (
        "-qtest unix:/tmp/a.sock -qtest-log /dev/null -chardev socket,path=/tmp/a.qmp,id=char0 "
        "-mon chardev=char0,mode=control -display none -rtc base=2026-01-31T23:59:50,clock=vm -accel qtest "
        "-machine q35,accel=qtest -m 64 -nodefaults -S --name x-system-y -frobnicate"
    )
    settings = command.parse(line.split())
    assert settings.qtest == "unix:/tmp/a.sock"
    assert settings.board.names[0] == "q35"
    assert settings.ram == 64 << 20
    assert settings.monitors == ["chardev:char0"]
    assert settings.chardevs["char0"].path == "/tmp/a.qmp"
    assert not settings.chardevs["char0"].server
    assert settings.rtc_base is not None
    assert settings.rtc_base.isoformat() == "2026-01-31T23:59:50+00:00"
    assert settings.notes == ["-frobnicate: unknown here, ignored"]


def test_the_newest_libqtest_s_way_to_a_monitor_is_understood() -> None:
    line = (
        "-qtest unix:/tmp/a.sock -qtest-log /dev/null -chardev socket,path=/tmp/a.qmp,id=char0 "
        "-object monitor-qmp,id=qmp0,chardev=char0 -display none -audio none -run-with exit-with-parent=on "
        "-object memory-backend-ram,id=ram,size=1M -rtc clock=vm -accel qtest"
    )
    settings = command.parse(line.split())
    assert (settings.monitors, settings.notes) == (["chardev:char0"], [])


def test_the_hpet_can_be_left_out() -> None:
    assert command.parse([]).hpet
    for line in ("-machine q35,hpet=off", "-no-hpet", "-M hpet=off"):
        assert not command.parse(line.split()).hpet


def parameters(line: str) -> dict[str, dict[str, int]]:
    return command.board_settings(command.parse(line.split()))


def test_global_sets_parameters_of_the_board_s_devices(capsys: pytest.CaptureFixture[str]) -> None:
    found = parameters(
        "-global mc146818.update=65 -global driver=mc146818rtc,property=locked,value=on "
        "-global hpet.timers=0x8 -global isa-pit.hz=1193181 -global ne2k_isa.irq=9"
    )
    del found["mc146818"]["date"]
    assert found == {
        "mc146818": {"update": 65, "locked": 1},
        "hpet": {"timers": 8},
        "i8254": {"hz": 1193181},
        "acpi_pm": {},
    }
    assert capsys.readouterr().err == "", "devices of QEMU's that there are not are none of ours"
    parameters("-global mc146818rtc.lost_tick_policy=slew")
    assert "ignored; it has: base, date, update, locked" in capsys.readouterr().err


def test_the_date_is_the_host_s_or_what_is_asked_for() -> None:
    assert abs(parameters("")["mc146818"]["date"] - time.time()) < PATIENCE
    assert parameters("-rtc base=2026-01-31T23:59:50")["mc146818"]["date"] == 1769903990
    assert parameters("-rtc base=1970-01-02,clock=vm")["mc146818"]["date"] == 86400
    local = datetime.now().replace(tzinfo=UTC).timestamp()
    assert abs(parameters("-rtc base=localtime")["mc146818"]["date"] - local) < PATIENCE


@pytest.mark.parametrize(
    ("text", "size"),
    [("128", 128 << 20), ("64K", 64 << 10), ("1G", 1 << 30), ("size=2M", 2 << 20), ("9G", 3 << 30)],
)
def test_memory_sizes(text: str, size: int) -> None:
    assert command.parse(["-m", text]).ram == size


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-machine microvm", "there is no machine 'microvm'"),
        ("-qtest", "-qtest needs a value"),
        ("disk.img", "'disk.img' is not an option"),
        ("-rtc base=tomorrow", "a date is utc, localtime or one from 1970 on, e.g."),
        ("-rtc base=1969-12-31", "one from 1970 on"),
        ("-global update=65", "it takes DEVICE.PARAM=VALUE, e.g. mc146818.update=65"),
        ("-global mc146818.update=long", "mc146818.update=long is not a number"),
        ("-global mc146818.update=66", "mc146818: the parameter update takes 0..65, not 66"),
        ("-m lots", "a size is a number with K, M or G"),
        ("-chardev socket,path=x", "needs an id=ID"),
        ("-qtest tcp:localhost:1", "use stdio, unix:PATH"),
        ("-qtest chardev:x", "IDs: none"),
        ("-qtest unix:/nonexistent/x", "cannot connect to unix:/nonexistent/x: No such file"),
        ("-qtest unix:/nonexistent/x,server=on", "cannot listen at"),
        ("-device i8254,id=two", "overlaps i8254"),
        ("-device acpi_pm,id=t,colour=3", "t has no parameter 'colour'; it has: base, wide"),
        ("-device acpi_pm,base=here", "base=here is not a number"),
        ("-device nothing.dev", "nothing.dev"),
        ("-qtest-log /nonexistent/log", "-qtest-log /nonexistent/log: No such file"),
    ],
)
def test_a_wrong_command_line_ends_with_a_message_and_status_1(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.qtest(line.split()) == 1
    assert message in capsys.readouterr().err


def test_help_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.qtest(["-help"]) == 0
    assert "-qtest CHANNEL" in capsys.readouterr().out


# --- the process ------------------------------------------------------------


@pytest.fixture
def start() -> Iterator[Any]:
    """Start `devc qtest` with arguments; killed at the end if it still runs."""
    processes: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)
    listener.settimeout(PATIENCE)
    return listener


def ask(stream: Any, line: str) -> str:
    stream.write(line + "\n")
    stream.flush()
    return str(stream.readline().strip())


def test_over_stdio_it_answers_and_ends_with_its_input(start: Any) -> None:
    process = start("-machine", "pc", "-display", "none")
    out, err = process.communicate("endianness\noutb 0x43 0x34\nbogus\nclock_step 100\n", timeout=PATIENCE)
    assert out.splitlines() == ["OK little", "OK", "FAIL Unknown command 'bogus'", "OK 100"]
    assert (process.returncode, err) == (0, "")


def test_it_reads_commands_from_a_file(tmp_path: Path) -> None:
    commands = tmp_path / "commands"
    commands.write_text("outb 0x70 0x32\ninb 0x71\n")
    with commands.open() as stdin:
        line = [sys.executable, "-c", PROGRAM, "-rtc", "base=2026-01-31"]
        done = subprocess.run(line, stdin=stdin, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr, done.returncode) == ("OK\nOK 0x0020\n", "", 0)


def test_it_starts_and_ends_as_libqtest_expects(start: Any, tmp_path: Path) -> None:
    with listen(tmp_path / "t.sock") as qtest, listen(tmp_path / "t.qmp") as qmp:
        process = start(
            *f"-qtest unix:{tmp_path}/t.sock -qtest-log /dev/null "
            f"-chardev socket,path={tmp_path}/t.qmp,id=char0 -mon chardev=char0,mode=control "
            "-display none -rtc clock=vm -accel qtest".split()
        )
        test, monitor = qtest.accept()[0], qmp.accept()[0]
        with test, monitor, test.makefile("rw") as say, monitor.makefile("rw") as manage:
            assert "event" not in json.loads(manage.readline())
            manage.write('{"execute": "qmp_capabilities"}\n')
            manage.flush()
            assert json.loads(manage.readline()) == {"return": {}}
            assert ask(say, "irq_intercept_in ioapic") == "OK"
            assert ask(say, "clock_step 5") == "OK 5"
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(PATIENCE) == 0


def test_it_ends_when_its_client_is_gone(start: Any, tmp_path: Path) -> None:
    with listen(tmp_path / "t.sock") as qtest:
        process = start("-qtest", f"unix:{tmp_path}/t.sock")
        test, _ = qtest.accept()
        test.close()
        assert process.wait(PATIENCE) == 0


def test_as_a_server_it_takes_one_client_after_another(start: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.sock"
    listen(path).close()
    process = start("-qtest", f"unix:{path},server=on,wait=off", "-qtest-log", str(tmp_path / "log"))
    for _ in range(2):
        with connect(path) as test, test.makefile("rw") as say:
            assert ask(say, "endianness") == "OK little"
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert not path.exists(), "it leaves no socket behind"
    log = (tmp_path / "log").read_text().splitlines()
    assert [line.split("] ")[1] for line in log] == ["endianness", "OK little"] * 2


def connect(path: Path) -> socket.socket:
    end = time.monotonic() + PATIENCE
    while True:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.settimeout(PATIENCE)
        try:
            made.connect(str(path))
            return made
        except OSError:
            made.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def test_a_client_that_reads_nothing_cannot_keep_it_from_ending(start: Any, tmp_path: Path) -> None:
    with listen(tmp_path / "t.sock") as qtest:
        process = start("-qtest", f"unix:{tmp_path}/t.sock")
        test, _ = qtest.accept()
        with test:
            test.settimeout(1)
            with contextlib.suppress(TimeoutError):
                for _ in range(100):
                    test.sendall(b"read 0 65536\n" * 100)
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(PATIENCE) == 0


def test_quit_over_qmp_ends_it(start: Any, tmp_path: Path) -> None:
    with listen(tmp_path / "t.qmp") as qmp:
        process = start("-qmp", f"unix:{tmp_path}/t.qmp")
        monitor, _ = qmp.accept()
        with monitor, monitor.makefile("rw") as manage:
            manage.readline()
            manage.write('{"execute": "quit"}\n')
            manage.flush()
            assert json.loads(manage.readline()) == {"return": {}}
            assert process.wait(PATIENCE) == 0


def test_a_device_file_can_be_added_and_its_line_wired(start: Any) -> None:
    process = start("-machine", "none", "-device", "acpi_pm,base=0x400,sci=5")
    lines = "irq_intercept_in ioapic\noutw 0x402 1\nclock_step 3000000000\ninw 0x400\n"
    out, err = process.communicate(lines, timeout=PATIENCE)
    assert out.splitlines() == ["OK", "OK", "IRQ raise 5", "OK 3000000000", "OK 0x0001"]
    assert err == ""


def test_a_command_longer_than_any_can_be_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devc.runtime.hosts.qtest_channels.LINE_LIMIT", 100)
    peer = QtestPeer(None)
    sent: list[bytes] = []
    peer.put = sent.append
    peer.opened()
    assert peer.feed(b"x" * 100)
    assert not peer.feed(b"x")
    assert sent == [b"FAIL a command is at most 100 bytes long\n"]
