"""The section `[cluster]`: many edges that keep one promise."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from imgproxy.config.sections import Secret, Section


class ClusterSettings(Section):
    """Many edges over one PostgreSQL. Without a database, this edge is alone and needs nothing of this."""

    database_url: Secret | None = Field(
        None,
        description="the PostgreSQL (14 or later) that the edges share, e.g. postgresql://imgproxy@db.example/livingdocs"
        "?sslmode=verify-full. Without a password in it, libpq's own ways count: PGPASSWORD, ~/.pgpass",
    )
    database_url_file: Path | None = Field(
        None, description="file with the URL, instead of `database_url`; read once, at start"
    )
    node: str = Field(
        "",
        max_length=100,
        pattern=r"^[A-Za-z0-9._-]*$",
        description="the name of this edge in receipts and logs, different on each; empty: the name of the host",
    )
    lease_s: float = Field(
        5.0,
        ge=1,
        le=300,
        description="an edge that has not reached the database for this time proves each picture at the origin before "
        "it serves it. A purge waits at most this long for an edge that does not answer",
    )
    proof_s: float = Field(
        2.0,
        ge=0,
        le=60,
        description="how long a proof at the origin counts for an edge without the database. While such an edge is "
        "counted, each purge takes at least this long",
    )
    when_fenced: Literal["prove", "serve"] = Field(
        "prove",
        description="what an edge without the database does: prove each picture at the origin, or serve what it has. "
        '"serve" gives up the promise of purges for the edges that are cut off',
    )
    wait_s: float = Field(
        15.0,
        ge=0,
        le=300,
        description="a purge is answered as pending (202) if the other edges have not applied it within this time. It "
        "goes on by itself",
    )
    forget_s: float = Field(
        600.0,
        ge=30,
        le=86_400,
        description="an edge that was not seen for this time is no longer counted. From then on it proves each answer "
        "by a request of its own",
    )
    log_kept_s: float = Field(
        7 * 86_400.0,
        ge=3600,
        le=366 * 86_400,
        description="how long the log of purges is kept. An edge that was away for longer asks the origin about every "
        "picture before it serves it again",
    )
