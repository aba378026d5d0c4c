"""
Signed URLs, by the rule of the imgix clients: `s` is the MD5 of token, path and query, in lower-case hex.

    s = md5(token + path + ("?" + query if query else ""))

Everything is taken as it stands on the wire: nothing is decoded, sorted or normalised first, so order and encoding of
the parameters count. It is a plain MD5, not an HMAC, because every client that exists makes it that way.
Source: the imgix signing blueprint (github.com/imgix/imgix-blueprint, "Securing URLs") and its client test suites.
"""

from __future__ import annotations

import hmac
import re
from hashlib import md5
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Sequence

# What `quote` would encode and a browser leaves alone; letters, digits and `_.-~` always stay.
_STAYS_IN_PATH = "!$%&'()*+,/:;=@[]|"
_STAYS_IN_QUERY = "!$%&()*+,/:;=?@[\\]^`{|}"
_HEX_DIGEST = re.compile(r"[0-9a-f]{32}")


def verify(raw_target: str, tokens: Sequence[str], *, mount_prefix: str = "", allow_decoded_path: bool = False) -> bool:
    """
    Tell whether a request target carries exactly one `s`, made with one of the tokens.

    Args:
        raw_target: path and query as they were received, not decoded.
        tokens: every token that is valid now; during a rotation the new and the old one.
        mount_prefix: the path this service is mounted under. Livingdocs leaves the path of its image host out of
            what it signs, so the path counts with and without the prefix.
        allow_decoded_path: also accept a signature of the percent-decoded path: Livingdocs signs keys as they are,
            and a browser escapes them afterwards.

    The time taken does not depend on which token or which character differs.
    """
    path, query, found = _take_signature(raw_target)
    if len(found) != 1 or not _HEX_DIGEST.fullmatch(found[0]):
        return False
    is_valid = False
    for candidate in _signed_paths(path, mount_prefix, allow_decoded_path=allow_decoded_path):
        for token in tokens:
            is_valid |= hmac.compare_digest(_digest(token, candidate, query), found[0])
    return is_valid


def sign(target: str, token: str) -> str:
    """
    Return the target with its signature as last parameter; a signature it already has is replaced.

    Args:
        target: path and query with all percent-encoding done, or a whole URL: scheme, host and fragment are kept
            and not signed.
        token: the secret of the source.
    """
    target, mark, fragment = target.partition("#")
    scheme, separator, rest = target.partition("://")
    origin = ""
    if separator and "/" not in scheme and "?" not in scheme:
        host, target = _split_host(rest)
        origin = f"{scheme}://{host}"
    path, query, _ = _take_signature(target)
    query = f"{query}&" if query else ""
    return f"{origin}{path}?{query}s={_digest(token, path, query.removesuffix('&'))}{mark}{fragment}"


def as_browsers_send(url: str) -> str:
    """
    Percent-encode what cannot stand in a request line, as a browser does before it asks; what is encoded stays.

    Takes what `sign` takes. In the path: C0 controls, space, `"`, `<`, `>`, `^`, backquote, `{`, `}` and all beyond
    ASCII; in the query: `'` too, but no `^`, backquote or brace. Source: the WHATWG URL standard, "path percent-encode
    set" and "special-query percent-encode set" (url.spec.whatwg.org). A backslash stays in a query; in a path it is
    encoded, not made a `/`.
    """
    url, mark, fragment = url.partition("#")
    scheme, separator, rest = url.partition("://")
    if separator and "/" not in scheme and "?" not in scheme:
        host, target = _split_host(rest)
    else:
        scheme, separator, host, target = "", "", "", url
    path, question, query = target.partition("?")
    return (
        f"{scheme}{separator}{host}{quote(path, safe=_STAYS_IN_PATH, errors='surrogateescape')}{question}"
        f"{quote(query, safe=_STAYS_IN_QUERY, errors='surrogateescape')}{mark}{fragment}"
    )


def _split_host(rest: str) -> tuple[str, str]:
    """Split what follows `://` into the host and its path and query; an empty path is `/` (RFC 3986 section 6.2.3)."""
    host, slash, path_and_query = rest.partition("/")
    if "?" in host:  # the first slash stands in the query
        host, _, query = rest.partition("?")
        return host, f"/?{query}"
    return host, f"{slash or '/'}{path_and_query}"


def _take_signature(target: str) -> tuple[str, str, list[str]]:
    """Split a target into path, query without its `s` pairs, and the values of those pairs."""
    path, _, query = target.partition("?")
    pairs = query.split("&") if query else []
    found = [pair[2:] for pair in pairs if pair.startswith("s=")]
    if not found:
        return path, query, found
    return path, "&".join(pair for pair in pairs if not pair.startswith("s=")), found


def _signed_paths(path: str, mount_prefix: str, *, allow_decoded_path: bool) -> list[str]:
    paths = [path]
    prefix = mount_prefix.rstrip("/")
    if prefix and path.startswith(f"{prefix}/"):
        paths.append(path[len(prefix) :])
    if allow_decoded_path and "%" in path:
        # An encoded `?` must not turn the signature of one path with a query into that of another path.
        decoded = [unquote(item) for item in paths]
        paths += [item for item in decoded if "?" not in item and "#" not in item]
    return paths


def _digest(token: str, path: str, query: str) -> str:
    text = f"{token}{path}?{query}" if query else f"{token}{path}"
    raw = text.encode("utf-8", "surrogateescape")
    return md5(raw, usedforsecurity=False).hexdigest()  # the clients' rule, see above
