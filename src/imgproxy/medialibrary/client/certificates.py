"""TLS of a client: whom it trusts, and the certificate that it shows."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from imgproxy.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def client_context(
    ca_file: Path | None, certificate_file: Path | None, key_file: Path | None, *, section: str
) -> ssl.SSLContext | None:
    """
    Return a context that trusts the system's authorities and those of `ca_file`, and shows a certificate.

    None without any file: then the usual context does. `section` names the settings in errors.

    Raises:
        ConfigError: a file cannot be read, holds no certificate or key, or the key is another certificate's.
    """
    if ca_file is None and certificate_file is None:
        return None
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:  # also ssl.SSLError
            raise ConfigError((f"{section} ca_file: {ca_file}: {_words(error, 'certificates')}",)) from None
    if certificate_file is not None:
        try:
            context.load_cert_chain(certificate_file, key_file, password=_refuse_password)
        except (OSError, _EncryptedKey) as error:
            files = f"{certificate_file} and {key_file}" if key_file is not None else str(certificate_file)
            words = _words(error, "a certificate and its key")
            raise ConfigError((f"{section} client_certificate_file: {files}: {words}",)) from None
    return context


class _EncryptedKey(Exception):
    """The key has a password."""


def _refuse_password() -> str:
    # Without this, OpenSSL asks for the password on the terminal.
    raise _EncryptedKey


def _words(error: Exception, expected: str) -> str:
    if isinstance(error, _EncryptedKey):
        return "the key is encrypted; expected one without a password"
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "the key does not belong to the certificate"
        return f"expected {expected} in PEM form"
    return (error.strerror if isinstance(error, OSError) else None) or "cannot be read"
