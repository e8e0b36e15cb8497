"""Golden scripts: the message exchanges of the Raft thesis, chapters 3, 4 and 6.4, as text that can be read.

A script is lines of three kinds: `# why`, `> command`, and what the command brought about. Every message is written
when it is sent, after the write it waited for. With OARLOCK_REWRITE_GOLDEN=1 the third kind is written anew; then read
the difference before it is committed.

    cluster abc [learners d]        members start with the first configuration in their logs; learners start empty
    timeout a                       the clock moves to where a loses patience
    hurry a                         a loses patience, and the clock stays
    elect a                         both of a `timeout` and a `settle`; only changes of role are written
    advance 0.1                     the clock moves, whoever is due ticks
    wait 2                          it moves in small steps, all is delivered; only changes of role are written
    settle                          everything on its way is delivered, in the order it was sent
    deliver a b [Type]              the first message from a to b (of that type)
    drop a bc                       what is on its way from a to b and to c is lost
    cut a bc / heal                 nothing passes between a and either of b and c / all passes again
    propose a text, read a 7, transfer a b, change a VOTERS [learners x] [promote y] [if ID]
    stall a / persist a             a's disk answers only to `persist`, one frame each
    crash a, restart a, add d
    snapshot a, compact a, install c, refuse c
    show, log a
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.raft_cluster import Cluster, Node, node_id, say_configuration, say_entry, short

from oarlock.raft.errors import ConfigurationRefused, LocalError

SCRIPTS = sorted((Path(__file__).parent / "raft").glob("*.txt"))


class Interpreter:
    def __init__(self) -> None:
        self.cluster = Cluster("")

    def run(self, line: str) -> list[str]:
        """What one command brings about, as lines."""
        verb, *words = line.split()
        try:
            said = getattr(self, f"do_{verb}")(*words) or []
        except ConfigurationRefused as error:
            said = [f"refused: {error.code}: {error}"]
        except LocalError as error:
            said = [f"refused: {type(error).__name__}: {error}"]
        trace = self.cluster.trace or []
        if verb in ("elect", "wait"):
            trace = [line for line in trace if " becomes " in line]
        self.cluster.trace = []
        return trace + said

    def node(self, name: str) -> Node:
        return self.cluster.nodes[node_id(name)]

    def do_cluster(self, voters: str, *more: str) -> None:
        self.cluster = Cluster(voters, *more[1:])
        self.cluster.trace = []

    def do_add(self, name: str) -> None:
        self.cluster.add(name)

    def do_timeout(self, name: str) -> None:
        node = self.node(name)
        self.cluster.now = max(self.cluster.now, node.core.deadline)
        self.cluster.input(node, lambda core: core.tick(self.cluster.now))

    def do_hurry(self, name: str) -> None:
        node = self.node(name)
        node.core._state.election_deadline = self.cluster.now
        self.cluster.input(node, lambda core: core.tick(self.cluster.now))

    def do_elect(self, name: str) -> None:
        self.cluster.elect(name)

    def do_wait(self, seconds: str) -> None:
        self.cluster.run(float(seconds), step=0.05)

    def do_advance(self, seconds: str) -> None:
        self.cluster.now += float(seconds)
        self.cluster.tick()

    def do_settle(self) -> None:
        self.cluster.settle()

    def do_deliver(self, sender: str, to: str, kind: str = "") -> None:
        for message in self.cluster.network:
            if (message.sender, message.to) == (node_id(sender), node_id(to)) and kind in type(message).__name__:
                self.cluster.network.remove(message)
                self.cluster.deliver(message)
                return
        raise AssertionError(f"nothing from {sender} to {to} {kind}")

    def do_drop(self, sender: str, others: str) -> None:
        targets = [node_id(other) for other in others]
        lost = [m for m in self.cluster.network if m.sender == node_id(sender) and m.to in targets]
        assert lost
        self.cluster.network = [message for message in self.cluster.network if message not in lost]

    def do_cut(self, one: str, others: str) -> None:
        for other in others:
            self.cluster.cut += [(node_id(one), node_id(other)), (node_id(other), node_id(one))]

    def do_heal(self) -> None:
        self.cluster.cut.clear()

    def do_propose(self, name: str, data: str) -> None:
        self.cluster.propose(name, data.encode())

    def do_read(self, name: str, context: str) -> None:
        self.cluster.read(name, int(context))

    def do_transfer(self, name: str, target: str) -> None:
        self.cluster.input(self.node(name), lambda core: core.transfer(node_id(target), self.cluster.now))

    def do_change(self, name: str, voters: str, *more: str) -> None:
        options = dict(zip(more[::2], more[1::2], strict=True))
        self.cluster.change(
            name, voters, options.get("learners", ""), options.get("promote", ""), options.get("if", "")
        )

    def do_stall(self, name: str) -> None:
        self.node(name).disk_stalls = True

    def do_persist(self, name: str) -> None:
        self.cluster.persist(self.node(name))

    def do_crash(self, name: str) -> list[str]:
        lost = len(self.node(name).frames)
        self.cluster.crash(node_id(name))
        self.node(name).disk_stalls = False
        return [f"{name} is down, {lost} frames lost"]

    def do_restart(self, name: str) -> None:
        self.cluster.restart(node_id(name))

    def do_snapshot(self, name: str) -> list[str]:
        meta = self.cluster.take_snapshot(node_id(name))
        assert meta is not None
        return [f"{name} has snapshot {meta.term}.{meta.index}, {say_configuration(meta.placed.configuration)}"]

    def do_compact(self, name: str) -> list[str]:
        core = self.node(name).core
        assert core.snapshot is not None
        self.cluster.compact(core.node_id, core.snapshot.index)
        return [f"{name}'s log begins at {core.first_index}"]

    def do_install(self, name: str) -> None:
        self.cluster.finish_fetch(node_id(name))

    def do_refuse(self, name: str) -> None:
        self.cluster.finish_fetch(node_id(name), succeed=False)

    def do_show(self) -> list[str]:
        lines = []
        for node in self.cluster.nodes.values():
            core = node.core
            said = f"{short(core.node_id)} {core.role if node.up else 'down'}, term {core.term}"
            said += f", leader {short(core.leader) or '-'}, commit {core.commit_index} of {core.last_index}"
            said += f", {core.placed.id} ({say_configuration(core.placed.configuration)})"
            lines.append(said + (", removed" if core.removed else ""))
            for peer in core.peers.values():
                note = f", snapshot {peer.snapshot}" if peer.snapshot else ", leaving" if peer.leaving else ""
                lines.append(f"  {short(peer.id)} {peer.state}, match {peer.match}, next {peer.next}{note}")
        return lines

    def do_log(self, name: str) -> list[str]:
        core = self.node(name).core
        return [say_entry(entry) for entry in core.entries(core.first_index, core.last_index)]


def play(script: str) -> str:
    interpreter = Interpreter()
    lines = []
    for line in script.splitlines():
        if not line or line.startswith("#"):
            lines.append(line)
        elif line.startswith("> "):
            lines += [line, *interpreter.run(line[2:])]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    wanted = path.read_text()
    played = play(wanted)
    if os.environ.get("OARLOCK_REWRITE_GOLDEN"):
        path.write_text(played)
    else:
        assert played == wanted


def test_a_wrong_line_is_noticed() -> None:
    script = SCRIPTS[0].read_text()
    assert play(script) == script
    assert play(script.replace("term 2", "term 3")) != script.replace("term 2", "term 3")


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 18
