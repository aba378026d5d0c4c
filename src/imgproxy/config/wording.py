"""The declaration of a setting in words, for error messages and for config.example.toml."""

from __future__ import annotations

import difflib
import json
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

_TYPE_NAMES = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
    SecretStr: "text",
    IPv4Network: "IPv4 network",
    IPv6Network: "IPv6 network",
}


def section_class(info: FieldInfo) -> type[BaseModel] | None:
    """Return the class of a section, or of the members of a list of sections."""
    candidates = (info.annotation, *get_args(info.annotation))
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)


def is_secret(setting: FieldInfo) -> bool:
    """Whether the value must not be repeated in a message."""
    return "Secret" in str(setting.annotation)


def allowed(setting: FieldInfo) -> str:
    """Return in words which values are allowed: type and bounds."""
    words = type_words(setting.annotation)
    bounds = []
    for rule in setting.metadata:
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if (bound := getattr(rule, attribute, None)) is not None:
                bounds.append(f"{sign} {bound:,}".replace(",", "_"))
        if (pattern := getattr(rule, "pattern", None)) is not None:
            bounds.append(f"like {pattern}")
    return " ".join([words, *bounds])


def type_words(annotation: Any) -> str:
    """Return a type in the words of a configuration file."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return type_words(get_args(annotation)[0])
    if origin is Literal:
        return "one of " + ", ".join(json.dumps(value) for value in get_args(annotation))
    if origin is tuple:
        return f"list of {type_words(get_args(annotation)[0])}"
    if origin is dict:
        return "table"
    if origin in (Union, UnionType):
        return " or ".join(type_words(item) for item in get_args(annotation) if item is not NoneType)
    return _TYPE_NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def as_toml(value: Any) -> str:
    """Return a default as it is written in a TOML file."""
    if value is None:
        return '""'
    if value is PydanticUndefined:
        return "…"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:_}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_toml(name)} = {as_toml(item)}" for name, item in value.items()) + "}"
    return json.dumps(str(value), ensure_ascii=False)


def suggest(name: str, known: Mapping[str, object]) -> str:
    """Return the known name that is most like an unknown one, and all known names."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return (f"; did you mean {close[0]}?" if close else "") + f" (known: {', '.join(known)})"
