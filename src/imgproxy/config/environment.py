"""Settings in the environment: `IMGPROXY_<SECTION>__<KEY>`, lists and tables as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast, get_origin

from pydantic_settings import EnvSettingsSource, SettingsError

from imgproxy.config.settings import Settings
from imgproxy.config.wording import is_secret, section_class, suggest, type_words
from imgproxy.secret_text import secret_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic_settings import BaseSettings

ENV_PREFIX = "IMGPROXY_"


def read_environment(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """
    Return the settings in the environment by section and key, and a line for each variable that is wrong.

    The line does not repeat the value, which may be a secret.
    """
    unknown = dict(_find_unknown(environ))
    readable, problems = {}, list(unknown.values())
    for name, value in sorted(environ.items()):
        if name in unknown:
            continue
        if not value and _is_secret(name):
            problems.append(f"environment {name}: {secret_problem(value)}; without a secret, leave the variable out")
            continue
        try:
            _MappingSource({name: value})()
        except SettingsError:
            problems.append(f"environment {name}: not JSON; {_json_words(name)}")
        else:
            readable[name] = value
    return _MappingSource(readable)(), problems


class _MappingSource(EnvSettingsSource):
    """The environment source of pydantic-settings, but over a mapping, so that tests never touch `os.environ`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        # The source reads only the fields of the model, so it needs no BaseSettings (which would read `os.environ`).
        model = cast("type[BaseSettings]", Settings)
        super().__init__(model, env_prefix=ENV_PREFIX, env_nested_delimiter="__", env_ignore_empty=True)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items()}


def _find_unknown(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Find variables that have our prefix but name no setting. A typo must not silently give the default."""
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX):
            continue
        if "__" not in name:
            if (meant := _with_two_underscores(name)) is not None:
                yield name, f"environment {name}: section and key need two underscores between them: {meant}"
            continue
        section, _, key = name[len(ENV_PREFIX) :].lower().partition("__")
        info = Settings.model_fields.get(section)
        if info is None:
            yield name, f"environment {name}: unknown section{suggest(section, Settings.model_fields)}"
            continue
        model = section_class(info)
        if model is not None and key.split("__")[0] not in model.model_fields:
            yield name, f"environment {name}: unknown key{suggest(key, model.model_fields)}"


def _is_secret(name: str) -> bool:
    """Whether a variable sets a secret. Other variables that are empty count as not set."""
    section, _, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
    info = Settings.model_fields.get(section) if name.startswith(ENV_PREFIX) else None
    model = section_class(info) if info is not None else None
    return model is not None and key in model.model_fields and is_secret(model.model_fields[key])


def _with_two_underscores(name: str) -> str | None:
    """Return the name with two underscores after the section, if that is a setting."""
    section, _, key = name[len(ENV_PREFIX) :].lower().partition("_")
    info = Settings.model_fields.get(section)
    model = section_class(info) if info is not None else None
    if model is None or key not in model.model_fields:
        return None
    return f"{ENV_PREFIX}{section.upper()}__{key.upper()}"


def _json_words(name: str) -> str:
    """Say how the list or table of this variable is written."""
    section, _, key = name[len(ENV_PREFIX) :].lower().partition("__")
    info = Settings.model_fields[section]
    model = section_class(info)
    setting = model.model_fields.get(key) if model is not None else None
    if setting is not None:
        words = type_words(setting.annotation)
        return f"expected {words}, written as JSON, e.g. " + ('{"name": "text"}' if words == "table" else '["a", "b"]')
    if get_origin(info.annotation) is tuple:
        return 'expected list of tables, written as JSON, e.g. [{"kind": "varnish", "url": "http://127.0.0.1:6081"}]'
    return f"a whole section is written as a JSON object; one setting of it: {ENV_PREFIX}{section.upper()}__KEY"
