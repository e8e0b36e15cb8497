"""The runner never calls a run good that was not: every way to miss a tier is a failure, or is said."""

from __future__ import annotations

import ast
import pathlib
import sys

import pytest
from tests import run
from tests.mutants.planted import ROOT, bugs
from tests.run import CannotRun, NotPrepared, Result, Tier
from tests.tools import evidence


@pytest.fixture(autouse=True)
def logs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setattr(run, "LOGS", tmp_path)
    return tmp_path


def tier(*command: str, needs=(), budget: float = 1.0) -> Tier:
    return Tier("t", budget, (), needs=needs, command=lambda report: [*command, str(report)])


def pytest_of(path: pathlib.Path, text: str) -> Tier:
    file = path / "test_it.py"
    file.write_text(text)
    options = ["-q", "-p", "no:cacheprovider", str(file)]
    return Tier("t", 1, (), command=lambda report: [sys.executable, "-m", "pytest", f"--junitxml={report}", *options])


def test_passed_failed_and_skipped_are_counted_apart(tmp_path: pathlib.Path) -> None:
    result = run.run(
        pytest_of(
            tmp_path,
            "import pytest\n"
            "def test_good(): pass\n"
            "def test_bad(): assert False\n"
            "@pytest.mark.skip(reason='no etcd')\n"
            "def test_absent(): pass\n",
        )
    )
    assert (result.state, result.passed, result.failed, result.skipped) == ("failed", 1, 1, 1)
    assert result.skips == ["test_absent: no etcd"]


def test_a_tier_without_a_test_has_failed(tmp_path: pathlib.Path) -> None:
    assert run.run(pytest_of(tmp_path, "")).state == "failed"
    assert run.run(tier("true")).why == "not one test ran"


def test_a_tier_whose_tests_are_missing_has_failed() -> None:
    result = run.run(Tier("t", 1, ("tests/no-such-place",)))
    assert (result.state, result.why) == ("failed", "tests/no-such-place is missing")


def test_what_could_be_had_and_was_not_is_a_failure_and_what_could_not_is_told(capsys: pytest.CaptureFixture) -> None:
    def refuse(error: Exception):
        def need() -> None:
            raise error

        return need

    failed = run.run(tier("true", needs=(refuse(NotPrepared("the build broke")),)))
    absent = run.run(tier("true", needs=(refuse(CannotRun("needs root")),)))
    assert (failed.state, absent.state) == ("failed", "cannot")
    good = Result(tier(), passed=3)
    assert run.summary([good, absent]) == 0
    assert "tiers that this machine cannot run: t" in capsys.readouterr().out
    assert run.summary([good, failed]) == 1
    assert capsys.readouterr().out.endswith("3 passed, 1 failed, 0 skipped\n")
    assert run.summary([absent]) == 1, "a run of nothing is no success"


def test_a_tier_that_hangs_is_ended() -> None:
    result = run.run(Tier("t", 0.001, (), command=lambda report: ["sleep", "60"]))
    assert result.state == "failed"
    assert result.why.startswith("ended after")


def test_evidence_is_stale_once_a_tree_differs() -> None:
    then = dict.fromkeys(("node", "operator", "tests/e2e/trial.py"), "a")
    assert evidence.stale(then, dict(then)) == []
    assert evidence.stale(then, {**then, "node": "b"}) == ["node"]
    assert evidence.stale({}, then) == sorted(then)
    assert evidence.stale({**then, "gone": "a"}, then) == ["gone"]


def imported(*files: pathlib.Path) -> set[str]:
    """Of the files at the top of tests/: those that these import, directly or not."""
    seen: set[pathlib.Path] = set()
    left = list(files)
    while left:
        if (file := left.pop()) not in seen:
            seen.add(file)
            modules: list[str] = []
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom):
                    modules += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
                elif isinstance(node, ast.Import):
                    modules += [alias.name for alias in node.names]
            paths = [ROOT / f"{name.replace('.', '/')}.py" for name in modules if name.startswith("tests.")]
            left += [path for path in paths if path.is_file()]
    return {f"tests/{file.name}" for file in seen if file.parent == ROOT / "tests"}


def test_evidence_rests_on_every_helper_that_its_tests_import() -> None:
    """A judge that has become weaker must not keep its old verdicts."""
    simulation = sorted((ROOT / "tests/simulation").glob("*.py"))
    hunters = {ROOT / bug.test.partition("::")[0] for bug in bugs() if bug.test}
    assert imported(*simulation) == {"tests/judge.py", "tests/majorities.py", "tests/simdisk.py", "tests/wgl.py"}
    for part, files in (("soak", simulation), ("mutants", [*simulation, *hunters])):
        assert imported(*files) == {source for source in evidence.SOURCES[part] if source.endswith(".py")}, part


def test_evidence_rests_on_the_product_its_judges_and_its_own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the other scenarios, nor on what below a starred place is no such file."""
    committed = ["node", "charts", "tests/e2e/trial.py", "tests/e2e/promises.toml", "tests/kube"]
    committed += ["tests/e2e/scenarios", "tests/e2e/scenarios/helm.py", "tests/e2e/scenarios/nodes.py"]

    def git(command: str, *arguments: str) -> str:
        assert command == "ls-tree"
        if "--name-only" in arguments:
            below = arguments[-1]
            return "\n".join(name for name in committed if name.startswith(below) and "/" not in name[len(below) :])
        return "\n".join(f"100644 blob {name[:4]:0<40}\t{name}" for name in arguments if name in committed)

    monkeypatch.setattr(evidence, "git", git)
    found = evidence.sources("e2e", "tests/e2e/scenarios/helm.py")
    assert set(found) == {"node", "charts", "tests/e2e/trial.py", "tests/kube", "tests/e2e/scenarios/helm.py"}
    assert found["node"] == f"{'node':0<40}"
