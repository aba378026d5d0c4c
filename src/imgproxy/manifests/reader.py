"""
The process that reads the credentials of one picture, for `imgproxy media credentials`.

    python -m imgproxy.manifests.reader FILE MEDIA-TYPE [TRUST-ANCHORS]

It has the limits of the builder, and prints one JSON object: {"summary": …}, {"none": true} or {"unreadable": text}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import c2pa

from imgproxy.manifests.limits import limit_process
from imgproxy.manifests.source import make_context, read_store
from imgproxy.manifests.summary import printable, summary


def read(path: str, content_type: str, anchors: str) -> dict[str, Any]:
    """
    Return what the manifests of a file say, in the form that is printed.

    Raises OSError if the file cannot be read.
    """
    with open(path, "rb") as file:
        try:
            return {"summary": summary(read_store(file, content_type, make_context(anchors)))}
        except (c2pa.C2paError.ManifestNotFound, c2pa.C2paError.NotSupported):
            return {"none": True}
        except c2pa.C2paError as error:
            return {"unreadable": printable(error)}


def main() -> None:
    """Read the file that the arguments name."""
    limit_process()
    path, content_type, *rest = sys.argv[1:]
    anchors = Path(rest[0]).read_text("utf-8") if rest else ""
    json.dump(read(path, content_type, anchors), sys.stdout)


if __name__ == "__main__":
    main()
