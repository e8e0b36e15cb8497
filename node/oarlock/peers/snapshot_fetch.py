"""Fetching a snapshot file from a peer: ranges that name the digest, resumed after a break, verified at the end.

Rules of this module:
* The file's size is the offer's, never what the peer sends: no more than that is written.
* What a file at the destination already holds is kept and gone on from (S7); only the digest at the end makes it true.
* Writing and hashing run in threads, in pieces that let the GIL go; each wait on the peer is bounded.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from oarlock.peers.client import Address, OpeningRefused, PeerClient, PeerUnreachable, check_answer
from oarlock.peers.hello import Hello
from oarlock.peers.options import PeerCounters, PeerOptions
from oarlock.raft.types import SnapshotMeta

_WRITE_BYTES = 1024 * 1024


class SnapshotFetchFailed(Exception):
    """The file could not be had from this peer. `code`: `gone` (the peer no longer has it), `stalled` (no new byte for
    `fetch_stall_seconds`), `refused` (the peer's code is in the text), `mismatch` (of sizes, or of the
    digest: the file is deleted then)."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


class _Broken(Exception):
    """This request ended early; the next one goes on from there."""


async def fetch_file(
    client: PeerClient,
    addresses: list[Address],
    hello: Hello,
    meta: SnapshotMeta,
    destination: Path,
    on_progress: Callable[[int], None],
    options: PeerOptions,
    counters: PeerCounters,
) -> None:
    """Make `destination` the file that `meta` names. `on_progress` gets the bytes held after each write.

    The file is closed and verified, not synced: publishing it is the store's. Raises SnapshotFetchFailed, and
    OSError of our own disk.
    """
    loop = asyncio.get_running_loop()
    descriptor = await loop.run_in_executor(None, os.open, destination, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        held = os.fstat(descriptor).st_size
        if held > meta.size_bytes:
            os.ftruncate(descriptor, 0)
            held = 0
        moved_at = loop.time()
        attempt = 0

        async def keep(piece: bytearray) -> None:
            nonlocal held, moved_at
            if piece:
                await loop.run_in_executor(None, _write_all, descriptor, piece, held)
                held += len(piece)
                moved_at = loop.time()
                counters.snapshot_bytes_received += len(piece)
                on_progress(held)

        while held < meta.size_bytes:
            before = held
            try:
                await _one_range(client, addresses[attempt % len(addresses)], hello, meta, held, options, keep)
            except (_Broken, PeerUnreachable) as error:
                if loop.time() - moved_at > options.fetch_stall_seconds:
                    why = f"no byte for {options.fetch_stall_seconds} s: {error}"
                    raise SnapshotFetchFailed("stalled", why) from error
                attempt += 1
                if held == before:
                    await asyncio.sleep(options.backoff_max_seconds / 2)
        digest = await loop.run_in_executor(None, _digest, descriptor)
    finally:
        os.close(descriptor)
    if digest != meta.digest:
        await loop.run_in_executor(None, os.unlink, destination)
        raise SnapshotFetchFailed("mismatch", f"the file's SHA-256 is {digest}, not {meta.digest}")


async def _one_range(
    client: PeerClient,
    address: Address,
    hello: Hello,
    meta: SnapshotMeta,
    start: int,
    options: PeerOptions,
    keep: Callable[[bytearray], Awaitable[None]],
) -> None:
    """Give `keep` the range that begins at `start`, in pieces of about _WRITE_BYTES. What came before a break is kept
    too. Raises _Broken, PeerUnreachable, SnapshotFetchFailed."""
    loop = asyncio.get_running_loop()
    end = min(start + options.range_bytes, meta.size_bytes)
    headers = {"range": f"bytes={start}-{end - 1}", "if-match": f'"{meta.digest}"'}
    missing = end - start
    buffer = bytearray()
    timeout = asyncio.timeout(options.dial_timeout_seconds)
    try:
        async with timeout, client.open(address, f"/raft/snapshot/{meta.digest}", hello, headers) as (response, answer):
            check_answer(hello, answer)
            wanted, got = f"bytes {start}-{end - 1}/{meta.size_bytes}", response.headers.get("content-range")
            if response.status_code != 206 or got != wanted:
                raise SnapshotFetchFailed("mismatch", f"asked for {wanted!r}, got {got!r}")
            timeout.reschedule(loop.time() + options.silence_seconds)
            async for chunk in response.aiter_raw():
                missing -= len(chunk)
                if missing < 0:
                    raise SnapshotFetchFailed("mismatch", "more bytes came than were asked for")
                buffer += chunk
                if len(buffer) >= _WRITE_BYTES:
                    timeout.reschedule(None)  # the time of our own disk is not the peer's silence
                    await keep(buffer)
                    buffer = bytearray()
                timeout.reschedule(loop.time() + options.silence_seconds)
    except OpeningRefused as refusal:
        if refusal.status in (404, 412, 416):
            raise SnapshotFetchFailed("gone", str(refusal)) from refusal
        if refusal.status == 503 or refusal.code == "wrong_target":  # busy; or another member has that IP by now
            raise _Broken(str(refusal)) from refusal
        raise SnapshotFetchFailed("refused", str(refusal)) from refusal
    except (TimeoutError, httpx.HTTPError) as error:
        await keep(buffer)
        raise _Broken(f"{type(error).__name__} {error}".rstrip()) from error
    await keep(buffer)
    if missing:
        raise _Broken(f"the range ended {missing} bytes early")


def _write_all(descriptor: int, piece: bytearray, at: int) -> None:
    view = memoryview(piece)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written


def _digest(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
