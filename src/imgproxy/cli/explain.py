"""`imgproxy explain`: what a URL means, parameter by parameter."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from imgproxy.cli.console import ConfigOption, console, fail, load_or_fail
from imgproxy.config.secrets import signing_tokens
from imgproxy.errors import ImgproxyError

if TYPE_CHECKING:
    from imgproxy.config.settings import Settings
    from imgproxy.params.explain import Explained, Explanation

# What Chrome sends for a picture.
CHROME = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
_COLOURS = {
    "used": "green",
    "about the answer": "green",
    "changed": "yellow",
    "no effect": "yellow",
    "replaced": "yellow",
    "not here": "yellow",
    "ignored": "red",
    "unknown": "red",
    "refused": "red",
}


def explain(
    url: Annotated[str, typer.Argument(help="URL, or path and query, as it is requested.")],
    *,
    config: ConfigOption = None,
    accept: Annotated[str, typer.Option(help="The Accept header of the client; by default that of Chrome.")] = CHROME,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what each parameter of a URL came to, what was ignored and why. Exit code 1: the answer is an error."""
    from imgproxy.params.explain import explain as explained  # noqa: PLC0415 other commands start faster without it
    from imgproxy.params.negotiate import read_headers  # noqa: PLC0415
    from imgproxy.params.plan import Metadata  # noqa: PLC0415
    from imgproxy.params.request import RequestReader  # noqa: PLC0415
    from imgproxy.params.signature import as_browsers_send, target_of  # noqa: PLC0415
    from imgproxy.workers.extras import find_detector  # noqa: PLC0415

    settings = load_or_fail(config)
    target = target_of(as_browsers_send(url))
    prefix = settings.signing.mount_prefix
    reader = RequestReader(
        settings.url,
        mount_prefix=prefix,
        metadata=Metadata(settings.render.metadata),
        finds_faces=find_detector() is not None,
    )
    try:
        found = explained(target, read_headers(accept), reader=reader, settings=settings.url, mount_prefix=prefix)
    except ImgproxyError as error:
        fail(error.public, 1)
    verdict, is_accepted = _signature(target, settings)
    if json_:
        document = {**found.as_json(), "signature": verdict}
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
    else:
        _print(found, verdict)
    raise typer.Exit(0 if found.error is None and is_accepted else 1)


def _signature(target: str, settings: Settings) -> tuple[str, bool]:
    """Return the verdict on the signature in words, and whether a request passes."""
    from imgproxy.params.signature import has_signature, verify  # noqa: PLC0415

    signing = settings.signing
    tokens = signing_tokens(signing)
    if not has_signature(target):
        return ("missing: the answer is 403", False) if signing.required else ("none, and none is required", True)
    if not tokens:
        return "cannot be checked: [signing] has no tokens", not signing.required
    is_valid = verify(target, tokens, mount_prefix=signing.mount_prefix, allow_decoded_path=signing.allow_decoded_path)
    if is_valid:
        return "valid", True
    if not signing.required:
        return "wrong, but none is required", True
    return "wrong: the answer is 403. It is made over path and query exactly as they are sent", False


def _print(found: Explanation, verdict: str) -> None:
    console.print(Text.assemble(("key        ", "bold"), found.key), soft_wrap=True)
    console.print(Text.assemble(("signature  ", "bold"), verdict), soft_wrap=True)
    if found.expires_at_s is not None:
        console.print(Text.assemble(("expires    ", "bold"), _moment(found.expires_at_s)), soft_wrap=True)
    if found.error is not None:
        text = f"{found.error.status} {found.error.code}: {found.error.public}"
        console.print(Text.assemble(("answer     ", "bold"), (text, "red")), soft_wrap=True)
    else:
        plan = "none: the bytes of the original" if found.plan is None else found.plan
        console.print(Text.assemble(("plan       ", "bold"), plan), soft_wrap=True)
    if found.digest is not None:
        console.print(Text.assemble(("variant    ", "bold"), found.digest), soft_wrap=True)
    if found.vary:
        console.print(Text.assemble(("varies by  ", "bold"), ", ".join(found.vary)), soft_wrap=True)
    if found.parameters:
        console.print()
        console.print(_table(found.parameters))


def _table(lines: tuple[Explained, ...]) -> Table:
    table = Table(
        Column("parameter", overflow="fold"),
        Column("from"),
        Column("came to", overflow="fold"),
        Column("effect", no_wrap=True),
        Column("why", overflow="fold"),
        box=None,
        header_style="bold",
    )
    for line in lines:
        given = Text(f"{line.name}={line.text}")
        effect = Text(str(line.effect), style=_COLOURS[line.effect])
        table.add_row(given, Text(line.source), Text(line.value or ""), effect, Text(line.why))
    return table


def _moment(at_s: int) -> str:
    try:
        return datetime.fromtimestamp(at_s, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")
    except (OverflowError, ValueError):
        return f"{at_s} (Unix time)"
