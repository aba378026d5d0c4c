"""
Renders the examples of `tools.parameter_examples` by a real edge, and writes the pages of the site that show them.

`python -m tools.parameter_pictures DIR` writes a Markdown page for each section of the parameter table to DIR, and the
pictures to DIR/pictures. It fails if a row of the table has no example, or if a parameter makes no difference.
"""

from __future__ import annotations

import asyncio
import html
import json
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from pydantic import SecretStr
from yarl import URL

import imgproxy.demo
from imgproxy.config.origin import OriginSettings
from imgproxy.config.sections import AdminSettings, CacheSettings, LogSettings, ServerSettings
from imgproxy.config.settings import Settings
from imgproxy.edge.app import Edge
from imgproxy.medialibrary.server import AccessToken, EmbeddedLibrary
from imgproxy.params.table import SECTIONS
from tools.parameter_examples import EXAMPLES, Example, NoPicture

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imgproxy.params.parameter import Parameter

PHOTOS: Final = Path(imgproxy.demo.__file__).parent / "photos"
SUFFIXES: Final = {
    "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/gif": "gif", "image/avif": "avif",
}  # fmt: skip
_HEAD: Final = """\
# {title} in pictures

Each picture is rendered by the service when this page is built, from a sample photo of the demo. Left without the
parameter, right with it. Ranges and defaults are in [Image URLs](../urls.md#{anchor}).
"""


class IncompleteExamples(Exception):
    """Rows without an example, examples without a row, or examples that show nothing."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What an URL gave: text, or the name of a picture file with its size in bytes and its media type."""

    query: str
    media_type: str
    size_bytes: int
    file: str = ""
    text: str = ""


def check_complete(rows: Iterable[str], examples: Iterable[str]) -> None:
    """
    Compare the names of the table with those of the examples.

    Raises:
        IncompleteExamples: they differ.
    """
    wanted, found = set(rows), set(examples)
    missing, unknown = sorted(wanted - found), sorted(found - wanted)
    if missing:
        raise IncompleteExamples(f"tools/parameter_examples.py has no example for {', '.join(missing)}")
    if unknown:
        raise IncompleteExamples(f"tools/parameter_examples.py has examples for {', '.join(unknown)}: not in the table")


def page_name(title: str) -> str:
    """Return the file name of a section's page: `Frame, mask and trim` is `frame-mask-and-trim.md`."""
    return f"{_slug(title)}.md"


def page(title: str, parameters: Iterable[Parameter[Any]], shown: Mapping[str, tuple[Shown, Shown]]) -> str:
    """Return the page of a section."""
    parts = [_HEAD.format(title=title, anchor=_slug(title))]
    for row in parameters:
        example = EXAMPLES[row.name]
        aliases = f" ({', '.join(f'`{alias}`' for alias in row.aliases)})" if row.aliases else ""
        parts.append(f"## `{row.name}`{aliases} {{: #{row.name} }}\n\n{row.effect}\n")
        if isinstance(example, NoPicture):
            parts.append(f"*No picture: {example.why[0].lower()}{example.why[1:]}*\n")
            continue
        without, with_it = shown[row.name]
        figures = _figure(example.key, without, "without") + _figure(example.key, with_it, f"with {example.added}")
        parts.append(f'<div class="pair">{figures}</div>\n')
        if example.note:
            parts.append(f"{example.note}\n")
    return "\n".join(parts)


def _figure(key: str, shown: Shown, alt: str) -> str:
    url = html.escape(f"?{shown.query}") if shown.query else "the original"
    kind = SUFFIXES.get(shown.media_type, shown.media_type.partition("/")[2]).upper()
    name = html.escape(key.rpartition("/")[2])
    if shown.text:
        body = f"<pre><code>{html.escape(shown.text)}</code></pre>"
    else:
        body = f'<img src="pictures/{shown.file}" alt="{name} {html.escape(alt)}" loading="lazy">'
    return f"<figure>{body}<figcaption><code>{url}</code> {kind}, {_size(shown.size_bytes)}</figcaption></figure>"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1000:.1f} kB" if size_bytes >= 1000 else f"{size_bytes} bytes"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


