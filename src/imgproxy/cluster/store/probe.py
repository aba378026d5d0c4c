"""A try of the shared store for `imgproxy check`: write, read, list and delete an object, and name a missing right."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from imgproxy.cluster.store.objects import StoreFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgproxy.cluster.store.objects import Objects

# The rights by scheme, and by what they are needed for. Sources: Amazon S3 user guide, "Required permissions for Amazon
# S3 API operations"; Google Cloud Storage, "IAM permissions"; Azure, "Authorize access to blobs".
RIGHTS: Final = {
    "s3": {"write": "s3:PutObject", "read": "s3:GetObject", "list": "s3:ListBucket", "delete": "s3:DeleteObject"},
    "gs": {
        "write": "storage.objects.create",
        "read": "storage.objects.get",
        "list": "storage.objects.list",
        "delete": "storage.objects.delete",
    },
    "az": dict.fromkeys(("write", "read", "list", "delete"), "the role Storage Blob Data Contributor"),
}
_DATA: Final = b"imgproxy check"


async def try_store(objects: Objects, *, scheme: str, prefix: str) -> list[str]:
    """
    Try every operation that an edge needs. Return a line for each that fails; empty if all work.

    Nothing more is tried after a failure that is no missing right, nor if nothing can be written.
    """
    folder = f"{prefix}/check"
    name = f"{folder}/{secrets.token_hex(8)}"
    problems: list[str] = []

    async def read() -> None:
        if await objects.read(name) != _DATA:
            raise StoreFailed("what was written is not what is read")

    async def read_missing() -> None:
        if not problems and await objects.read(f"{folder}/missing") is not None:
            raise StoreFailed("an object that was never written exists")

    steps: tuple[tuple[str, str, Callable[[], Awaitable[object]]], ...] = (
        ("write", "an object cannot be written", lambda: objects.write(name, _DATA)),
        ("read", "an object cannot be read", read),
        ("list", "objects cannot be listed, so a purge cannot delete them", lambda: objects.can_list(folder)),
        # S3 answers 403 instead of 404 to those who may not list.
        ("list", "a missing object cannot be told from a forbidden one", read_missing),
        ("delete", "an object cannot be deleted", lambda: objects.delete([name])),
    )
    for right, problem, step in steps:
        try:
            await step()
        except StoreFailed as error:
            needed = f"; expected {RIGHTS[scheme][right]}" if error.is_denied and scheme in RIGHTS else ""
            problems.append(f"{problem}: {error}{needed}")
            if right == "write" or not error.is_denied:
                break
    return problems
