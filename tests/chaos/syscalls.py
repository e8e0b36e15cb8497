"""System calls of a running member that fail or take long, by strace.

Rules of this module: strace attaches to a process that runs, so that the fault strikes when the scenario says; what it
injected is read from its own words; it has let go of the process, or the process has ended, when the block ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import signal
import subprocess
from collections.abc import AsyncIterator

DURABLE = "pwritev2,fdatasync"  # what makes the log durable: RWF_DSYNC, and fdatasync where that is unknown
INJECTED = ("(INJECTED)", "(DELAYED)")


class Injection:
    def __init__(self, output: pathlib.Path) -> None:
        self._output = output

    @property
    def lines(self) -> list[str]:
        """Calls that were tampered with, as strace tells them."""
        return [line for line in self._output.read_text().splitlines() if line.rstrip().endswith(INJECTED)]

    async def struck(self, seconds: float = 10) -> str:
        """The first such call, as soon as there is one."""
        async with asyncio.timeout(seconds):
            while not self.lines:  # noqa: ASYNC110 - strace tells nobody
                await asyncio.sleep(0.02)
        return self.lines[0]


@contextlib.asynccontextmanager
async def injected(pid: int, root: pathlib.Path, fault: str, calls: str = DURABLE) -> AsyncIterator[Injection]:
    """`fault` in strace's words, on each of `calls` of all threads: `error=EIO:when=1`, `delay_enter=300000`."""
    output, words = root / f"strace-{pid}", root / f"strace-{pid}.words"
    command = [
        "strace",
        "-f",
        "-p",
        str(pid),
        "-o",
        str(output),
        "-e",
        f"trace={calls}",
        "-e",
        f"inject={calls}:{fault}",
    ]
    with words.open("wb") as told:
        tracer = await asyncio.create_subprocess_exec(*command, stdout=told, stderr=told, stdin=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(10):
            while "attached" not in words.read_text():
                assert tracer.returncode is None, words.read_text()
                await asyncio.sleep(0.02)
        yield Injection(output)
    finally:
        if tracer.returncode is None:
            tracer.send_signal(signal.SIGINT)  # it lets go of what it traces
            try:
                async with asyncio.timeout(5):
                    await tracer.wait()
            except TimeoutError:
                tracer.kill()
        await tracer.wait()
