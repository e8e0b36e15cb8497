"""Chaos runs on the loop that production runs on; `long` are the scenarios that `make test` has no time for. It takes
one of them a run, in turn."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import uvloop


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--turn", type=int, help="of the long scenarios only this one, counted round")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: run by `make test-long PART=chaos`, and in turn by `make test`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    turn = config.getoption("--turn")
    long = [item for item in items if item.get_closest_marker("long")]
    if turn is None or not long:
        return
    others = [item for item in long if item is not long[turn % len(long)]]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], Any]]:
    return {"uvloop": uvloop.new_event_loop}
