"""
A URL explained: what each parameter came to, what was ignored and why, and the plan. For people; no request needs it.

A parameter has no effect if the plan is the same without it. So this needs no list of rules of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from imgproxy.errors import BadParameter, ImgproxyError
from imgproxy.params import table
from imgproxy.params.kinds import NeverValid
from imgproxy.params.parse import known_name, parse_query, split_target
from imgproxy.params.plan import describe
from imgproxy.params.table import delivery

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from imgproxy.params.negotiate import ClientHeaders
    from imgproxy.params.parameter import Parameter
    from imgproxy.params.plan import RenderPlan
    from imgproxy.params.request import ImageRequest, RequestReader, UrlOptions


class Effect(StrEnum):
    """What became of a parameter."""

    USED = "used"
    CHANGED = "changed"  # brought into its range, or without its unknown words
    NO_EFFECT = "no effect"  # the plan is the same without it
    IGNORED = "ignored"  # its text has no meaning
    UNKNOWN = "unknown"
    NOT_HERE = "not here"  # a feature of imgix that this service does not have
    REPLACED = "replaced"  # the same parameter comes again in the URL, or as base64
    REFUSED = "refused"  # the URL is answered with 400 because of it
    ABOUT_THE_ANSWER = "about the answer"  # a signature, a time, a file name: no pixels


@dataclass(frozen=True, slots=True)
class Explained:
    """
    One parameter.

    `name` and `text` are as in the URL, decoded. `parameter` is its proper name, None if it is unknown. `source` is
    `url`, `preset NAME` or `default`. `value`: what its text came to. `why` completes "because".
    """

    name: str
    text: str
    effect: Effect
    source: str = "url"
    parameter: str | None = None
    value: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """
    A URL. `plan` is the canonical text, None for the bytes of the original; `digest` names the variant.

    `error` is what a request is answered with, None if the URL is valid. Then `parameters` may be incomplete.
    """

    key: str
    parameters: tuple[Explained, ...]
    plan: str | None
    digest: str | None
    vary: tuple[str, ...]
    expires_at_s: int | None
    download_name: str | None
    error: ImgproxyError | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the public form."""
        return {
            "key": self.key,
            "parameters": [
                {
                    "name": item.name,
                    "text": item.text,
                    "effect": str(item.effect),
                    "source": item.source,
                    "parameter": item.parameter,
                    "value": item.value,
                    "why": item.why,
                }
                for item in self.parameters
            ],
            "plan": self.plan,
            "digest": self.digest,
            "vary": list(self.vary),
            "expires": self.expires_at_s,
            "download": self.download_name,
            "error": None if self.error is None else {"code": self.error.code, "detail": self.error.public},
        }


_NO_PLAN: Final = "the bytes of the original"


def explain(
    raw_target: str, headers: ClientHeaders, *, reader: RequestReader, settings: UrlOptions, mount_prefix: str = ""
) -> Explanation:
    """
    Explain a request target: path and query, percent-encoded.

    Raises:
        BadUrl, UriTooLong: the path is not a key, or the target is too long.
    """
    key, crop, raw_query = split_target(raw_target, mount_prefix=mount_prefix, max_chars=settings.max_url_chars)
    error: ImgproxyError | None = None
    found: ImageRequest | None = None
    try:
        found = reader.read(raw_target, headers, is_remembered=False)
    except ImgproxyError as refusal:
        error = refusal
    path = raw_target.partition("?")[0]
    pairs = [pair for pair in raw_query.split("&") if pair]
    lines: list[Explained] = []
    for place, pair in enumerate(pairs):
        line = _line(pair, pairs[place + 1 :])
        if found is not None and line.effect in (Effect.USED, Effect.CHANGED):
            without = "&".join(pairs[:place] + pairs[place + 1 :])
            if _plan(f"{path}?{without}", headers, reader) == found.plan:
                line = replace(line, effect=Effect.NO_EFFECT, why=_why_without_effect(line, found.plan))
        if isinstance(error, BadParameter) and error.name in (line.name, line.parameter):
            line = replace(line, effect=Effect.REFUSED, why=f"expected {error.expected}")
        lines.append(line)
    if crop is not None:
        lines.append(Explained("C=W..,H..,X..,Y..", crop, Effect.USED, "path", "rect", crop))
    lines += _configured(raw_query, settings)
    plan = found.plan if found is not None else None
    return Explanation(
        key=key,
        parameters=tuple(lines),
        plan=plan.canonical() if plan is not None else None,
        digest=plan.digest if plan is not None else None,
        vary=found.vary if found is not None else (),
        expires_at_s=found.expires_at_s if found is not None else None,
        download_name=found.download_name if found is not None else None,
        error=error,
    )


