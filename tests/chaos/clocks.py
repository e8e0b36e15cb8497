"""Clocks of a member that are not the test's: set apart at its start by the kernel, or moved while it runs (clocks.c).

Rules of this module: a time namespace moves the monotonic clocks alone, and only when a process starts; what moves them
later stands between the process and its C library. Neither touches the machine's clocks. The monotonic clocks never
move back: Linux has no fault that would do that.
"""

from __future__ import annotations

import mmap
import os
import pathlib
import struct

from tests.chaos.commands import run

SOURCE = pathlib.Path(__file__).with_name("clocks.c")


def offset(seconds: int) -> tuple[str, ...]:
    """Goes before a command: its monotonic clock and time since boot are `seconds` ahead (or behind)."""
    return ("unshare", "-T", "--monotonic", str(seconds), "--boottime", str(seconds))


def has_own_clocks(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/ns/time") != os.readlink("/proc/self/ns/time")


def offsets(pid: int) -> str:
    """By which its monotonic clock and time since boot are ahead, as the kernel tells it."""
    return pathlib.Path(f"/proc/{pid}/timens_offsets").read_text()


class MovableClock:
    """The clocks of the process that `wrapper` starts follow `jump`, at once."""

    def __init__(self, root: pathlib.Path, name: str) -> None:
        self._library = root / f"{name}.clocks.so"
        self._file = root / f"{name}.clocks"
        run("gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", self._library, SOURCE)
        self._file.write_bytes(bytes(32))
        self._seconds = [0.0, 0.0]

    @property
    def wrapper(self) -> tuple[str, ...]:
        return ("env", f"LD_PRELOAD={self._library}", f"MOVED_CLOCKS={self._file}")

    def jump(self, *, wall: float = 0.0, monotonic: float = 0.0) -> None:
        """By so many seconds from where they are."""
        assert monotonic >= 0, "no fault moves it back"
        self._seconds = [self._seconds[0] + wall, self._seconds[1] + monotonic]
        with self._file.open("r+b") as file, mmap.mmap(file.fileno(), 32) as mapped:
            mapped[:16] = struct.pack("qq", *(round(seconds * 1e9) for seconds in self._seconds))

    def read(self) -> tuple[float, float]:
        """By how much the wall clock and the monotonic one were ahead, in seconds, when the process last read them."""
        wall, monotonic = struct.unpack("16xqq", self._file.read_bytes())
        return wall / 1e9, monotonic / 1e9
