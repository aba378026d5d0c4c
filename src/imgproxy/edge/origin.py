"""The client of the configured Media Library, and a call that tries its token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgproxy.config.secrets import secret_lines
from imgproxy.medialibrary.client.certificates import client_context
from imgproxy.medialibrary.client.client import MediaLibraryClient
from imgproxy.medialibrary.client.tokens import TokenSource

if TYPE_CHECKING:
    from imgproxy.config.origin import OriginSettings

# No entry has this id. A request for it needs the token, and names no picture.
PROBE_ENTRY = "imgproxy-probe"


def library_client(settings: OriginSettings) -> MediaLibraryClient:
    """
    Return the client of the configured Media Library.

    Raises:
        ConfigError: the file of the token, of a certificate or of its key cannot be read.
    """
    if settings.token_file is not None:
        secret_lines(None, settings.token_file, name="[origin] token_file")
        token = TokenSource.file(settings.token_file)
    elif settings.token is not None:
        token = TokenSource.literal(settings.token.get_secret_value())
    else:
        token = TokenSource.none()
    return MediaLibraryClient(
        settings.url,
        token=token,
        api_version=settings.api_version,
        timeout_s=settings.timeout_s,
        ssl_context=client_context(
            settings.ca_file, settings.client_certificate_file, settings.client_key_file, section="[origin]"
        ),
        proxy=settings.proxy.get_secret_value() if settings.proxy is not None else None,
        headers={name: value.get_secret_value() for name, value in settings.headers.items()},
        redirect_hosts=settings.redirect_hosts,
    )


async def probe(library: MediaLibraryClient) -> None:
    """
    Make an API call that fails if the token is not accepted.

    Raises:
        OriginDenied: the token is refused.
        ImgproxyError: the library could not be asked.
    """
    await library.get_entries(ids=(PROBE_ENTRY,))
