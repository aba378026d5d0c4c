"""The settings of the shared store: object storage that all edges read and write."""

from __future__ import annotations

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from imgproxy.config.sections import Secret, Section

# What a URL looks like, by its scheme.
_FORMS = {
    "s3": "s3://BUCKET",
    "gs": "gs://BUCKET",
    "az": "az://CONTAINER",
    "file": "file:///FOLDER",
    "memory": "memory://",
}
# The schemes that a key is for.
_ONLY = {
    "region": ("s3",),
    "access_key_id": ("s3",),
    "secret_key": ("s3", "az"),
    "secret_key_file": ("s3", "az"),
    "account": ("az",),
    "service_account_file": ("gs",),
    "endpoint": ("s3", "gs", "az"),
    "allow_http": ("s3", "gs", "az"),
}


class SharedStoreSettings(Section):
    """Object storage that all edges share (extra `store`). Without `url` there is none."""

    url: str | None = Field(
        None,
        description="s3://BUCKET, gs://BUCKET or az://CONTAINER, a folder may follow; for tests file:///FOLDER and "
        "memory://",
    )
    prefix: str = Field(
        "imgproxy",
        pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$",
        description="folder for all objects; nothing else may be in it",
    )
    region: str | None = Field(None, description="s3: region of the bucket; not set: AWS_REGION")
    endpoint: str | None = Field(
        None, pattern=r"^https?://[^/\s]+", description="address of another server than the provider's, such as MinIO"
    )
    allow_http: bool = Field(False, description="allow an endpoint without TLS, such as a gateway on this machine")
    account: str | None = Field(None, description="az: name of the storage account")
    access_key_id: str | None = Field(
        None,
        description="s3: id of the access key. Without keys here the provider's own ways hold: AWS_…, GOOGLE_… or "
        "AZURE_… in the environment, or the identity of the machine or the pod",
    )
    secret_key: Secret | None = Field(None, description="s3: secret access key; az: key of the account")
    secret_key_file: Path | None = Field(None, description="file with the secret key; read once, at start")
    service_account_file: Path | None = Field(
        None, description="gs: JSON file of a service account; read once, at start"
    )
    read_timeout_s: float = Field(
        1.0,
        gt=0,
        le=30,
        description="a read that takes longer is a miss; large objects have 1 s more for each 4 MB",
    )
    write_timeout_s: float = Field(30.0, gt=0, le=600, description="a write or a deletion that takes longer has failed")
    queue_max: int = Field(
        1_000, ge=1, le=100_000, description="most objects that may wait to be written; further ones are dropped"
    )
    writes_max: int = Field(4, ge=1, le=64, description="most objects that are written at the same time")

    @property
    def scheme(self) -> str:
        """The scheme of the URL; empty without a URL."""
        return urlsplit(self.url).scheme if self.url is not None else ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.url is None:
            return self
        problems = self._url_problems()
        problems += [
            f"{key} is for {' and '.join(f'{name}://' for name in schemes)} only"
            for key, schemes in _ONLY.items()
            if self.scheme in _FORMS and self.scheme not in schemes and getattr(self, key)
        ]
        has_secret = self.secret_key is not None or self.secret_key_file is not None
        if self.secret_key is not None and self.secret_key_file is not None:
            problems.append("secret_key and secret_key_file: give one of them")
        if self.scheme == "s3" and has_secret != (self.access_key_id is not None):
            problems.append("access_key_id and the secret key: give both, or neither")
        if self.endpoint is not None and self.endpoint.startswith("http://") and not self.allow_http:
            problems.append("endpoint: http:// is not encrypted; expected https://, or allow_http = true")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _url_problems(self) -> list[str]:
        assert self.url is not None
        expected = f"expected {', '.join(_FORMS.values())}"
        parts = urlsplit(self.url)
        if parts.scheme not in _FORMS or not self.url.startswith(f"{parts.scheme}://"):
            return [f"url: {expected}"]
        if parts.query or parts.fragment or "@" in parts.netloc:
            return ["url: expected no user, no query and no fragment; credentials have keys of their own"]
        is_named = bool(parts.netloc)
        if parts.scheme == "memory":
            return [] if not is_named and parts.path in ("", "/") else ["url: nothing may follow memory://"]
        if parts.scheme == "file":
            return [] if not is_named and len(parts.path) > 1 else [f"url: {expected}"]
        return [] if is_named else [f"url: {expected}"]
