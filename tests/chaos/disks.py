"""Disks of the test's own: small file systems on loop devices that lose their power, hang, fill up and slow down.

Rules of this module:
* What is here is done by the kernel to a real file system; nothing is patched in the member.
* `close` ends whatever a test left: frozen, throttled, full or mounted. A mount's name holds the test's process id.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import struct
import time
from typing import Self

from tests.chaos.commands import CommandFailed, run

EXT4_IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = 2  # what the journal has not yet written is lost, as with the power
BLKIO = pathlib.Path("/sys/fs/cgroup/blkio")
MIB = 1 << 20
MAKE = {"ext4": ("mkfs.ext4", "-q", "-F", "-m", "0"), "xfs": ("mkfs.xfs", "-q", "-f")}


class Disk:
    """A file system of `mebibytes`, mounted at `place` between `__enter__` and `close`."""

    def __init__(self, root: pathlib.Path, name: str, *, mebibytes: int = 320, kind: str = "ext4") -> None:
        self.name = name
        self._kind = kind
        self._size = mebibytes
        self._image = root / f"{name}.image"
        self.place = root / f"disk-{name}-{os.getpid()}"
        self._frozen = False
        self._group: pathlib.Path | None = None
        self._filler = self.place / "filler"

    def __enter__(self) -> Self:
        self.place.mkdir()
        with self._image.open("wb") as image:
            image.truncate(self._size * MIB)
        run(*MAKE[self._kind], self._image)
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Whoever has files open there must have ended: a frozen disk lets nobody end, so thaw it first."""
        self.thaw()
        self.throttle_off()
        if os.path.ismount(self.place):
            try:
                self.unmount()
            except CommandFailed:
                run("umount", "--lazy", self.place)
                raise
        self._image.unlink(missing_ok=True)

    def mount(self) -> None:
        run("mount", "-o", "loop", self._image, self.place)  # umount frees the loop device too

    def unmount(self) -> None:
        end = time.monotonic() + 5
        while True:
            try:
                run("umount", self.place)
                return
            except CommandFailed:  # a killed process' files are closed a moment after its end
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    # .. power ..

    def lose_power(self) -> None:
        """From now on every write fails, and what was not synced is gone once `mount` has been done again."""
        handle = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(handle)

    def refuses_writes(self) -> bool:
        """Does a write get EIO?"""
        try:
            with (self.place / "probe").open("wb") as probe:
                probe.write(b"x")
                probe.flush()
                os.fsync(probe.fileno())
        except OSError as error:
            return error.errno == errno.EIO
        return False

    # .. hanging ..

    def freeze(self) -> None:
        """Whoever writes waits until `thaw`; kill -9 does not help it."""
        run("fsfreeze", "-f", self.place)
        self._frozen = True

    def thaw(self) -> None:
        if self._frozen:
            run("fsfreeze", "-u", self.place)
            self._frozen = False

    # .. filling ..

    def fill(self, leave_bytes: int = 0) -> None:
        """Until only so much is free; 0: until nothing fits any more."""
        handle = os.open(self._filler, os.O_CREAT | os.O_RDWR, 0o600)
        size = 0
        try:
            for step in (8 * MIB, MIB, 64 << 10, 4096):
                with contextlib.suppress(OSError):
                    while self.free_bytes - step >= leave_bytes:
                        os.posix_fallocate(handle, size, step)
                        size += step
        finally:
            os.close(handle)

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.place).free

    # .. slowness ..

    def throttle(self, pid: int, *, writes_a_second: int = 0, bytes_a_second: int = 0) -> None:
        """The process gets so many writes, or bytes, a second from this disk (cgroup v1's blkio); 0: no limit."""
        if self._group is None:
            self._group = BLKIO / f"oarlock-chaos-{os.getpid()}-{self.name}"
            self._group.mkdir()
        device = run("findmnt", "-n", "-o", "MAJ:MIN", self.place).strip()
        (self._group / "blkio.throttle.write_iops_device").write_text(f"{device} {writes_a_second}")
        (self._group / "blkio.throttle.write_bps_device").write_text(f"{device} {bytes_a_second}")
        (self._group / "cgroup.procs").write_text(str(pid))

    def throttle_off(self) -> None:
        if self._group is not None:
            for pid in (self._group / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (BLKIO / "cgroup.procs").write_text(pid)
            self._group.rmdir()
            self._group = None


def can_throttle() -> bool:
    return (BLKIO / "blkio.throttle.write_iops_device").exists()
