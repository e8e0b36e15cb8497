"""What storage can refuse with. Each says what the caller may do next, and no two of them mean the same thing."""

from __future__ import annotations

import errno
from pathlib import Path

SPACE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})


class StorageError(Exception):
    """Anything the storage layer refuses with."""


class Corrupt(StorageError):
    """Data that was durable is damaged. The member must not vote or count; it is replaced, never cut (rule 2)."""


class WalFailed(StorageError):
    """A write, a sync or a read failed. Fatal for the process: what the disk holds is unknown (rule 5, pitfall D1)."""


class OutOfSpace(StorageError):
    """No room on the disk. Nothing of the call was acknowledged; the same call may be tried again later (rule 5)."""


class NewerFormat(StorageError):
    """Written by a newer version of this software; nothing was touched (rule 34)."""


class DirectoryInUse(StorageError):
    """Another process holds the data directory."""


class IdentityMismatch(StorageError):
    """The data directory belongs to a member of another name."""


def out_of_space(error: OSError, path: Path) -> OutOfSpace | None:
    """`error` as OutOfSpace if it is a lack of space (or of quota), else None."""
    return OutOfSpace(f"no space for {path}") if error.errno in SPACE_ERRNOS else None
