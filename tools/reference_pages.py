"""
Writes the pages of the reference that list what the code declares: configuration, problems, logs, metrics, runbooks.

`python -m tools.reference_pages` writes them. A test fails where one is stale.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args, get_origin, get_type_hints

from pydantic_core import PydanticUndefined

from imgproxy.config.settings import Settings
from imgproxy.config.wording import allowed, as_toml, section_class, type_words
from imgproxy.edge.access_line import AccessLine
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


_LOGS: Final = """\
# Logs

<!-- written by `python -m tools.reference_pages` from src/imgproxy/edge/access_line.py -->

Logs go to standard error: JSON lines on a pipe, readable lines on a terminal (`[log] format`). Each line has these
fields:

| field | meaning |
|---|---|
| `time` | UTC, ISO 8601, with milliseconds. Of a request: when it was answered |
| `level` | `debug`, `info`, `warning`, `error`, `critical`. `[log] level` is the lowest that is written |
| `logger` | the part of the service: `imgproxy.access` for requests, else the name of a module |
| `message` | one line of text |
| `traceback` | only of an error that was not expected |

Further fields are the facts of the message.

## The access log

The logger `imgproxy.access` has a line for each request, or for fewer of them (`[log] access`: `all`, `misses`,
`errors`, `none`). An answer of 5xx is a warning, every other one is info: also a 4xx, which is the client's fault. A
field without a value is left out.

| field | value | meaning |
|---|---|---|
"""
_LOGS_END: Final = """
On a terminal, and with `format = "text"`, a request is one line in this order: time, level unless it is info, status,
outcome, tier, format, milliseconds in all and of each stage, bytes, error, method, target. On a terminal it is cut to
the width. In a file the client's fields follow.

## Find a request

Every answer that has a line in the log has the header `X-Request-Id`. It is the `X-Request-Id` of the request if that
has at most 128 letters, digits and `._~+/=:@-`, else the trace id of its `traceparent`, else one that is made here.
So configure the CDN or the proxy to send one, and the same id is in the logs of both. A cache in front keeps the
header with the picture: its own hits then have the id of the request that filled it.

```sh
jq 'select(.request_id == "f058ebd6-02f7-4d3f-942e-904344e8cde5")' < imgproxy.log     # one request
jq 'select(.level == "warning" and .logger == "imgproxy.access") | {time, status, code, cause, target}' < imgproxy.log
jq -s 'sort_by(-.ms) | .[:10][] | {ms, fetch_ms, queue_ms, render_ms, target}' < imgproxy.log     # the slowest ten
```

The same in Loki: `{app="imgproxy"} | json | logger="imgproxy.access" | status >= 500`.

## The client's address

By default `client` is the address of the connection: behind a proxy, the proxy's. Name the networks of your proxies
in `[server] trusted_proxies`, and the header that they write in `client_address_header`. The list in it is read from
the right: the first address that is no trusted proxy is the client. What stands left of it was sent by the client,
and is not believed.

```toml
[server]
trusted_proxies = ["10.0.0.0/8", "fd00::/8"]
client_address_header = "X-Forwarded-For" # or "Forwarded" (RFC 7239)
```

## Secrets

The log has no header that holds a token. In `target` and `referer` the values of `s` and of parameters whose names
sound like a secret (`token`, `signature`, `password`, `session`, `api_key`, …) are `REDACTED`; so is `user:password@`
of a URL, and both in a URL that is the value of a parameter.

## When lines are written

A thread writes them, in batches, at most a twentieth of a second late; warnings at once, but not those of requests.
The service never waits for it: see [Operation](operation.md#logs) for what happens when the reader of standard error
is slow. The line of a hit takes a tenth to a fifth of the CPU time of its answer; with `access = "misses"` hits have
no line, no id, and no cost.
"""


def pages() -> dict[str, str]:
    """Return each page by its file name."""
    return {
        "configuration.md": configuration(),
        "problems.md": problems(),
        "logs.md": log_fields(),
        "metrics.md": metrics_page.page(),
        "runbooks.md": alert_rules.runbooks(),
    }


def log_fields() -> str:
    """Return the page with every field of the access log."""
    rows = [
        f"| `{name}` | {_cell(type_words(get_args(hint)[0]))} | {_cell(get_args(hint)[1])} |"
        for name, hint in get_type_hints(AccessLine, include_extras=True).items()
    ]
    return _LOGS + "\n".join(rows) + "\n" + _LOGS_END


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
