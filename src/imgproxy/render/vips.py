"""
Sets up libvips in a render process: which loaders may run, and no cache between jobs.

libvips' own "untrusted" flag is not enough: it leaves TIFF, HEIF, PDFium and others on, and switches SVG off. So every
loader is blocked, and these are allowed by name.
Source: https://www.libvips.org/API/current/func.operation_block_set.html
"""

from __future__ import annotations

import sys
from pathlib import PurePath
from typing import Any, Final

import pyvips

LOADERS: Final = (
    "VipsForeignLoadJpeg",
    "VipsForeignLoadPng",
    "VipsForeignLoadWebp",
    "VipsForeignLoadNsgif",
    "VipsForeignLoadHeif",
    "VipsForeignLoadTiff",
    "VipsForeignLoadSvg",
)

# The first version whose encoders take `keep`, without which no variant can be written. The tests run with 8.18.
OLDEST: Final = (8, 15)


def prepare() -> None:
    """Block every loader but LOADERS, and switch the operation cache off: no job may see another job's pixels."""
    pyvips.operation_block_set("VipsForeignLoad", True)
    for loader in LOADERS:
        pyvips.operation_block_set(loader, False)
    pyvips.cache_set_max(0)
    pyvips.cache_set_max_mem(0)
    pyvips.cache_set_max_files(0)
    # pyvips sends every line that libvips logs to Python's logging: eight for a render without problems. Without its
    # handler, GLib writes warnings and errors to stderr.
    pyvips._remove_log_handler()  # noqa: SLF001 - pyvips has no public function for it
    _accept_any_text()


def _accept_any_text() -> None:
    """
    Let pyvips exchange text that is no UTF-8 with libvips, as Python does with names of files (PEP 383).

    Names of header fields, their values, and messages of errors have bytes of the file in them. pyvips raises
    UnicodeDecodeError for them, in the middle of any call, and leaves the message in libvips' buffer for the next one.
    Its two functions for text are private, and each of its modules has its own reference to them.
    """
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "pyvips"]:
        for name, function in (("_to_string", _to_string), ("_to_bytes", _to_bytes)):
            if hasattr(module, name):
                setattr(module, name, function)


def _to_string(text: Any) -> str:
    """Decode a C string. A byte that is no UTF-8 becomes a surrogate."""
    return "NULL" if text == pyvips.ffi.NULL else bytes(pyvips.ffi.string(text)).decode("utf-8", "surrogateescape")


def _to_bytes(text: Any) -> Any:
    """Encode a text for libvips, surrogates as the bytes that they stand for. Other values stay as they are."""
    return str(text).encode("utf-8", "surrogateescape") if isinstance(text, (str, PurePath)) else text


def warm_up() -> None:
    """
    Run each frequent operation once on a few pixels.

    The first call of an operation takes longer: pyvips looks it up, and encoders build their tables. Together that is
    30 ms, and the first request of a process does not wait for it.
    """
    pixels = pyvips.Image.black(32, 32, bands=3).copy(interpretation="srgb")
    jpeg = pixels.jpegsave_buffer(Q=75)
    loaded = pyvips.Image.jpegload_buffer(jpeg, access="sequential").resize(0.5).crop(0, 0, 8, 8).copy_memory()
    loaded.webpsave_buffer(Q=75)
    loaded.heifsave_buffer(Q=50, effort=0, compression="av1")
    loaded.pngsave_buffer()


def version_problem(found: str) -> str | None:
    """Return what is wrong with a version of libvips like "8.14.1" and what to do, or None if it can be used."""
    if tuple(int(part) for part in found.split(".")[:2]) >= OLDEST:
        return None
    return (
        f"libvips {found} is loaded; {'.'.join(map(str, OLDEST))} or later is needed. Where libvips' headers are "
        "installed, pip builds pyvips against the libvips of the system. To use the one of pyvips-binary: "
        "pip install --force-reinstall --no-deps pyvips-binary"
    )


def version() -> str:
    """Return the version of the loaded libvips, like "8.18.7"."""
    return ".".join(str(pyvips.version(part)) for part in range(3))
