"""The settings of Content Credentials: what happens to the signed provenance of originals (C2PA)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from imgproxy.config.sections import Section


class ContentCredentialsSettings(Section):
    """Content Credentials (C2PA, extra `c2pa`): variants of signed originals are signed, too."""

    mode: Literal["strip", "remote", "embed"] = Field(
        "strip",
        description="what variants of an original with credentials have: strip none; embed a manifest in the file; "
        "remote a link to the manifest, which is made when it is asked for. Without metadata there is never one",
    )
    certificate_file: Path | None = Field(
        None, description="certificates in PEM: the signer's, then those of its issuers; read once, at start"
    )
    key_file: Path | None = Field(
        None, description="private key in PEM, without a password; read once, at start, by a process of its own"
    )
    algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = Field(
        "es256", description="how the key signs; it must fit the key"
    )
    timestamp_url: str | None = Field(
        None,
        pattern=r"^https?://[^/\s]+",
        description="timestamp authority (RFC 3161); with it a manifest stays valid after the certificate's end. Each "
        "signature asks it, so a miss waits for it",
    )
    claim_generator: str = Field(
        "imgproxy", min_length=1, max_length=100, description="name of this service in the manifests"
    )
    trust_anchors_file: Path | None = Field(
        None,
        description="certificates in PEM of the authorities whose signatures count as trusted; read once, at start. "
        "Not set: only the validity of signatures is judged",
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^/\s?#]+[^\s?#]*$",
        description="URL under which readers reach this service, such as https://images.example.org; the links to "
        "manifests begin with it",
    )
    c2pa_max_bytes: int = Field(
        100_000,
        ge=0,
        le=10_000_000,
        description="mode embed: a longer manifest is not put into the file, which gets a link to it instead",
    )
    timeout_s: float = Field(
        3.0,
        gt=0,
        le=60,
        description="a picture waits at most this long for its credentials, then it is sent without",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mode == "strip":
            return self
        needed = ("certificate_file", "key_file", "public_url")
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f'mode = "{self.mode}" needs {", ".join(missing)}')
        return self
