"""An instance of each error of the edge."""

from __future__ import annotations

from dataclasses import fields

from imgproxy import errors
from imgproxy.edge import errors as edge_errors
from imgproxy.errors import ImgproxyError


def every_error() -> list[ImgproxyError]:
    """One of each error of the tree, with plausible facts."""
    made = []
    pending = [ImgproxyError]
    while pending:
        cls = pending.pop()
        pending += [sub for sub in cls.__subclasses__() if sub.__module__ in (errors.__name__, edge_errors.__name__)]
        facts = {
            item.name: 3 if "int" in str(item.type) else 1.5 if "float" in str(item.type) else "Some text."
            for item in fields(cls)
        }
        made.append(cls(**facts))
    return made