async def show_all(folder: Path) -> dict[str, tuple[Shown, Shown]]:
    """
    Start a library and an edge, fetch every example, and write the pictures to the folder.

    Raises:
        IncompleteExamples: an answer is no picture, or is the same with and without the parameter.
    """
    shown: dict[str, tuple[Shown, Shown]] = {}
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as work:
        async with EmbeddedLibrary(
            PHOTOS, tokens=[AccessToken("library-token")], state_dir=Path(work, "library")
        ) as library:
            settings = Settings(
                server=ServerSettings(port=0),
                origin=OriginSettings(url=library.url, token=SecretStr(library.token), timeout_s=60),
                admin=AdminSettings(token=SecretStr("not-used-by-this-tool")),
                cache=CacheSettings(dir=Path(work, "cache"), min_free_bytes=0),
                log=LogSettings(access="none"),
            )
            async with Edge(settings) as edge, aiohttp.ClientSession() as session:
                for name, example in EXAMPLES.items():
                    if isinstance(example, Example):
                        try:
                            shown[name] = await _show_pair(session, edge.url, folder, name, example)
                        except IncompleteExamples as problem:
                            problems.append(str(problem))
    if problems:
        raise IncompleteExamples("\n  ".join(("examples that show nothing:", *problems)))
    return shown


async def _show_pair(
    session: aiohttp.ClientSession, url: str, folder: Path, name: str, example: Example
) -> tuple[Shown, Shown]:
    without, before = await _show(session, url, folder / f"{name}-without", example, example.without)
    with_it, after = await _show(session, url, folder / name, example, example.query)
    if before == after:
        raise IncompleteExamples(f"{name}: ?{example.query} is the same as ?{example.without}")
    return without, with_it


async def _show(
    session: aiohttp.ClientSession, url: str, path: Path, example: Example, query: str
) -> tuple[Shown, bytes]:
    """Fetch one URL. Returns what it gave, and its bytes."""
    target = URL(f"{url}/{example.key}?{query}", encoded=True)
    async with session.get(target, headers={"Accept": example.accept}) as answer:
        body = await answer.read()
        if answer.status != 200:
            raise IncompleteExamples(f"?{query}: {answer.status} {body[:200]!r}")
        media_type = answer.content_type
    if media_type not in SUFFIXES:
        return Shown(query, media_type, len(body), text=_shortened(body.decode(), lines_max=24)), body
    file = path.with_name(f"{path.name}.{SUFFIXES[media_type]}")
    file.write_bytes(body)
    return Shown(query, media_type, len(body), file=file.name), body


def _shortened(text: str, *, lines_max: int) -> str:
    """Return the text; of JSON a line for each value, without long ones such as EXIF. At most `lines_max` lines."""
    try:
        found = json.loads(text)
    except ValueError:
        lines = text.strip().splitlines()
    else:
        kept = {name: value for name, value in found.items() if not isinstance(value, dict)}
        lines = json.dumps(kept, indent=1, ensure_ascii=False).splitlines()
    return "\n".join(lines if len(lines) <= lines_max else [*lines[:lines_max], "…"])


def write(folder: Path) -> None:
    """Write all pages and pictures to a folder, which is made anew."""
    check_complete((row.name for _, rows in SECTIONS for row in rows), EXAMPLES)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "pictures").mkdir(parents=True)
    shown = asyncio.run(show_all(folder / "pictures"))
    for title, rows in SECTIONS:
        (folder / page_name(title)).write_text(page(title, rows, shown), "utf-8")


if __name__ == "__main__":
    try:
        write(Path(sys.argv[1]))
    except IncompleteExamples as problem:
        sys.exit(f"parameter_pictures: {problem}")
