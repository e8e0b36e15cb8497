"""Chaos runs on the loop that production runs on; `long` are the scenarios that `make test` has no time for."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import uvloop


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: run by `make test-long PART=chaos` alone")


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], Any]]:
    return {"uvloop": uvloop.new_event_loop}
