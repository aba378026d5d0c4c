"""How hypothesis looks for examples: the same ones at every run, however slow the machine is."""

from hypothesis import HealthCheck, settings

# A busy machine is no failure, and what fails in CI fails again at home. `--hypothesis-profile=explore` looks further.
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("repeatable")
