"""A file that only takes up space; given back when the disk is full, it lets the member work its way out (rule 5)."""

from __future__ import annotations

import threading
from pathlib import Path

from oarlock.storage.errors import out_of_space
from oarlock.storage.files import FileSystem


class Ballast:
    """The ballast at `path`. Methods may block, and may be called from any thread: `release` comes in a hurry."""

    def __init__(self, path: Path, files: FileSystem) -> None:
        self._path = path
        self._files = files
        self._one_at_a_time = threading.Lock()

    def held_bytes(self) -> int:
        """Raises OSError."""
        if not self._files.exists(self._path):
            return 0
        handle = self._files.open(self._path)
        try:
            return self._files.size(handle)
        finally:
            self._files.close(handle)

    def reserve(self, size_bytes: int) -> bool:
        """Hold `size_bytes` of real space; False, and nothing held, if the disk has no room. Raises other OSErrors.

        Not synced: after a power loss a shorter ballast is found by `held_bytes` and reserved again.
        """
        with self._one_at_a_time:
            return self._reserve(size_bytes)

    def _reserve(self, size_bytes: int) -> bool:
        if self.held_bytes() == size_bytes:
            return True
        self._release()
        handle = self._files.create(self._path)
        try:
            self._files.allocate(handle, size_bytes)
        except OSError as error:
            self._files.unlink(self._path)
            if out_of_space(error, self._path) is None:
                raise
            return False
        finally:
            self._files.close(handle)
        return True

    def release(self) -> int:
        """Give the space back; the bytes freed. Raises OSError."""
        with self._one_at_a_time:
            return self._release()

    def _release(self) -> int:
        held = self.held_bytes()
        if self._files.exists(self._path):
            self._files.unlink(self._path)
            self._files.sync_directory(self._path.parent)
        return held
