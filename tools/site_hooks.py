"""
Hooks of mkdocs: what the site has beside the pages of docs/.

They add the changelog, the guide for contributors, the parameters in pictures (from build/parameters, which
`tools.parameter_pictures` makes), Mermaid (from build/mermaid), and copies of the files that pages link to.
"""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from tools.parameter_tables import END
from tools.site_links import PAGES, with_site_links

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

REPOSITORY: Final = Path(__file__).parents[1]
PARAMETERS: Final = REPOSITORY / "build" / "parameters"
MERMAID: Final = REPOSITORY / "build" / "mermaid" / "mermaid.min.js"
# Where copies of other files of the repository are on the site.
COPIES: Final = "repository"
_IN_PICTURES: Final = "\nEach parameter in pictures: {links}.\n"


def on_config(config: MkDocsConfig) -> None:
    """Load Mermaid from the site itself. Without its file, drawings are shown as text: no other host is asked."""
    if MERMAID.exists():
        config.extra_javascript.append("assets/mermaid.min.js")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files that are not in docs/."""
    for path, page in PAGES.items():
        if page != "index.md":
            files.append(File.generated(config, page, abs_src_path=str(REPOSITORY / path)))
    if not PARAMETERS.is_dir():
        raise PluginError(
            "build/parameters is missing: run `make docs`, or `python -m tools.parameter_pictures build/parameters`"
        )
    for made in sorted(PARAMETERS.rglob("*.*")):
        name = made.relative_to(PARAMETERS).as_posix()
        files.append(File.generated(config, f"parameters/{name}", abs_src_path=str(made)))
    if MERMAID.exists():
        files.append(File.generated(config, "assets/mermaid.min.js", abs_src_path=str(MERMAID)))
    _add_copies(files, config)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Set the links, and link from the parameter tables to the pictures."""
    place = page.file.src_uri
    if place.startswith("parameters/"):
        return markdown
    if place == "urls.md":
        markdown = markdown.replace(END, f"{_IN_PICTURES.format(links=_picture_pages())}\n{END}")
    if not MERMAID.exists():
        markdown = markdown.replace("```mermaid", "```text")
    return with_site_links(markdown, _folder(place), place, _copy_of)


def _folder(place: str) -> str:
    return "" if place in PAGES.values() and place != "index.md" else posixpath.join("docs", posixpath.dirname(place))


def _picture_pages() -> str:
    pages = sorted(PARAMETERS.glob("*.md"))
    return ", ".join(f"[{path.stem.replace('-', ' ')}](parameters/{path.name})" for path in pages)


def _copy_of(path: str) -> str:
    """Return the place of a copy. Other files than pictures get the suffix `.txt`, so that browsers show them."""
    if (REPOSITORY / path).is_dir():
        return f"{COPIES}/{path}/index.md"
    return f"{COPIES}/{path}" if path.endswith((".svg", ".png", ".webp")) else f"{COPIES}/{path}.txt"


def _add_copies(files: Files, config: MkDocsConfig) -> None:
    """Add a copy of each file that a page links to, and a page for each folder."""
    linked: set[str] = set()

    def use(path: str) -> str:
        linked.add(path)
        return path

    for file in files.documentation_pages():
        if file.src_uri.startswith("parameters/"):
            continue
        with_site_links(file.content_string, _folder(file.src_uri), file.src_uri, use)
    for path in sorted(linked):
        source = REPOSITORY / path
        if source.is_dir():
            _add_folder(files, config, path)
        elif source.is_file():
            _add_copy(files, config, path)
        # A path that does not exist stays a broken link, and fails the build.


def _add_copy(files: Files, config: MkDocsConfig, path: str) -> None:
    place = _copy_of(path)
    if place not in files.src_uris:
        files.append(File.generated(config, place, content=(REPOSITORY / path).read_bytes()))


def _add_folder(files: Files, config: MkDocsConfig, path: str) -> None:
    lines = []
    for source in sorted((REPOSITORY / path).iterdir()):
        if source.is_file():
            _add_copy(files, config, f"{path}/{source.name}")
            lines.append(f"- [{source.name}]({posixpath.basename(_copy_of(f'{path}/{source.name}'))})")
    files.append(File.generated(config, _copy_of(path), content=f"# {path}\n\n" + "\n".join(lines) + "\n"))
