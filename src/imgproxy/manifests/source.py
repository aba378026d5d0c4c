"""
The credentials of an original, read once: what its manifests say, and what a variant's manifest takes over.

Every manifest that can be read is taken as it is. Whether it is valid is recorded in the ingredient by the library
(C2PA 2.2, 15); an invalid one is neither mended nor left out.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import c2pa

if TYPE_CHECKING:
    from collections.abc import Iterator

INGREDIENT_ID: Final = "parent"
# The assertion about training and data mining, by its old and its new name (C2PA 1.4 A.20; CAWG 1.1).
TRAINING: Final = ("c2pa.training-mining", "cawg.training-mining")
ACTIONS: Final = ("c2pa.actions", "c2pa.actions.v2")
# How many manifests back the source type is looked for. A photograph that was edited fifty times has more.
GENERATIONS_MAX: Final = 100


class UnreadableError(Exception):
    """The original's manifest cannot be read. The text says why, for the log."""


@dataclass(frozen=True, slots=True)
class SourceCredentials:
    """
    What the variants of an original need of it.

    `ingredient` is the original as an ingredient, with all its manifests. `store` is the reader's JSON. `training` are
    the assertions about training. `source_type` is the digital source type, or empty.
    """

    ingredient: bytes
    store: dict[str, Any]
    training: tuple[dict[str, Any], ...]
    source_type: str


def make_context(anchors: str) -> c2pa.Context:
    """Return the library's settings. `anchors` are the certificates, PEM, of those who are trusted, or empty."""
    trust = {"user_anchors": anchors} if anchors else {}
    return c2pa.Context(
        c2pa.Settings.from_dict(
            {
                "builder": {"thumbnail": {"enabled": False}},
                "trust": trust,
                "verify": {
                    "verify_trust": bool(trust),
                    "verify_after_sign": False,  # the ingredient was read once already
                    "ocsp_fetch": False,
                    "remote_manifest_fetch": False,
                },
            }
        )
    )


def read_source(path: str, content_type: str, title: str, context: c2pa.Context) -> SourceCredentials:
    """
    Read the manifests of an original.

    Raises:
        UnreadableError: it has none, or they cannot be read.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        try:
            store = read_store(file, content_type, context)
            file.seek(0)
            builder = c2pa.Builder({}, context=context)
            ingredient = {"title": title, "relationship": "parentOf", "instance_id": INGREDIENT_ID}
            builder.add_ingredient(ingredient, content_type, file)
            archive = io.BytesIO()
            builder.write_ingredient_archive(INGREDIENT_ID, archive)
        except c2pa.C2paError as error:
            raise UnreadableError(str(error)) from error
    manifests = list(generations(store))
    return SourceCredentials(
        ingredient=archive.getvalue(),
        store=store,
        training=tuple(
            {"label": one["label"], "data": one["data"]}
            for one in rows(manifests[0].get("assertions"))
            if one.get("label") in TRAINING and "data" in one
        ),
        source_type=next(filter(None, map(_source_type, manifests)), ""),
    )


def read_store(file: io.BufferedReader | io.BytesIO, content_type: str, context: c2pa.Context) -> dict[str, Any]:
    """
    Return what the manifests of a file say, as the library's JSON.

    Raises c2pa.C2paError: there are none, or they cannot be read.
    """
    with c2pa.Reader(content_type, file, context=context) as reader:
        found: dict[str, Any] = json.loads(reader.json())
    if not isinstance(found.get("manifests"), dict) or found.get("active_manifest") not in found["manifests"]:
        raise c2pa.C2paError("the file has no active manifest")
    return found


def generations(store: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the manifests of a picture, the newest first, each followed by that of its parent."""
    label = store.get("active_manifest")
    seen = set[str]()
    while isinstance(label, str) and label in store["manifests"] and label not in seen and len(seen) < GENERATIONS_MAX:
        seen.add(label)
        manifest = table(store["manifests"][label])
        yield manifest
        parents = (one for one in rows(manifest.get("ingredients")) if one.get("relationship") == "parentOf")
        label = next((one.get("active_manifest") for one in parents), None)


def actions(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the actions of one manifest."""
    found = (one for one in rows(manifest.get("assertions")) if one.get("label") in ACTIONS)
    return [action for one in found for action in rows(table(one.get("data")).get("actions"))]


def rows(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list. What a stranger's manifest has in its place may have any shape."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def table(value: object) -> dict[str, Any]:
    """Return an object, or an empty one for a value of another shape."""
    return value if isinstance(value, dict) else {}


def _source_type(manifest: dict[str, Any]) -> str:
    """Return the digital source type with which a picture was created, or that its last editor has kept."""
    found = [
        action.get("digitalSourceType", "")
        for action in actions(manifest)
        if action.get("action") in ("c2pa.created", "c2pa.opened")
    ]
    return next((one for one in found if isinstance(one, str) and one), "")