def _line(pair: str, later: list[str]) -> Explained:
    """Explain one pair of a query by its text alone. `later` are the pairs after it."""
    try:
        texts, unknown = parse_query(pair)
    except BadParameter as refusal:
        return Explained(refusal.name, refusal.value, Effect.REFUSED, why=f"expected {refusal.expected}")
    raw_name, _, raw_text = pair.partition("=")
    if unknown:
        name, text = unknown[0]
        return Explained(name, text, Effect.UNKNOWN, why=f"expected {known_name(name)}")
    if not texts:
        why = "it has no value" if not raw_text else "this service does not have this feature of imgix"
        return Explained(raw_name, raw_text, Effect.IGNORED if not raw_text else Effect.NOT_HERE, why=why)
    ((row_name, text),) = texts.items()
    row = table.BY_NAME[row_name]
    line = Explained(raw_name, text, Effect.USED, parameter=row_name)
    if not row.adds_up and any(_names(other, row) for other in later):
        return replace(line, effect=Effect.REPLACED, why=f"`{row_name}` comes again later in the URL")
    return _valued(line, row)


def _valued(line: Explained, row: Parameter[Any]) -> Explained:
    """Say what the text of a known parameter came to."""
    try:
        value, is_exact = row.kind.read(line.text)
    except NeverValid:
        return replace(line, effect=Effect.REFUSED, why=f"expected {row.kind.expected}")
    if value is None:
        return replace(line, effect=Effect.IGNORED, why=f"expected {row.kind.expected}")
    line = replace(line, value=describe(value))
    if not row.is_rendering:
        return replace(line, effect=Effect.ABOUT_THE_ANSWER)
    if not is_exact:
        return replace(line, effect=Effect.CHANGED, why=f"expected {row.kind.expected}")
    return line


def _names(pair: str, row: Parameter[Any]) -> bool:
    """Whether a pair of a query has a text for this parameter."""
    try:
        return row.name in parse_query(pair)[0]
    except BadParameter:
        return False


def _plan(raw_target: str, headers: ClientHeaders, reader: RequestReader) -> RenderPlan | ImgproxyError | None:
    """Return the plan of a target, or the error that it is answered with. An error is unlike every plan."""
    try:
        return reader.read(raw_target, headers, is_remembered=False).plan
    except ImgproxyError as error:
        return error


def _why_without_effect(line: Explained, plan: RenderPlan | None) -> str:
    row = table.BY_NAME[line.parameter or line.name]
    what = "the plan" if plan is not None else _NO_PLAN
    default = f" (the default is {row.default})" if row.default else ""
    return f"{what} would be the same without it{default}"


def _configured(raw_query: str, settings: UrlOptions) -> Iterator[Explained]:
    """Explain the parameters of presets and defaults that the URL does not replace."""
    try:
        given, _ = parse_query(raw_query)
    except BadParameter:
        return
    names, _ = delivery.PRESET.kind.read(given.get(delivery.PRESET.name, ""))
    layers: list[tuple[str, Mapping[str, str]]] = [("default", settings.defaults)]
    for name in names or ():
        if name in settings.presets:
            layers.append((f"preset {name}", settings.presets[name]))
        else:
            yield Explained(name, "", Effect.UNKNOWN, "preset", why="expected a name from [url] presets")
    for place, (source, layer) in enumerate(layers):
        above = [given, *(later for _, later in layers[place + 1 :])]
        for name, text in layer.items():
            row = table.BY_NAME[name]
            line = _valued(Explained(name, text, Effect.USED, source, name), row)
            if not row.adds_up and any(name in over for over in above):
                line = replace(line, effect=Effect.REPLACED, why="the URL, or a later preset, says otherwise")
            yield line
