"""Why a call to a server failed, in the words of an operator. Pure: from the errors of aiohttp, without URLs."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Final

import aiohttp

# Reasons of a certificate that is not accepted (OpenSSL, X509_V_ERR_*).
_CERTIFICATE_WORDS: Final = {
    10: "the certificate has expired",
    9: "the certificate is not valid yet",
    18: "the certificate is signed by itself; no authority vouches for it",
    19: "the certificate's authority is not trusted",
    20: "the certificate's authority is not trusted",
    62: "the certificate is for another name",
    64: "the certificate is for another address",
}
_REFUSED: Final = "the connection was refused: nothing listens there"
_SYSTEM_WORDS: Final = {
    errno.ECONNREFUSED: _REFUSED,
    errno.ECONNRESET: "the connection was reset",
    errno.EPIPE: "the connection was closed",
    errno.EHOSTUNREACH: "no route to the host",
    errno.ENETUNREACH: "no route to the network",
    errno.ETIMEDOUT: "the host does not answer",
    errno.EMFILE: "this process has no file descriptor left",
    errno.EACCES: "this machine forbids the connection",
    errno.EPERM: "this machine forbids the connection",
}


def cause_of(error: BaseException) -> str:
    """
    Return the cause of an error of aiohttp's client: no name, no route, refused, TLS, proxy, a connection that ended.

    The text holds neither a URL nor anything that the server sent.
    """
    match error:
        case aiohttp.ClientConnectorError() | aiohttp.ClientConnectorCertificateError():
            return _no_connection(error)
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answered {error.status}"
        case aiohttp.ServerTimeoutError():
            return "the host does not answer"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed without an answer"
        case aiohttp.ClientPayloadError():
            return "the answer broke off"
        case aiohttp.ClientResponseError():
            return "the answer is not HTTP"
        case OSError():
            return _system_words(error)
        case _ if error.__cause__ is not None:
            return cause_of(error.__cause__)
        case _:
            return "the connection broke off"


def _no_connection(error: aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"TLS: {_certificate_words(error.certificate_error)}"
        case aiohttp.ClientConnectorSSLError():
            return f"TLS: {_tls_words(error.os_error)}"
        case aiohttp.ClientProxyConnectionError():
            return f"the proxy: {_system_words(error.os_error)}"
        case aiohttp.ClientConnectorDNSError():
            return "DNS: the name of the host is not known"
        case _:
            return _system_words(error.os_error)


def _certificate_words(error: Exception) -> str:
    code = getattr(error, "verify_code", None)
    return _CERTIFICATE_WORDS.get(code or 0, "the certificate is not valid")


def _tls_words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "the server does not speak TLS on this port"
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return f"no agreement with the server ({(reason or 'unknown reason').lower().replace('_', ' ')})"


def _system_words(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "DNS: the name of the host is not known"
    if error.errno in _SYSTEM_WORDS:
        return _SYSTEM_WORDS[error.errno]
    # asyncio tries every address of a name. If all fail in different ways, its error has no number.
    if "[Errno 111]" in str(error):
        return _REFUSED
    return error.strerror or "no connection"
