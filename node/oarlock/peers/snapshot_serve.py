"""Serving a finished snapshot file by its digest: ranges, `If-Match`, nothing read on the loop (rules 19 and 25).

Rules of this module:
* The file is opened once for a request: a snapshot that is deleted meanwhile is still served to the end of its range.
* One chunk is read (in a thread) and written at a time, so that heartbeats pass between two of them (F1), and reading
  stops when the peer has gone.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})\Z")


@dataclass(frozen=True, slots=True)
class RangeAnswer:
    """Bytes `start` to `end`, exclusive, of `size`; `partial` says whether it was asked for as a range."""

    status: int
    start: int = 0
    end: int = 0
    partial: bool = False


def answer_range(size: int, digest: str, if_match: str | None, range_header: str | None) -> RangeAnswer:
    """Status 200, 206, 412 or 416 (RFC 9110, 13.1.1 and 14.2). One range `a-b` or `a-`; anything else is 416, because
    only our own members ask and a silent whole file would be the wrong answer to them."""
    if if_match is not None and if_match.strip() not in ("*", f'"{digest}"'):
        return RangeAnswer(412)
    if range_header is None:
        return RangeAnswer(200, 0, size)
    match = _RANGE.match(range_header.strip())
    if match is None:
        return RangeAnswer(416)
    start = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    if start >= end:
        return RangeAnswer(416)
    return RangeAnswer(206, start, end, partial=True)


async def send_file(
    path: Path,
    digest: str,
    if_match: str | None,
    range_header: str | None,
    headers: list[tuple[bytes, bytes]],
    send: Send,
    gone: asyncio.Future[None],
    chunk_bytes: int,
    on_chunk: Callable[[int], None],
) -> int:
    """Answer one request for a file; the status. `on_chunk` gets the number of bytes of each chunk that was written;
    `gone` is done once the peer has left. Raises FileNotFoundError before anything is sent; a file that turns out
    shorter than it said breaks the connection."""
    loop = asyncio.get_running_loop()
    descriptor = await loop.run_in_executor(None, os.open, path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        answer = answer_range(size, digest, if_match, range_header)
        length = answer.end - answer.start
        headers = [
            *headers,
            (b"content-type", b"application/octet-stream"),
            (b"content-length", b"%d" % length),
            (b"etag", b'"%s"' % digest.encode()),
            (b"accept-ranges", b"bytes"),
        ]
        if answer.partial:
            headers.append((b"content-range", b"bytes %d-%d/%d" % (answer.start, answer.end - 1, size)))
        elif answer.status == 416:
            headers.append((b"content-range", b"bytes */%d" % size))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        at = answer.start
        while at < answer.end and not gone.done():
            chunk = await loop.run_in_executor(None, os.pread, descriptor, min(chunk_bytes, answer.end - at), at)
            if not chunk:
                raise OSError(f"{path} ended at {at}, {answer.end} were promised")
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            at += len(chunk)
            on_chunk(len(chunk))
        if not gone.done():
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        return answer.status
    finally:
        os.close(descriptor)
