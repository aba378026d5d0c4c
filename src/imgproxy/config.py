"""
Settings: a TOML file, then the environment (`IMGPROXY_<SECTION>__<KEY>`), validated once and frozen.

Each setting is declared once, here: its name, type, default, bounds, unit (in the name) and one line of help. The
validation, `config.example.toml` and the documentation all come from this declaration. A wrong key or value is a
ConfigError that names the section, the key and what is allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

MB = 1_000_000
GB = 1_000 * MB


class Section(BaseModel):
    """A section of the configuration: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(Section):
    """Where the edge listens."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all interfaces")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    shutdown_timeout_s: float = Field(
        20.0, ge=0, le=600, description="after SIGTERM, requests in flight may take this long to finish"
    )


class OriginSettings(Section):
    """The Media Library that originals come from."""

    url: str = Field(
        "http://127.0.0.1:9090", pattern=r"^https?://", description="the Livingdocs server, without /api"
    )
    api_version: Literal[
        "2025-03", "2025-05", "2025-07", "2025-09", "2025-11", "2026-01", "2026-03", "2026-05"
    ] = Field("2026-05", description="Public API version; purging by entry needs 2026-03 or later")
    token: SecretStr | None = Field(None, description="access token with the scope public-api:read")
    token_file: Path | None = Field(
        None, description="file with the token instead; read again when it changes. Two lines: new and old token"
    )
    timeout_s: float = Field(10.0, gt=0, le=300, description="time for one original or API call, retries included")


class RenderSettings(Section):
    """The processes that decode and encode."""

    processes: int = Field(0, ge=0, le=256, description="render processes; 0 means one a core this service may use")
    timeout_s: float = Field(10.0, gt=0, le=300, description="a render that takes longer is stopped: 422")
    memory_bytes: int = Field(
        1_500 * MB, ge=100 * MB, description="a render process that grows larger is stopped: 422"
    )
    recycle_bytes: int = Field(
        400 * MB, ge=50 * MB, description="an idle render process larger than this is replaced by a fresh one"
    )
    queue_max: int = Field(64, ge=0, le=100_000, description="renders that may wait; one more is shed: 503")
    queue_timeout_s: float = Field(5.0, gt=0, le=300, description="a render that waited longer is shed: 503")
    allow_truncated: bool = Field(False, description="serve what can be decoded of a truncated original")
    metadata: Literal["none", "credit", "all"] = Field(
        "credit", description="metadata that variants keep; GPS, serial numbers and thumbnails never survive"
    )


class LimitsSettings(Section):
    """What is refused, and what is scaled down."""

    source_bytes: int = Field(100 * MB, ge=1, description="largest original in bytes: 413 beyond")
    source_pixels: int = Field(60_000_000, ge=1, description="most pixels of an original, frames summed: 413 beyond")
    frames: int = Field(256, ge=1, description="most frames of an animation; beyond, its first frame is served")
    output_px: int = Field(8192, ge=1, le=16383, description="longest side of a variant; larger is scaled down")



