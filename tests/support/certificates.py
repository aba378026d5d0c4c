"""Certificates for tests of TLS: an authority of one's own, and what it signs. Made by the program `openssl`."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True)
class Authority:
    """A folder with the authority's certificate, `ca.pem`, and its key."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """Return what a client trusts."""
        return self.folder / "ca.pem"

    def sign(self, name: str) -> tuple[str, str]:
        """Make a certificate for a name or an address. Return certificate and key as text."""
        kind = "IP" if name[0].isdigit() else "DNS"
        _openssl(
            *("req", "-x509", *_KEY, "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName={kind}:{name}"),
            *("-addext", "basicConstraints=critical,CA:FALSE", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
            folder=self.folder,
        )
        return (self.folder / f"{name}.pem").read_text("ascii"), (self.folder / f"{name}.key").read_text("ascii")


def new_authority(folder: Path, name: str = "an authority of tests") -> Authority:
    """Make an authority in a folder."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: install Debian's package openssl")
    folder.mkdir(exist_ok=True)
    _openssl(
        *("req", "-x509", *_KEY, "-days", "2", "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign"),
        *("-keyout", "ca.key", "-out", "ca.pem"),
        folder=folder,
    )
    return Authority(folder)


def _openssl(*arguments: str, folder: Path) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
