"""The PostgreSQL of the tests itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer


def test_a_standby_follows_and_can_be_promoted(own_server: PostgresServer) -> None:
    """A standby has what the primary had, and takes writes after its promotion."""
    own_server.sql("CREATE TABLE picture (name text)")
    standby = own_server.standby()
    try:
        assert standby.sql("SELECT pg_is_in_recovery()") == "t"
        own_server.stop("immediate")
        standby.promote()
        standby.sql("INSERT INTO picture VALUES ('harbour')")
    finally:
        standby.remove()
