"""Turns pydantic's errors into lines for the operator: where, what was found, what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_origin

from imgproxy.config.settings import Settings
from imgproxy.config.wording import allowed, is_secret, section_class, suggest

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails


def explain(error: ErrorDetails) -> str:
    """Return one line for one error."""
    where = error["loc"]
    section_name = str(where[0])
    info = Settings.model_fields.get(section_name)
    if info is None:
        return f"[{section_name}]: unknown section{suggest(section_name, Settings.model_fields)}"
    model = section_class(info)
    named = [str(part) for part in where[1:] if isinstance(part, str)]
    if model is None or not named:
        return f"{_place(where)}: {_section_words(error, info)}"
    key = named[0]
    place = f"{_place(where)} {key}"
    if error["type"] == "extra_forbidden" and key not in model.model_fields:
        return f"{place}: unknown key{suggest(key, model.model_fields)}"
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
    """Say what is wrong with a section as a whole. Its value is not repeated, as it may hold secrets."""
    name = error["loc"][0]
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    if get_origin(info.annotation) is tuple:
        return f"expected tables: [[{name}]] and lines of key = value, as many times as there are"
    return f"expected a table: [{name}] and lines of key = value"


def _place(where: tuple[int | str, ...]) -> str:
    """Return the section of an error. In a list of sections it has a number, counted from 1."""
    if len(where) > 1 and isinstance(where[1], int):
        return f"[[{where[0]}]] number {where[1] + 1}"
    return f"[{where[0]}]"
