"""
Links of the Markdown files, as the site needs them.

The files link to each other by their paths in the repository, so that they can be read there. The site has the pages of
`docs/` at its top, a few files from outside as pages, and copies of all other files that a page links to.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# Files outside of docs/ that are pages of the site.
PAGES: Final = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
_LINK: Final = re.compile(r"(\]\()(?![a-z]+:|#|/)([^)#\s]+)(#[^)\s]*)?(?=\))")


def with_site_links(text: str, folder: str, page: str, use: Callable[[str], str]) -> str:
    """
    Return the text of a page with links that are right on the site.

    `folder` is where the file is in the repository, `page` its place on the site. `use` is called with the path of each
    other file or folder of the repository that is linked, and returns its place on the site.
    """

    def link(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[2]))
        is_page = path.startswith("docs/")
        target = path.removeprefix("docs/") if is_page else PAGES.get(path) or use(path)
        return f"{match[1]}{posixpath.relpath(target, posixpath.dirname(page) or '.')}{match[3] or ''}"

    return _LINK.sub(link, text)
