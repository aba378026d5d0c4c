"""
Writes the pages of the reference that list what the code declares: configuration, problems, metrics, runbooks.

`python -m tools.reference_pages` writes them. A test fails where one is stale.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_origin

from pydantic_core import PydanticUndefined

from imgproxy.config.settings import Settings
from imgproxy.config.wording import allowed, as_toml, section_class
from imgproxy.errors import ImgproxyError
from tools import alert_rules, metrics_page

# The errors of these modules are in the tree only after they are imported.
from imgproxy.edge import errors as _edge_errors  # noqa: F401 isort:skip
from imgproxy.medialibrary import errors as _library_errors  # noqa: F401 isort:skip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

DOCS: Final = Path(__file__).parents[1] / "docs"
REMEDIES: Final[dict[str, str]] = tomllib.loads(Path(__file__).with_name("remedies.toml").read_text("utf-8"))

_CONFIGURATION: Final = """\
# Configuration

<!-- written by `python -m tools.reference_pages` from src/imgproxy/config -->

A TOML file (`imgproxy serve -c FILE`), variables of the environment, or both: a variable wins over the file.
The variable of `[server] port` is `IMGPROXY_SERVER__PORT`. Lists and tables are written as JSON there.
`imgproxy check -c FILE` validates the whole, and tries what it names. `imgproxy check --example` prints a
file with every setting.
"""
_PROBLEMS: Final = """\
# Problems

<!-- written by `python -m tools.reference_pages` from the trees of errors -->

An error is answered as JSON ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)):

```json
{"type": "urn:imgproxy:problem:revoked", "title": "Revoked", "status": 403, "detail": "This image was revoked, …"}
```

`type` is stable, and scripts may depend on it. `detail` is for people. The access log has the same word as `code`,
with underscores. `Cache-Control` and `Retry-After` say whether and when to ask again.

| status | type, after `urn:imgproxy:problem:` | when | what to do |
|---|---|---|---|
"""


def pages() -> dict[str, str]:
    """Return each page by its file name."""
    return {
        "configuration.md": configuration(),
        "problems.md": problems(),
        "metrics.md": metrics_page.page(),
        "runbooks.md": alert_rules.runbooks(),
    }


def configuration() -> str:
    """Return the page with every setting."""
    parts = [_CONFIGURATION]
    for name, info in Settings.model_fields.items():
        section = section_class(info)
        if section is None:
            continue
        heading = f"[[{name}]]" if get_origin(info.annotation) is tuple else f"[{name}]"
        parts.append(f"## `{heading}`\n\n{(section.__doc__ or '').strip()}\n")
        rows = "\n".join(_setting(key, setting) for key, setting in section.model_fields.items())
        parts.append(f"| setting | value | default | meaning |\n|---|---|---|---|\n{rows}\n")
    return "\n".join(parts)


def _setting(key: str, setting: FieldInfo) -> str:
    default = setting.get_default(call_default_factory=True)
    shown = "" if default is None or default is PydanticUndefined else f"`{as_toml(default)}`"
    cells = (f"`{key}`", allowed(setting), shown, setting.description or "")
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def problems() -> str:
    """Return the page with every error that a client can get."""
    rows = [
        f"| {error.status} | `{error.code.replace('_', '-')}` | {_cell(_first_paragraph(error))} | "
        f"{_cell(REMEDIES[error.code])} |"
        for error in sorted(every_error(), key=lambda error: (error.status, error.code))
    ]
    return _PROBLEMS + "\n".join(rows) + "\n"


def every_error() -> Iterator[type[ImgproxyError]]:
    """Give one class for each code: the one that declares it."""
    seen: set[str] = set()
    pending = [ImgproxyError]
    while pending:
        error = pending.pop(0)
        pending += error.__subclasses__()
        if error.code not in seen and error.__module__.startswith("imgproxy."):
            seen.add(error.code)
            yield error


def _first_paragraph(error: type[ImgproxyError]) -> str:
    return " ".join((error.__doc__ or "").strip().partition("\n\n")[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text, "utf-8")
