"""The tree of commands: every one explains itself, and refuses what makes no sense before it asks anybody."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from oarlock import __version__
from oarlock.cli.app import app
from oarlock.cli.output import FAILED, USAGE
from oarlock.cli.serve import STOP_SECONDS, Address

WANTED = {
    "serve",
    "dev",
    "get",
    "put",
    "delete",
    "list",
    "cluster bootstrap",
    "member list",
    "member status",
    "member add",
    "member promote",
    "member remove",
    "member replace",
    "member reset",
    "member transfer",
    "snapshot save",
}


def _commands(group: object, path: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        full = f"{path} {name}".strip()
        if hasattr(command, "commands"):
            found |= _commands(command, full)
        else:
            found[full] = command
    return found


COMMANDS = _commands(typer.main.get_command(app))


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_the_tree_is_complete() -> None:
    assert set(COMMANDS) == WANTED


@pytest.mark.parametrize("name", sorted(WANTED))
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    code, output = run(*name.split(), "--help")
    assert code == 0
    assert f"oarlock {name}" in output.replace("\n", " ")
    assert "Example" in output
    for parameter in COMMANDS[name].params:  # type: ignore[attr-defined]
        if parameter.name not in ("help", "log_level"):
            assert getattr(parameter, "help", None), f"{name}: {parameter.name} is not explained"


def test_version() -> None:
    assert run("--version") == (0, f"oarlock {__version__}\n")


LIST = ["member", "list", "--token-file", "{tmp}/token"]
SERVE = ["serve", "--data-dir", "{tmp}/data", "--cluster-token-file", "{tmp}/token"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ([*SERVE, "--name", "Bad Name"], USAGE, "no name for a member"),
        ([*SERVE, "--name", "m1", "--listen-client", "2379"], USAGE, "HOST:PORT"),
        ([*SERVE, "--name", "m1", "--listen-ops", "x:99999"], USAGE, "HOST:PORT"),
        ([*SERVE, "--name", "m1", "--peer-url", "m1:2380"], USAGE, "http://HOST:PORT"),
        ([*SERVE, "--name", "m1", "--heartbeat-ms", "900"], USAGE, "at most a third"),
        ([*SERVE[:-1], "{tmp}/absent", "--name", "m1"], FAILED, "token file"),
        (["put", "a", "b", "--file", "x"], USAGE, "not both"),
        (["put", "a", "b", "--create", "--if-match", "3"], USAGE, "exclude each other"),
        (["put", "a", "b", "-e", "nonsense"], USAGE, "is not a URL"),
        (["put", "a", "--file", "{tmp}/absent"], FAILED, "cannot be read"),
        (["get", ""], USAGE, "the key is empty"),
        ([*LIST[:-1], "{tmp}/absent"], FAILED, "token file"),
        (["get", "a", "-e", "http://127.0.0.1:1"], FAILED, "cannot be reached"),
        (["put", "a", "b", "-e", "http://127.0.0.1:1"], FAILED, "Nothing was changed."),
        (
            ["member", "list", "-p", "http://127.0.0.1:1", "--token-file", "{tmp}/token", "--timeout", "1"],
            FAILED,
            "answer",
        ),
        (["snapshot", "save", "{tmp}/out", "-e", "http://127.0.0.1:1"], FAILED, "cannot be reached"),
        (["dev", "--dir", "{tmp}/dev", "--members", "2"], USAGE, "holds 3 members"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(
    arguments: list[str], code: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oarlock.cli.http.PAUSE_SECONDS", 0.0)
    (tmp_path / "token").write_text("secret")
    for name in ("m1", "m2", "m3"):
        (tmp_path / "dev" / name).mkdir(parents=True)
    got, output = run(*[a.replace("{tmp}", str(tmp_path)) for a in arguments])
    assert got == code, output
    assert sentence in output.replace("\n", " ")
    assert "Traceback" not in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "host", "port", "url"),
    [
        ("10.0.0.1:2379", "10.0.0.1", 2379, "http://10.0.0.1:2379"),
        ("[::1]:2379", "::1", 2379, "http://[::1]:2379"),
    ],
)
def test_addresses(text: str, host: str, port: int, url: str) -> None:
    address = Address.parse(text, "--listen-client")
    assert (address.host, address.port, address.url()) == (host, port, url)


def test_wildcard_is_advertised_by_the_hosts_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box")
    for text in (":2379", "0.0.0.0:2379", "[::]:2379"):
        assert Address.parse(text, "--listen-client").url() == "http://box:2379"


def test_option_names_are_twins_of_the_environment() -> None:
    """Every setting of `serve` can come from the environment, as a pod's manifest gives it."""
    for parameter in COMMANDS["serve"].params:  # type: ignore[attr-defined]
        if parameter.name != "help":
            flag = max(parameter.opts, key=len)
            assert parameter.envvar == "OARLOCK_" + flag.removeprefix("--").replace("-", "_").upper()


def test_option_with_two_variables_names_both_when_it_is_missing() -> None:
    names = ("OARLOCK_TOKEN_FILE", "OARLOCK_CLUSTER_TOKEN_FILE")
    option = next(p for p in COMMANDS["member list"].params if p.name == "token_file")  # type: ignore[attr-defined]
    assert option.get_error_hint().endswith(f"(env var: '{names[0]}' or '{names[1]}')")


def test_systemd_unit_names_only_settings_that_exist() -> None:
    """Nobody reads the unit until it fails on somebody's machine."""
    unit = Path(__file__).parents[2] / "node/packaging/oarlock.service"
    text = unit.read_text()
    known = {parameter.envvar for parameter in COMMANDS["serve"].params}  # type: ignore[attr-defined]
    named = set(re.findall(r"\bOARLOCK_[A-Z_]+", text))
    assert {"OARLOCK_DATA_DIR", "OARLOCK_CLUSTER_TOKEN_FILE"} <= named <= known
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # configparser's own way to keep case
    parser.read_string(text)
    assert parser["Service"]["ExecStart"].split()[1:] == ["serve"]
    assert int(parser["Service"]["TimeoutStopSec"]) > STOP_SECONDS


def test_docs_name_every_command() -> None:
    page = (Path(__file__).parents[2] / "docs/cli.md").read_text()
    for name in WANTED:
        assert f"`{name}`" in page or f"`{name.split()[-1]}`" in page, name
