"""For all tests."""

import os
import time

import pytest

# Routers of Serve outlive the cluster they belong to. Asked for their metrics they would start a cluster of their own
# in the middle of the next test, and wait for it for ever.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--until", type=float, help="Unix time after which tests are skipped by name")


def pytest_runtest_setup(item: pytest.Item) -> None:
    until = item.config.getoption("--until")
    if until is not None and time.time() > until:
        pytest.skip("out of time: not begun")
