"""
The objects of the shared store: read, write, delete, by obstore. Its errors become StoreFailed here.

obstore (github.com/developmentseed/obstore) is the Rust library object_store with a Python interface. One interface for
S3, Google Cloud Storage and Azure, no Python dependency, its own threads. It is imported only if a store is configured.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from imgproxy.config.secrets import secret_lines
from imgproxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from obstore.store import ObjectStore

    from imgproxy.config.shared_store import SharedStoreSettings

# A large object may take a second more for each so many bytes.
SLOWEST_BYTES_PER_S: Final = 4_000_000
# So much of a download is written to the disk in one go.
PART_BYTES: Final = 512 * 1024
# Objects in one request to list or to delete (S3 API, ListObjectsV2 and DeleteObjects: 1,000).
PAGE_OBJECTS: Final = 1_000
# A folder is listed again until it is empty: others may delete in it, or write to it, at the same time.
LISTINGS_MAX: Final = 3
CONNECT_MAX_S: Final = 5.0
# Parts of one large upload at the same time. Each is 5 MiB in memory.
PARTS_MAX: Final = 2

_STATUS: Final = re.compile(r"status code: (\d{3}[A-Za-z ]*)")
# The code of an error of S3: of the whole request, or of one object of a request that deletes several.
_CODE: Final = re.compile(r"(?:<Code>|\(code: )([A-Za-z0-9]{1,64})(?:</Code>|\))")
# What the providers answer if the bucket itself does not exist. A missing object has another code.
_NO_BUCKET: Final = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")
_DENIED: Final = frozenset({"PermissionDeniedError", "UnauthenticatedError"})


class StoreFailed(Exception):
    """A call of the store failed. The text is the cause, for operators: no name of an object, no secret."""

    def __init__(self, cause: str, *, is_denied: bool = False) -> None:
        super().__init__(cause)
        self.is_denied = is_denied


class Objects:
    """The objects of one store. Each method raises StoreFailed if the store does not do it in time."""

    def __init__(self, store: ObjectStore, *, read_timeout_s: float, write_timeout_s: float) -> None:
        self._store = store
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s

    async def read(self, name: str) -> bytes | None:
        """Return the bytes of a small object. None if it does not exist."""
        with _translated(self._read_timeout_s):
            async with asyncio.timeout(self._read_timeout_s):
                try:
                    found = await self._store.get_async(name)
                except FileNotFoundError as error:
                    _raise_without_bucket(error)
                    return None
                return bytes(await found.bytes_async())

    async def download(self, name: str, path: str, *, max_bytes: int) -> int | None:
        """
        Write an object to the existing file `path`. Return its length, or None if the object does not exist.

        An object of more than `max_bytes` counts as missing. Raises OSError if the disk refuses.
        """
        with _translated(self._read_timeout_s):
            async with asyncio.timeout(self._read_timeout_s) as limit:
                try:
                    found = await self._store.get_async(name)
                except FileNotFoundError as error:
                    _raise_without_bucket(error)
                    return None
                size_bytes = found.meta["size"]
                if size_bytes > max_bytes:
                    return None
                deadline_s = limit.when()
                assert deadline_s is not None
                limit.reschedule(deadline_s + size_bytes / SLOWEST_BYTES_PER_S)
                with _opened(path) as file:
                    async for part in found.stream(PART_BYTES):
                        await asyncio.to_thread(file.write, part)
                    file.truncate()
                return size_bytes

    async def write(self, name: str, data: bytes | Path) -> None:
        """Write an object, from memory or from a file. It replaces an older one. Raises OSError without the file."""
        with _translated(self._write_timeout_s):
            async with asyncio.timeout(self._write_timeout_s):
                try:
                    await self._store.put_async(name, data, max_concurrency=PARTS_MAX)
                except FileNotFoundError as error:
                    _raise_without_bucket(error)
                    raise

    async def delete(self, names: Sequence[str]) -> None:
        """Delete objects. One that does not exist is no error."""
        with _translated(self._write_timeout_s):
            async with asyncio.timeout(self._write_timeout_s):
                with suppress(FileNotFoundError):
                    await self._store.delete_async(names)

    async def delete_below(self, folder: str) -> int:
        """Delete every object of a folder and below. Return how many there were."""
        count = 0
        for _ in range(LISTINGS_MAX):
            names = await self._list(folder)
            if not names:
                return count
            for at in range(0, len(names), PAGE_OBJECTS):
                await self.delete(names[at : at + PAGE_OBJECTS])
            count += len(names)
        if await self._list(folder):
            raise StoreFailed("objects are still there after they were deleted")
        return count

    async def can_list(self, folder: str) -> None:
        """Ask for the objects of a folder. Raises StoreFailed without the right to do so."""
        await self._list(folder)

    async def _list(self, folder: str) -> list[str]:
        names: list[str] = []
        with _translated(self._write_timeout_s):
            async with asyncio.timeout(self._write_timeout_s):
                async for page in self._store.list(folder, chunk_size=PAGE_OBJECTS):
                    names += [item["path"] for item in page]
        return names


def open_objects(settings: SharedStoreSettings) -> Objects:
    """
    Open the configured store. Nothing is sent yet.

    Raises:
        ConfigError: the extra is not installed, a file cannot be read, or a setting is not valid.
    """
    assert settings.url is not None, "a store is configured"
    try:
        from obstore.exceptions import BaseError  # noqa: PLC0415 not without a configured store
        from obstore.store import from_url  # noqa: PLC0415
    except ImportError:
        raise ConfigError(
            ("[shared_store] url: the extra `store` is not installed; expected pip install 'imgproxy[store]'",)
        ) from None
    options = options_of(settings)
    if settings.scheme in ("s3", "gs", "az"):
        options |= {
            "client_options": {
                "allow_http": settings.allow_http,
                "connect_timeout": timedelta(seconds=min(CONNECT_MAX_S, settings.write_timeout_s)),
                "timeout": timedelta(seconds=settings.write_timeout_s),
            },
            # A miss is cheaper than a second try. Purges repeat their deletions by themselves.
            "retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=settings.write_timeout_s)},
        }
    try:
        store: ObjectStore = from_url(settings.url, **options)
    except (BaseError, ValueError, OSError) as error:
        raise ConfigError((f"[shared_store] url: {_first_line(error)}",)) from None
    return Objects(store, read_timeout_s=settings.read_timeout_s, write_timeout_s=settings.write_timeout_s)


def options_of(settings: SharedStoreSettings) -> dict[str, Any]:
    """
    Return the options of obstore for these settings. What is not set comes from the provider's own environment.

    Raises:
        ConfigError: the file of the secret key cannot be read.
    """
    secrets = secret_lines(settings.secret_key, settings.secret_key_file, name="[shared_store] secret_key_file")
    secret = secrets[0] if secrets else None
    if settings.scheme == "file":
        return {"mkdir": True, "automatic_cleanup": True}
    options: dict[str, Any] = {}
    if settings.scheme == "s3":
        options = {
            "region": settings.region,
            "endpoint": settings.endpoint,
            "access_key_id": settings.access_key_id,
            "secret_access_key": secret,
        }
    elif settings.scheme == "gs":
        file = settings.service_account_file
        options = {"base_url": settings.endpoint, "service_account": str(file) if file is not None else None}
    elif settings.scheme == "az":
        options = {"account_name": settings.account, "account_key": secret, "endpoint": settings.endpoint}
    return {name: value for name, value in options.items() if value is not None}


def cause_of(error: BaseException) -> str:
    """Return the cause of an error of obstore in words. Its own text has names of objects, and may have a token."""
    text = str(error)
    if any(sign in text for sign in _NO_BUCKET):
        return "the bucket does not exist"
    status, code = _STATUS.search(text), _CODE.search(text)
    if status is not None:
        return f"HTTP {status[1].strip()}" + (f", {code[1]}" if code is not None else "")
    if code is not None:
        return code[1]
    if type(error).__name__ in _DENIED:
        return "permission denied"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if "error sending request" in text:
        return "no connection"
    return f"the call failed ({type(error).__name__})"


@contextmanager
def _translated(timeout_s: float) -> Iterator[None]:
    """Turn the errors of obstore into StoreFailed. An OSError of our own disk stays what it is."""
    try:
        yield
    except TimeoutError:
        raise StoreFailed(f"no answer within {timeout_s:g} s") from None
    except (StoreFailed, OSError):
        raise
    except Exception as error:
        cause = cause_of(error)
        is_denied = type(error).__name__ in _DENIED or cause.startswith("HTTP 403") or cause == "AccessDenied"
        raise StoreFailed(cause, is_denied=is_denied) from None


def _opened(path: str) -> BinaryIO:
    return open(path, "r+b")


def _raise_without_bucket(error: FileNotFoundError) -> None:
    """Raise StoreFailed if the bucket itself is missing, not an object or a file."""
    if any(sign in str(error) for sign in _NO_BUCKET):
        raise StoreFailed("the bucket does not exist") from None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
