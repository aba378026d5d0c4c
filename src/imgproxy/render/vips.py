"""
libvips as a render process sets it up: which loaders may run, and nothing remembered between jobs.

The one place that names loaders. libvips' own "untrusted" flag is not enough: it leaves TIFF, HEIF, PDFium and others
on and switches SVG off, so every loader is blocked by its class and the ones we want are opened by name.
Source: https://www.libvips.org/API/current/func.operation_block_set.html
"""

from __future__ import annotations

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


def prepare() -> None:
    """Close every loader but LOADERS, and switch the operation cache off: no job may see another's pixels."""
    pyvips.operation_block_set("VipsForeignLoad", True)
    for loader in LOADERS:
        pyvips.operation_block_set(loader, False)
    pyvips.cache_set_max(0)
    pyvips.cache_set_max_mem(0)
    pyvips.cache_set_max_files(0)
    # pyvips hands every word of libvips to Python's logging, most from another thread, and nobody reads those of a
    # render that goes well: eight. Without it warnings and worse go to stderr, as GLib does.
    pyvips._remove_log_handler()  # noqa: SLF001 - there is no other way


def warm_up() -> None:
    """
    Use each frequent operation once on a few pixels.

    pyvips looks an operation up when it is first called, and encoders set up their tables: some 30 ms that the first
    visitor of a process need not wait for.
    """
    pixels = pyvips.Image.black(32, 32, bands=3).copy(interpretation="srgb")
    jpeg = pixels.jpegsave_buffer(Q=75)
    loaded = pyvips.Image.jpegload_buffer(jpeg, access="sequential").resize(0.5).crop(0, 0, 8, 8).copy_memory()
    loaded.webpsave_buffer(Q=75)
    loaded.heifsave_buffer(Q=50, effort=0, compression="av1")
    loaded.pngsave_buffer()


def call(operation: str, *arguments: Any, **options: Any) -> Any:
    """
    Call an operation by its name: `call("resize", image, 0.5)` for `image.resize(0.5)`, in what every render does.

    As an attribute pyvips takes the name for a property first, and libvips composes an error on that: 80 us where the
    pixels of a render have just gone through the caches.
    """
    return pyvips.Operation.call(operation, *arguments, **options)


def version() -> str:
    """The version of the libvips that is loaded, as "8.18.7"."""
    return ".".join(str(pyvips.version(part)) for part in range(3))
