"""What all tests share: how hypothesis looks for examples (the same ones at every run), and a real PostgreSQL."""

from hypothesis import HealthCheck, settings

from tests.support.postgres import database_url, own_server, postgres_server

__all__ = ["database_url", "own_server", "postgres_server"]

# A busy machine is no failure, and what fails in CI fails again at home. `--hypothesis-profile=explore` looks further.
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("repeatable")
