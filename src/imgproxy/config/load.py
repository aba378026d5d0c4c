"""
The whole configuration: its sections together, read from a TOML file and the environment, and written as an example.

Order of precedence: environment (`IMGPROXY_CACHE__MAX_BYTES=1000`, lists as JSON), then the file, then the defaults.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from typing import TYPE_CHECKING, Any, get_origin

from pydantic import SecretStr, ValidationError
from pydantic_core import PydanticUndefined
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from imgproxy.config.downstream import DownstreamSettings
from imgproxy.config.sections import (
    AdminSettings,
    CacheSettings,
    FreshnessSettings,
    LimitsSettings,
    LogSettings,
    OriginSettings,
    PurgeSettings,
    RenderSettings,
    ServerSettings,
    SigningSettings,
    TagSettings,
    UrlSettings,
    WarmSettings,
    WebhookSettings,
)
from imgproxy.config.wording import allowed, as_toml, is_secret, section_class, type_words
from imgproxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

ENV_PREFIX = "IMGPROXY_"
# The header each kind of CDN reads the tags from that it is purged by.
_TAG_HEADERS = {"varnish": "xkey", "fastly": "Surrogate-Key", "cloudflare": "Cache-Tag"}


class Settings(BaseSettings):
    """Every section, validated and frozen. Made by `load`, or by hand in tests."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    server: ServerSettings = ServerSettings()
    origin: OriginSettings = OriginSettings()
    signing: SigningSettings = SigningSettings()
    admin: AdminSettings = AdminSettings()
    cache: CacheSettings = CacheSettings()
    url: UrlSettings = UrlSettings()
    render: RenderSettings = RenderSettings()
    limits: LimitsSettings = LimitsSettings()
    freshness: FreshnessSettings = FreshnessSettings()
    purge: PurgeSettings = PurgeSettings()
    webhook: WebhookSettings = WebhookSettings()
    warm: WarmSettings = WarmSettings()
    tags: TagSettings = TagSettings()
    downstream: tuple[DownstreamSettings, ...] = ()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 the signature is the library's
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed in: the environment is an argument of `load`, so that tests never touch the real one."""
        del settings_cls
        return (init_settings,)


def load(path: Path | None, environ: Mapping[str, str] | None = None) -> Settings:
    """
    Read the file, if one is given, lay the environment over it, and validate both.

    Raises:
        ConfigError: one line a problem, each with section, key and what is allowed.
    """
    tree = _read_toml(path) if path is not None else {}
    environment = dict(os.environ if environ is None else environ)
    unknown = dict(_unknown_environment(environment))
    from_environment, unreadable = _read_environment(
        {name: value for name, value in environment.items() if name not in unknown}
    )
    problems = [*unknown.values(), *unreadable]
    _merge(tree, from_environment)
    try:
        settings = Settings(**tree)
    except ValidationError as exc:
        wrong = exc.errors()
        problems += [_explain(error) for error in wrong]
        # What contradicts itself in the sections that are valid is said now, not after these are mended.
        settings = Settings(**{name: tree[name] for name in tree.keys() - {str(error["loc"][0]) for error in wrong}})
    problems += _contradictions(settings)
    if problems:
        raise ConfigError(tuple(problems))
    return settings


def secret_lines(literal: SecretStr | None, file: Path | None, *, name: str) -> tuple[str, ...]:
    """
    The secret itself, or the non-empty lines of its file.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    if file is None:
        return (literal.get_secret_value(),) if literal is not None and literal.get_secret_value() else ()
    try:
        lines = tuple(line.strip() for line in file.read_text("utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError((f"{name}: the file {file} cannot be read: {_reason(exc)}",)) from None
    if not lines:
        raise ConfigError((f"{name}: the file {file} is empty; expected the secret on its first line",))
    return lines


def signing_tokens(settings: SigningSettings) -> tuple[str, ...]:
    """The tokens of the configuration and of its file, in this order."""
    literal = tuple(token.get_secret_value() for token in settings.tokens)
    return literal + secret_lines(None, settings.tokens_file, name="[signing] tokens_file")


def webhook_secrets(settings: WebhookSettings) -> tuple[str, ...]:
    """The webhook's secrets of the configuration and of its file, in this order. Raises ConfigError."""
    literal = tuple(secret.get_secret_value() for secret in settings.secrets)
    return literal + secret_lines(None, settings.secrets_file, name="[webhook] secrets_file")


def example_toml() -> str:
    """The file `config.example.toml`: every setting with its default and one line of why."""
    lines = [
        "# Every setting of imgproxy with its default. Copy what you change; the rest may be left out.",
        "# The environment comes first: IMGPROXY_<SECTION>__<KEY>=value, lists as JSON.",
        "# Check a file with: imgproxy check -c FILE",
    ]
    for name, info in Settings.model_fields.items():
        section = section_class(info)
        if section is None:
            continue
        is_list = get_origin(info.annotation) is tuple
        lines += ["", f"# {(section.__doc__ or '').strip().splitlines()[0]}"]
        lines.append(f"# [[{name}]]  # as many as there are" if is_list else f"[{name}]")
        for key, setting in section.model_fields.items():
            lines += [f"# {setting.description} ({allowed(setting)})"]
            default = setting.get_default(call_default_factory=True)
            is_set = not is_list and default is not None and default is not PydanticUndefined
            lines.append(f"{key} = {as_toml(default)}" if is_set else f"# {key} = {as_toml(default)}")
    return "\n".join(lines) + "\n"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError((f"the configuration file {path} cannot be read: {_reason(exc)}",)) from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError((f"the configuration file {path} is not TOML: {exc}",)) from None


def _reason(exc: OSError | UnicodeDecodeError) -> str:
    return (exc.strerror or "unknown reason") if isinstance(exc, OSError) else "it is not UTF-8 text"


def _read_environment(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """
    Let pydantic-settings read IMGPROXY_SECTION__KEY out of this mapping, lists and tables as JSON.

    Returns what it found, and a line for each variable that cannot be read; its value may be a secret and is left out.
    """
    readable, problems = {}, []
    for name, value in sorted(environ.items()):
        try:
            _MappingSource(Settings, {name: value})()
        except SettingsError:
            problems.append(f"environment {name}: not JSON; {_json_words(name)}")
        else:
            readable[name] = value
    return _MappingSource(Settings, readable)(), problems


def _json_words(name: str) -> str:
    """How a list or a table is written in this variable."""
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


class _MappingSource(EnvSettingsSource):
    """pydantic-settings' environment source, over a mapping that is passed in."""

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(settings_cls, env_prefix=ENV_PREFIX, env_nested_delimiter="__", env_ignore_empty=True)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items()}


def _unknown_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Find variables that look like ours and name no section or key, so that a typo is not a silent default."""
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX):
            continue
        if "__" not in name:
            if (meant := _meant_by(name)) is not None:
                yield name, f"environment {name}: two underscores part section and key: {meant}"
            continue
        section, _, key = name[len(ENV_PREFIX) :].lower().partition("__")
        info = Settings.model_fields.get(section)
        if info is None:
            yield name, f"environment {name}: unknown section{_suggest(section, Settings.model_fields)}"
            continue
        model = section_class(info)
        if model is not None and key.split("__")[0] not in model.model_fields:
            yield name, f"environment {name}: unknown key{_suggest(key, model.model_fields)}"


def _meant_by(name: str) -> str | None:
    """The variable of the setting that this name would be with two underscores, if there is such a setting."""
    section, _, key = name[len(ENV_PREFIX) :].lower().partition("_")
    info = Settings.model_fields.get(section)
    model = section_class(info) if info is not None else None
    if model is None or key not in model.model_fields:
        return None
    return f"{ENV_PREFIX}{section.upper()}__{key.upper()}"


def _merge(tree: dict[str, Any], over: dict[str, Any]) -> None:
    for name, value in over.items():
        if isinstance(value, dict) and isinstance(tree.get(name), dict):
            _merge(tree[name], value)
        else:
            tree[name] = value


def _explain(error: ErrorDetails) -> str:
    """One line for one problem: where, what was found, what is allowed."""
    where = error["loc"]
    section_name = str(where[0])
    info = Settings.model_fields.get(section_name)
    if info is None:
        return f"[{section_name}]: unknown section{_suggest(section_name, Settings.model_fields)}"
    model = section_class(info)
    named = [str(part) for part in where[1:] if isinstance(part, str)]
    if model is None or not named:
        return f"{_place(where)}: {_section_words(error, info)}"
    key = named[0]
    place = f"{_place(where)} {key}"
    if error["type"] == "extra_forbidden" and key not in model.model_fields:
        return f"{place}: unknown key{_suggest(key, model.model_fields)}"
    setting = model.model_fields.get(key)
    if setting is None:
        return f"{place}: {error['msg']}"
    if error["type"] == "missing":
        return f"{place}: missing; expected {allowed(setting)}: {setting.description}"
    if error["type"] == "value_error":
        return f"{place}: {error['msg'].removeprefix('Value error, ')}"
    if error["type"] == "string_pattern_mismatch" and where[-1] != key:  # an item of a list, or a name in a table
        return f"{place}: {error['input']!r}: expected text like {error['ctx']['pattern']} ({setting.description})"
    found = "a secret that is not text" if is_secret(setting) else f"{error['input']!r}"
    return f"{place} = {found}: expected {allowed(setting)} ({setting.description})"


def _section_words(error: ErrorDetails, info: FieldInfo) -> str:
    """What is wrong with a section as a whole. It may hold secrets, so it is not repeated."""
    name = error["loc"][0]
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    if get_origin(info.annotation) is tuple:
        return f"expected tables: [[{name}]] and lines of key = value, as many times as there are"
    return f"expected a table: [{name}] and lines of key = value"


def _place(where: tuple[int | str, ...]) -> str:
    """The section of an error; of a list of sections, also which of them, counted from 1."""
    if len(where) > 1 and isinstance(where[1], int):
        return f"[[{where[0]}]] number {where[1] + 1}"
    return f"[{where[0]}]"


def _suggest(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return (f"; did you mean {close[0]}?" if close else "") + f" (known: {', '.join(known)})"


def _contradictions(settings: Settings) -> list[str]:
    """Settings that are each valid and cannot be meant together."""
    problems = []
    if settings.signing.required and not (settings.signing.tokens or settings.signing.tokens_file):
        problems.append("[signing] required = true: expected at least one token in tokens or tokens_file")
    if settings.origin.token is not None and settings.origin.token_file is not None:
        problems.append("[origin] token and token_file: give one of them")
    if settings.admin.token is not None and settings.admin.token_file is not None:
        problems.append("[admin] token and token_file: give one of them")
    sent = {name.lower() for name in settings.tags.headers}
    problems += [
        f'[[downstream]] kind = "{item.kind}" purges by the tags in {needed}: put it into [tags] headers'
        for item in settings.downstream
        if (needed := _TAG_HEADERS.get(item.kind)) is not None and needed.lower() not in sent
    ]
    labels = [item.label for item in settings.downstream]
    problems += [
        f"[[downstream]] name: {label!r} is there {labels.count(label)} times; each needs a name of its own"
        for label in dict.fromkeys(labels)
        if labels.count(label) > 1
    ]
    return problems
