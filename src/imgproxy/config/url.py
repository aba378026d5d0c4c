"""The section `[url]`: image URLs, and parameters that are configured for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from imgproxy.config.sections import Section
from imgproxy.params import table
from imgproxy.params.table.delivery import CH


def _canonical_parameters(given: object, *, barred: frozenset[str] = frozenset()) -> dict[str, str]:
    """Check configured URL parameters as strict mode does. Return them by the names of their rows."""
    if not isinstance(given, Mapping):
        raise ValueError('must be a table of URL parameters, such as { auto = "format" }')  # noqa: TRY004 - pydantic's way
    found: dict[str, str] = {}
    for name, value in given.items():
        row = table.BY_NAME.get(str(name))
        if row is None or not row.is_rendering or row.name in barred:
            raise ValueError(f"{name!r} is not a URL parameter that can be set here")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        try:
            _, is_exact = row.kind.read(text)
        except ValueError:
            is_exact = False
        if not is_exact:
            raise ValueError(f"{name}={text!r}: expected {row.kind.expected}")
        found[row.name] = text
    return found


def _defaults(given: object) -> dict[str, str]:
    # With `ch` as a default, the answers of all URLs would vary by client hints.
    return _canonical_parameters(given, barred=frozenset({CH.name}))


class UrlSettings(Section):
    """Image URLs and their parameters."""

    strict: bool = Field(
        False, description="answer 400 to unknown parameters and wrong values, instead of ignoring them"
    )
    ignored_header: bool = Field(
        False,
        description="answers name the parameters that were ignored or changed, in X-Imgproxy-Ignored, for those who "
        "write URLs. `imgproxy explain` says why",
    )
    defaults: Annotated[dict[str, str], BeforeValidator(_defaults)] = Field(
        {}, description="parameters for every URL that does not have them; values of `auto` are added"
    )
    presets: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")],
        Annotated[dict[str, str], BeforeValidator(_canonical_parameters)],
    ] = Field({}, description="named sets of parameters for preset=NAME")
    width_ladder_px: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = Field(
        (), description="widths that are rendered; others are raised to the next one. Empty: every width"
    )
    auto_avif: bool = Field(True, description="auto=format may choose AVIF")
    avif_max_pixels: int = Field(
        4_000_000,
        ge=0,
        description="if a variant has more pixels, auto=format makes WebP instead of AVIF; 0: no limit",
    )
    max_url_chars: int = Field(8000, ge=100, le=100_000, description="longest path and query; a longer one gets 414")

    @field_validator("width_ladder_px")
    @classmethod
    def _sort(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(steps)))
