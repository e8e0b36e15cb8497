"""Clocks of a member that are not the test's: set apart at its start by the kernel, or moved under it by libfaketime.

Rules of this module: a time namespace moves the monotonic clocks alone, and only when a process starts; libfaketime moves
a running process' clocks, the monotonic ones too unless told not to. Neither touches the machine's clocks.
"""

from __future__ import annotations

import os
import pathlib

LIBRARY = next(iter(pathlib.Path("/usr/lib").glob("*-linux-gnu/faketime/libfaketimeMT.so.1")), pathlib.Path("/no-libfaketime"))


def offset(seconds: int) -> tuple[str, ...]:
    """Goes before a command: its monotonic clock and time since boot are `seconds` ahead (or behind)."""
    return ("unshare", "-T", "--monotonic", str(seconds), "--boottime", str(seconds))


def has_own_clocks(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/ns/time") != os.readlink("/proc/self/ns/time")


class MovableClock:
    """The clocks of the process that `wrapper` starts follow `jump`."""

    def __init__(self, root: pathlib.Path, name: str, *, monotonic_too: bool) -> None:
        self._file = root / f"{name}.clock"
        self._monotonic_too = monotonic_too
        self.jump(0)

    @property
    def wrapper(self) -> tuple[str, ...]:
        settings = {
            "LD_PRELOAD": LIBRARY,
            "FAKETIME_TIMESTAMP_FILE": self._file,
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "0" if self._monotonic_too else "1",
        }
        return ("env", *(f"{name}={value}" for name, value in settings.items()))

    def jump(self, seconds: float) -> None:
        """So far from the machine's clock, from now on. Whole when it is read: the file is replaced."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+g}\n")
        new.replace(self._file)
