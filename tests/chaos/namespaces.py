"""A network of the test's own: members in network namespaces on a bridge, links between them cut one way by nft.

Rules of this module:
* The test itself stands in the middle: it reaches every member always, whatever is cut between them.
* A link (A, B) is what A sends to B. It is cut where B receives, and what was cut is counted there.
* No namespace has a name or a file: when the processes that hold them have ended, the kernel removes them with all that
  is in them. Nothing here has a route to the machine's own network.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from tests.chaos.commands import run

CLONE_NEWNET = 0x40000000
TABLE = "chaos"
MIDDLE = "10.77.0.1"

Link = tuple[str, str]  # (who sends, who receives)

# What happens to a packet,
DROP = "drop"
RESET = "reject with tcp reset"
# and to which ones.
EACH = ""


def some(percent: int) -> str:
    """So many of a hundred, at random."""
    return f"numgen random mod 100 < {percent}"


def beyond(mebibytes_a_second: int) -> str:
    """Those that are more than this."""
    return f"limit rate over {mebibytes_a_second} mbytes/second"


# -- which links a partition cuts --------------------------------------------------------------------------------------


def between(some: Iterable[str], others: Iterable[str]) -> set[Link]:
    """Every link between two groups, both ways."""
    pairs = list(itertools.product(some, others))
    return {link for a, b in pairs for link in ((a, b), (b, a)) if a != b}


def deaf(member: str, names: Iterable[str]) -> set[Link]:
    """It sends, and hears nobody."""
    return {(other, member) for other in names if other != member}


def mute(member: str, names: Iterable[str]) -> set[Link]:
    """It hears, and nobody hears it."""
    return {(member, other) for other in names if other != member}


def ring(names: Sequence[str]) -> set[Link]:
    """Each reaches only its neighbours in a ring: of five, everyone sees a majority, and no two the same one."""
    size, apart = len(names), set()
    for i, j in itertools.combinations(range(size), 2):
        if min(j - i, size - (j - i)) > (size // 2) // 2:
            apart |= between([names[i]], [names[j]])
    return apart


def ruleset(cut: Mapping[str, Sequence[str]], verdict: str = DROP, which: str = EACH) -> dict[str, str]:
    """Receiver -> nft's text. `cut`: receiver -> addresses whose packets meet the verdict on their arrival."""
    return {
        receiver: "\n".join(
            [
                f"table inet {TABLE} {{",
                "  chain heard {",
                "    type filter hook input priority 0; policy accept;",
                *(f"    ip saddr {sender} meta l4proto tcp {which} counter {verdict}" for sender in senders),
                "  }",
                "}",
            ]
        )
        for receiver, senders in cut.items()
    }


def packets(listed: Mapping[str, Any]) -> int:
    """The sum of all counters in what `nft -j list table` says."""
    return sum(
        expression["counter"]["packets"]
        for item in listed["nftables"]
        for expression in item.get("rule", {}).get("expr", ())
        if isinstance(expression.get("counter"), dict)
    )


# -- the network itself ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Host:
    """Where a member lives."""

    address: str
    holder: subprocess.Popen[bytes]

    @property
    def wrapper(self) -> tuple[str, ...]:
        """Goes before a command, to run it there."""
        return ("nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "--")


class Network:
    """The calling thread is in its middle between `__enter__` and `__exit__`."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._outside = -1
        self.hosts: dict[str, Host] = {}
        self._cut: set[str] = set()  # receivers that have rules

    def __enter__(self) -> Self:
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _checked(_libc.unshare(CLONE_NEWNET), "unshare")
        try:
            run("ip", "link", "set", "lo", "up")
            run("ip", "link", "add", "middle", "type", "bridge")
            run("ip", "addr", "add", f"{MIDDLE}/24", "dev", "middle")
            run("ip", "link", "set", "middle", "up")
            for name in self._names:
                self.add(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts.values():
            host.holder.kill()
            host.holder.wait()
        _checked(_libc.setns(self._outside, CLONE_NEWNET), "setns")
        os.close(self._outside)

    def add(self, name: str) -> Host:
        number = len(self.hosts) + 11
        own = os.readlink("/proc/thread-self/ns/net")
        holder = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
        host = self.hosts[name] = Host(f"10.77.0.{number}", holder)
        while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
            assert holder.poll() is None, "the holder of a namespace ended"
            time.sleep(0.005)
        run("ip", "link", "add", f"to{number}", "type", "veth", "peer", "name", "eth0", "netns", holder.pid)
        run("ip", "link", "set", f"to{number}", "master", "middle", "up")
        for command in ("link set lo up", f"addr add {host.address}/24 dev eth0", "link set eth0 up"):
            run(*host.wrapper, "ip", *command.split())
        return host

    def cut(self, links: Iterable[Link], *, verdict: str = DROP, which: str = EACH) -> None:
        """Cut these links, and no others; or only some of the packets that go through them."""
        self.heal()
        senders: dict[str, list[str]] = {}
        for sender, receiver in sorted(links):
            senders.setdefault(receiver, []).append(self.hosts[sender].address)
        for receiver, text in ruleset(senders, verdict, which).items():
            run(*self.hosts[receiver].wrapper, "nft", "-f", "-", given=text)
            self._cut.add(receiver)

    def heal(self) -> None:
        for receiver in self._cut:
            run(*self.hosts[receiver].wrapper, "nft", "delete", "table", "inet", TABLE)
        self._cut.clear()

    def lost(self, receiver: str) -> int:
        """Packets that were cut on their way to it since `cut`."""
        listed = run(*self.hosts[receiver].wrapper, "nft", "-j", "list", "table", "inet", TABLE)
        return packets(json.loads(listed))

    def lost_packets(self) -> dict[str, int]:
        """By receiver, of those with a link that is cut."""
        return {receiver: self.lost(receiver) for receiver in sorted(self._cut)}


_libc = ctypes.CDLL(None, use_errno=True)  # os.unshare and os.setns are in Python 3.12


def _checked(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), what)
