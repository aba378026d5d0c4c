"""What all tests share: how hypothesis looks for examples (the same ones at every run), files, and a real PostgreSQL."""

import pytest
from hypothesis import HealthCheck, settings

from tests.support.memory_disk import use_memory_disk
from tests.support.postgres import database_url, own_server, postgres_server
from tests.support.quick_check import no_libraries_tried

__all__ = ["database_url", "no_libraries_tried", "own_server", "postgres_server"]

# A busy machine is no failure, and what fails in CI fails again at home. `--hypothesis-profile=explore` looks further.
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the files of tests in memory, but for `make test-slow`."""
    if config.option.markexpr != "slow":
        use_memory_disk()
