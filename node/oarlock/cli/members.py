"""`oarlock member …`: who takes part. Every change is one compare-and-set in the Raft log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from oarlock.cli.admin_client import Admin, adding, member_of, promoting, removing, swapping
from oarlock.cli.http import make_client, read_token, split_endpoints
from oarlock.cli.options import DEFAULT_PEERS, PeerOption, TimeoutOption, TokenFileOption
from oarlock.cli.output import CommandError, fail, say, stdout
from oarlock.wire.admin import ConfigurationModel, MemberModel, State, StatusAnswer

app = typer.Typer(help="See and change who takes part.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(help="A node id, as `member list` shows it.", show_default=False)]
UrlArgument = Annotated[str, typer.Argument(help="Peer URL of the new member, which is Idle.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _admin(peers: list[str], token_file: Path, timeout: float) -> Admin:
    return Admin(split_endpoints(peers), make_client(read_token(token_file)), timeout)


@app.command("list")
def list_members(
    token_file: TokenFileOption,
    peer: PeerOption = DEFAULT_PEERS,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """List the configuration, as the leader has it.

    Examples:

      oarlock member list --token-file token

      oarlock member list -p http://10.0.0.1:2380,http://10.0.0.2:2380 --json
    """
    try:
        _, status = _admin(peer, token_file, timeout).leader()
    except CommandError as e:
        fail(e)
    configuration = status.configuration
    assert configuration is not None, "a leader has a configuration"
    if as_json:
        typer.echo(configuration.model_dump_json(indent=2))
        return
    table = Table("ID", "KIND", "LEADER", "PEER URL", "CLIENT URL", box=None, pad_edge=False)
    for kind, group in _groups(configuration):
        for m in group:
            table.add_row(m.id, kind, "yes" if m.id == status.leader else "", m.peer_url, m.client_url)
    stdout.print(table)


def _groups(configuration: ConfigurationModel) -> list[tuple[str, list[MemberModel]]]:
    voters = {m.id for m in configuration.voters}
    leaving = [m for m in configuration.outgoing if m.id not in voters]
    return [("voter", [*configuration.voters]), ("leaving", [*leaving]), ("learner", [*configuration.learners])]


@app.command("status")
def status(
    token_file: TokenFileOption,
    peer: PeerOption = DEFAULT_PEERS,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Ask every member for its own view: state, role, term, indexes. Works without a leader.

    Example:

      oarlock member status --token-file token
    """
    try:
        admin = _admin(peer, token_file, timeout)
        answers = _ask_everybody(admin)
    except CommandError as e:
        fail(e)
    if as_json:
        parts = [f'"{url}":{a.model_dump_json() if a else "null"}' for url, a in answers.items()]
        typer.echo("{" + ",".join(parts) + "}")
        return
    table = Table(
        "PEER URL", "ID", "STATE", "ROLE", "TERM", "COMMIT", "APPLIED", "REVISION", "VERSION", box=None, pad_edge=False
    )
    for url, answer in answers.items():
        if answer is None:
            table.add_row(url, "", "no answer", *[""] * 6)
            continue
        numbers = (answer.term, answer.commit_index, answer.applied_index, answer.revision)
        table.add_row(url, answer.node_id, answer.state, answer.role, *map(str, numbers), answer.version)
    stdout.print(table)
    for url, answer in answers.items():
        if answer is not None and answer.reason:
            say(f"{url}: {answer.reason}")
    if all(answer is None for answer in answers.values()):
        raise typer.Exit(1)


def _ask_everybody(admin: Admin) -> dict[str, StatusAnswer | None]:
    """The members given, and those that their configurations name."""
    answers: dict[str, StatusAnswer | None] = {}
    refused: CommandError | None = None
    queue = list(admin.urls)
    while queue:
        url = queue.pop(0)
        if url in answers:
            continue
        try:
            answers[url] = answer = admin.status(url)
        except CommandError as e:
            answers[url], refused = None, e
            continue
        configuration = answer.configuration
        if configuration is not None:
            queue += [m.peer_url for m in (*configuration.voters, *configuration.learners, *configuration.outgoing)]
    if refused is not None and all(a is None for a in answers.values()):
        raise refused
    return answers


@app.command("add")
def add(
    url: UrlArgument,
    token_file: TokenFileOption,
    peer: PeerOption = DEFAULT_PEERS,
    learner: Annotated[bool, typer.Option("--learner", help="Leave it a learner: it has no vote.")] = False,
    timeout: TimeoutOption = 120.0,
) -> None:
    """Add an Idle member: first as a learner, and as a voter once it has caught up.

    Examples:

      oarlock member add http://10.0.0.4:2380 --token-file token

      oarlock member add http://10.0.0.4:2380 --learner --token-file token
    """
    try:
        admin = _admin(peer, token_file, timeout)
        newcomer = _newcomer(admin, url)
        member = member_of(newcomer, promote=not learner)
        admin.change(adding([member]))
        say(f"{member.id} is a learner")
        if not learner:
            admin.change(promoting(member.id))
            admin.wait_until(lambda now: any(m.id == member.id for m in now.voters), f"the promotion of {member.id}")
            say(f"{member.id} is a voter")
    except CommandError as e:
        fail(e)
    typer.echo(member.id)


