"""An attacker's clients: more writes at once than a member should take, each of them numbered.

Rule of this module: what was acknowledged can be told from what was only sent, or a flood would prove nothing.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter

import httpx

NUMBER_BYTES = 8  # the first ones of a value: which write of its writer it is


class Writer:
    """One connection's writes to a key of its own, one after the other, each with a number. Turned away, it comes
    again."""

    def __init__(self, key: str, size: int) -> None:
        self.key = key
        self.codes: Counter[int] = Counter()  # 0: the connection was closed
        self.sent = self.acknowledged = 0
        self._head = b"PUT /v1/kv/%b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (key.encode(), size)
        self._rest = b"x" * (size - NUMBER_BYTES)

    async def run(self, url: httpx.URL, end: float) -> None:
        while time.monotonic() < end:
            reader, writer = await asyncio.open_connection(url.host, url.port)
            try:
                while time.monotonic() < end and await self._write(reader, writer) in (200, 201):
                    self.acknowledged = self.sent
            except (asyncio.IncompleteReadError, ConnectionError):
                self.codes[0] += 1
            finally:
                writer.close()
            await asyncio.sleep(0.05)

    async def _write(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        self.sent += 1
        writer.write(self._head + b"%0*d" % (NUMBER_BYTES, self.sent) + self._rest)
        head = await reader.readuntil(b"\r\n\r\n")
        code = int(head.split(b" ", 2)[1])
        self.codes[code] += 1
        if code != 503:  # which closes the connection
            length = re.search(rb"content-length: (\d+)", head)
            assert length is not None, head
            await reader.readexactly(int(length[1]))
        return code
