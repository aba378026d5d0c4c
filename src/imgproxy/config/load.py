"""
Reads the configuration from a TOML file and the environment.

The environment (`IMGPROXY_CACHE__MAX_BYTES=1000`) wins over the file, and the file over the defaults.
"""

from __future__ import annotations

import logging
import os
import tomllib
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from imgproxy.config.environment import read_environment
from imgproxy.config.problems import explain
from imgproxy.config.secrets import read_text
from imgproxy.config.settings import Settings, contradictions
from imgproxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


log = logging.getLogger(__name__)

# Settings of earlier versions that nothing reads any more. They are dropped, so that an old file still starts.
RETIRED: Final = (("cache", "landing_bytes"),)


def load(path: Path | None, environ: Mapping[str, str] | None = None) -> Settings:
    """
    Read the file, if there is one, and the environment (by default that of the process), and validate both.

    Raises:
        ConfigError: one line for each problem, with section, key and what is allowed.
    """
    tree = _read_toml(path) if path is not None else {}
    from_environment, problems = read_environment(os.environ if environ is None else environ)
    _merge(tree, from_environment)
    _drop_retired(tree)
    try:
        settings = Settings(**tree)
    except ValidationError as exc:
        wrong = exc.errors()
        problems += [explain(error) for error in wrong]
        # The valid sections are checked for contradictions now, so that all problems are in one message.
        settings = Settings(**{name: tree[name] for name in tree.keys() - {str(error["loc"][0]) for error in wrong}})
    problems += contradictions(settings)
    if problems:
        raise ConfigError(tuple(problems))
    return settings


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path, f"the configuration file {path}"))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError((f"the configuration file {path} is not TOML: {exc}",)) from None


def _drop_retired(tree: dict[str, Any]) -> None:
    for section, name in RETIRED:
        found = tree.get(section)
        if isinstance(found, dict) and name in found:
            log.warning("[%s] %s: this setting has no effect any more and can be removed", section, name)
            del found[name]


def _merge(tree: dict[str, Any], over: dict[str, Any]) -> None:
    for name, value in over.items():
        if isinstance(value, dict) and isinstance(tree.get(name), dict):
            _merge(tree[name], value)
        else:
            tree[name] = value