def _newcomer(admin: Admin, url: str) -> StatusAnswer:
    """The member at `url`, fit to join: Idle, or on its way into this very cluster by an earlier try."""
    status = admin.status(split_endpoints([url])[0])
    if status.state in (State.REMOVED, State.STALE, State.CORRUPT):
        raise CommandError(f"{status.node_id} is {status.state}: reset it first. {status.reason}")
    if status.state is State.OUTDATED:
        raise CommandError(f"{status.node_id} is Outdated: its data is sound. {status.reason}")
    if status.cluster_id is not None:
        _, leading = admin.leader()
        if leading.cluster_id != status.cluster_id:
            raise CommandError(f"{status.node_id} belongs to another cluster, {status.cluster_id}")
    return status


@app.command("promote")
def promote(
    node_id: IdArgument, token_file: TokenFileOption, peer: PeerOption = DEFAULT_PEERS, timeout: TimeoutOption = 120.0
) -> None:
    """Make a learner a voter as soon as it has caught up, and wait for that.

    Example:

      oarlock member promote m4-0123456789abcdef --token-file token
    """
    try:
        admin = _admin(peer, token_file, timeout)
        admin.change(promoting(node_id))
        admin.wait_until(lambda now: any(m.id == node_id for m in now.voters), f"the promotion of {node_id}")
    except CommandError as e:
        fail(e)
    say(f"{node_id} is a voter")


@app.command("remove")
def remove(
    node_id: IdArgument, token_file: TokenFileOption, peer: PeerOption = DEFAULT_PEERS, timeout: TimeoutOption = 60.0
) -> None:
    """Remove a member for good: its id never returns. Stop its process afterwards.

    Example:

      oarlock member remove m4-0123456789abcdef --token-file token
    """
    try:
        changed = _admin(peer, token_file, timeout).change(removing(node_id))
    except CommandError as e:
        fail(e)
    say(f"{node_id} is removed" if changed else f"{node_id} was removed before")


@app.command("replace")
def replace(
    node_id: IdArgument,
    url: UrlArgument,
    token_file: TokenFileOption,
    peer: PeerOption = DEFAULT_PEERS,
    timeout: TimeoutOption = 300.0,
) -> None:
    """Put a new, Idle member in the place of an old one (a lost disk, another machine), in one joint change.

    The new one catches up as a learner first; the cluster never has an even number of voters on the way.

    Example:

      oarlock member replace m2-0123456789abcdef http://10.0.0.4:2380 --token-file token
    """
    try:
        admin = _admin(peer, token_file, timeout)
        new = member_of(_newcomer(admin, url), promote=False)
        _, status = admin.leader()
        configuration = status.configuration
        assert configuration is not None, "a leader has a configuration"
        known = {m.id for m in (*configuration.voters, *configuration.learners)}
        if node_id not in known and node_id not in configuration.tombstones:
            raise CommandError(f"{node_id} is no member of this cluster: `oarlock member list` shows who is")
        admin.change(adding([new]))
        say(f"{new.id} is a learner, and catches up")
        admin.change(swapping(node_id, new), wait_on=("not_caught_up",))
    except CommandError as e:
        fail(e)
    say(f"{new.id} is a voter in the place of {node_id}")
    typer.echo(new.id)


@app.command("transfer")
def transfer(
    node_id: IdArgument, token_file: TokenFileOption, peer: PeerOption = DEFAULT_PEERS, timeout: TimeoutOption = 15.0
) -> None:
    """Hand leadership to a voter.

    Example:

      oarlock member transfer m2-0123456789abcdef --token-file token
    """
    try:
        admin = _admin(peer, token_file, timeout)
        url, _ = admin.leader()
        answer = admin.post(url, "/admin/transfer", {"target": node_id}, what="the transfer")
    except CommandError as e:
        fail(e)
    say(f"{answer['leader']} leads in term {answer['term']}")


@app.command("reset")
def reset(
    node_id: IdArgument,
    url: Annotated[str, typer.Argument(help="Its peer URL.", show_default=False)],
    token_file: TokenFileOption,
    timeout: TimeoutOption = 30.0,
) -> None:
    """Set a member's data aside and make it Idle under a new id. Nothing is deleted.

    It must have been removed from the cluster before, unless its data is damaged (Corrupt) or another cluster's
    (Stale). The old data stays beside the new, in the directory `quarantine-...`; delete it by hand.

    Example:

      oarlock member reset m4-0123456789abcdef http://10.0.0.4:2380 --token-file token
    """
    try:
        (target,) = split_endpoints([url])
        admin = _admin([target], token_file, timeout)
        # The same request for the same id: a repeat of one that was done gets its answer.
        body = {"request_id": f"cli.{node_id}", "node_id": node_id}
        answer = admin.post(target, "/admin/reset", body, what="the reset")
    except CommandError as e:
        fail(e)
    say(f"{node_id} is set aside in {answer['quarantine']}")
    typer.echo(answer["node_id"])
