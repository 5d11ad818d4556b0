"""The PC speaker: what the guest played, as a WAV file.

The speaker's cone is at OUT of counter 2, gated by port 0x61's bit 1. The
device file tells when either changes how it goes on; between two such instants
the sound is a square wave (or nothing, or a click), which is integrated
exactly over each sample, so that a high pitch does not alias into a wrong one.

    machine.add("i8254", python={"speaker": {"wav": "out.wav"}})
"""

from __future__ import annotations

import array
import wave
from itertools import pairwise
from typing import Any

SECOND = 1_000_000_000


class speaker:
    """Observer of i8254.dev. `wav`: a path, or None for no sound; `rate`: samples a second;
    `longest`: seconds after which the file takes no more, so that a guest cannot fill a disk."""

    def __init__(self, wav: str | None = None, rate: int = 44_100, longest: int = 3_600) -> None:
        if not 1_000 <= rate <= 192_000:
            raise ValueError(f"rate is {rate}; give 1000 to 192000 samples a second")
        self.rate = rate
        self.most = longest * rate
        self.path = wav
        self.idle = wav is None
        self.file: wave.Wave_write | None = None
        self.written = 0
        self.start = 0
        self.tone: Tone | None = None

    def changed(self, view: Any) -> None:
        """The sound goes on differently from now."""
        tone = Tone(
            hz=view.hz,
            mode=view["channel[2].mode"],
            reload=view["channel[2].reload"],
            running=bool(view["channel[2].running"]),
            gate=bool(view["port61.gate2"]),
            data=bool(view["port61.speaker"]),
            start=view.now,
        )
        if self.tone is None:
            self.start = view.now
        elif tone.same_wave(self.tone):
            tone.start = self.tone.start  # the data bit cuts the wave, it does not restart it
        self._render(view.now)
        self.tone = tone

    def close(self, now: int) -> None:
        self._render(now)
        if self.file is not None:
            self.file.close()
            self.file = None

    def _render(self, until: int) -> None:
        """Write the samples up to an instant."""
        tone = self.tone
        if self.path is None or tone is None:
            return
        last = min((until - self.start) * self.rate // SECOND, self.most)
        if last <= self.written or (self.file is None and not tone.data):
            if self.file is None:
                self.start, self.written = until, 0  # the file begins with the first sound
            return
        if self.file is None:
            self.file = wave.open(self.path, "wb")  # noqa: SIM115 - it is kept open
            self.file.setnchannels(1)
            self.file.setsampwidth(2)
            self.file.setframerate(self.rate)
        while self.written < last:
            count = min(last - self.written, self.rate)
            edges = (self.start + (self.written + i) * SECOND // self.rate for i in range(count + 1))
            highs = [tone.high(edge) for edge in edges]
            unit = SECOND / self.rate
            samples = array.array("h", (_sample((b - a) / unit, tone.data) for a, b in pairwise(highs)))
            self.file.writeframes(samples.tobytes())
            self.written += count


def _sample(share: float, data: bool) -> int:
    """The cone's mean place over a sample: at rest without data, else low to high."""
    return int((2 * min(max(share, 0.0), 1.0) - 1) * 12_000) if data else 0


class Tone:
    """OUT of counter 2 from `start` on, while nothing is reprogrammed."""

    def __init__(
        self, hz: int, mode: int, reload: int, running: bool, gate: bool, data: bool, start: int
    ) -> None:
        self.hz, self.mode, self.reload = hz, mode, reload
        self.running, self.gate, self.data, self.start = running, gate, data, start

    def same_wave(self, other: Tone) -> bool:
        mine = (self.hz, self.mode, self.reload, self.running, self.gate)
        return mine == (other.hz, other.mode, other.reload, other.running, other.gate)

    def high(self, now: int) -> float:
        """Nanoseconds that OUT has been high from `start` to `now`."""
        passed = now - self.start
        tick = SECOND / self.hz
        if not (self.running and self.gate):
            return float(passed) if self.mode != 0 else 0.0
        if self.mode in (2, 3):
            high = (self.reload - 1 if self.mode == 2 else (self.reload + 1) // 2) * tick
            period = self.reload * tick
            whole, rest = divmod(passed, period)
            return whole * high + min(rest, high)
        if self.mode in (0, 1):
            return max(0.0, passed - self.reload * tick)
        return passed - min(max(0.0, passed - self.reload * tick), tick)
