"""Certificates for tests, made by the program openssl."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="the program openssl is not installed")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path

    def server_context(self, *, trusts: Path | None = None) -> ssl.SSLContext:
        """A server with this certificate. With `trusts` it wants a client's certificate of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if trusts is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(trusts)
        return context


class Authority:
    """An authority that signs certificates."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.own = self._self_signed("authority")

    def sign(self, name: str, *, subject: str = "DNS:localhost", days: tuple[str, str] | None = None) -> Certificate:
        """A certificate for a subject; `days` are its first and last, as YYYYMMDDHHMMSSZ."""
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={subject}\n")
        _openssl("req", "-new", "-nodes", *_KEY, "-subj", f"/CN={name}", "-keyout", made.key, "-out", request)
        ours = (self.own.certificate, self.own.key)
        if days is None:
            _openssl("x509", "-req", "-in", request, "-CA", ours[0], "-CAkey", ours[1], "-CAcreateserial", "-days", "2",
                     "-extfile", extensions, "-out", made.certificate)  # fmt: skip
            return made
        # Only the command `ca` takes dates.
        (self._folder / "index.txt").touch()
        settings = self._folder / "ca.cnf"
        settings.write_text(
            f"[ca]\ndefault_ca=own\n[own]\ndatabase={self._folder}/index.txt\nnew_certs_dir={self._folder}\n"
            "rand_serial=yes\ndefault_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n"
        )
        _openssl("ca", "-batch", "-notext", "-config", settings, "-cert", ours[0], "-keyfile", ours[1], "-startdate",
                 days[0], "-enddate", days[1], "-in", request, "-extfile", extensions, "-out", made.certificate)  # fmt: skip
        return made

    def _self_signed(self, name: str) -> Certificate:
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        subject = ("-x509", "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost")
        _openssl("req", "-new", "-nodes", *_KEY, *subject, "-keyout", made.key, "-out", made.certificate)
        return made


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def _openssl(*arguments: str | Path) -> None:
    assert OPENSSL is not None
    subprocess.run([OPENSSL, *map(str, arguments)], check=True, capture_output=True)
