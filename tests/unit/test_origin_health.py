"""The health of the origin: which 403s are believed, and what the service knows of its token."""

import asyncio

import pytest

from imgproxy.delivery.origin_health import SUSPICIOUS_RUN, OriginHealth, cause_of
from imgproxy.errors import ImgproxyError, OriginDenied, OriginUnreachable, Revoked
from imgproxy.medialibrary.errors import OriginTimeout, OriginUnavailable


class Api:
    """An API call that raises `error`, if one is set."""

    error: Exception | None = None

    async def probe(self) -> None:
        """Make the call."""
        if self.error is not None:
            raise self.error


async def test_several_403s_in_a_row_are_not_believed_while_the_token_cannot_be_tried() -> None:
    """While the API is down, a single 403 is a takedown, and several in a row are a fault, until a picture is served."""
    api = Api()
    api.error = OriginUnreachable()
    health = OriginHealth(api.probe)

    first = [await health.is_refusing_everything() for _ in range(SUSPICIOUS_RUN + 1)]
    health.served()
    after = await health.is_refusing_everything()

    assert first == [False] * (SUSPICIOUS_RUN - 1) + [True, True]
    assert after is False
    assert not health.is_token_dead


@pytest.mark.parametrize(("error", "refuses"), [(None, False), (OriginDenied(), True)])
async def test_a_try_of_the_token_decides_about_any_number_of_403s(error: Exception | None, refuses: bool) -> None:
    """Many pictures may be revoked at a time, so with a good token every 403 is believed."""
    api = Api()
    api.error = error
    health = OriginHealth(api.probe)

    assert [await health.is_refusing_everything() for _ in range(10)] == [refuses] * 10


async def test_403s_that_come_at_the_same_time_share_a_try() -> None:
    """The shared try begins after all of them: so a token that dies meanwhile is noticed."""
    gate, calls = asyncio.Event(), 0

    async def probe() -> None:
        nonlocal calls
        calls += 1
        await gate.wait()

    health = OriginHealth(probe)
    first = asyncio.create_task(health.is_refusing_everything())
    await asyncio.sleep(0)
    later = [asyncio.create_task(health.is_refusing_everything()) for _ in range(3)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, *later)

    assert calls == 2


@pytest.mark.parametrize(
    ("error", "is_token_dead", "is_down"),
    [(None, False, False), (OriginDenied(), True, False), (Revoked(), True, False), (OriginUnreachable(), False, True)],
    ids=["answers", "401", "403", "no-connection"],
)
async def test_a_check_notes_what_it_found(error: ImgproxyError | None, is_token_dead: bool, is_down: bool) -> None:
    """A 403 for a call that names no picture is about the token; the error is returned, not raised."""
    api = Api()
    api.error = error
    health = OriginHealth(api.probe)

    assert await health.check() is error
    assert (health.is_token_dead, health.is_down) == (is_token_dead, is_down)


async def test_a_picture_that_is_served_ends_every_trouble(caplog: pytest.LogCaptureFixture) -> None:
    """The token works again; the log says so once."""
    health = OriginHealth(Api().probe)
    health.denied()
    health.failed(OriginUnavailable(message="the connection was refused"))
    assert health.cause is not None
    for _ in range(2):
        health.served()

    assert not health.is_token_dead
    assert not health.is_down
    assert health.cause is None
    said = [line.getMessage().partition(" after ")[0] for line in caplog.records if " back " in line.getMessage()]
    assert said == ["access to the Media Library is back", "the Media Library is back"]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OriginUnavailable(message="the connection was refused"), "the connection was refused"),
        (OriginUnavailable(message="a page of the balancer", origin_status=503), "it answered 503"),
        (OriginTimeout(timeout_s=10.0), "The Media Library did not answer within 10 s."),
        (OriginUnreachable(), OriginUnreachable().public),
    ],
)
def test_the_cause_is_in_words_and_never_what_the_server_said(error: ImgproxyError, cause: str) -> None:
    """The status if there is one; else what the client found out."""
    assert cause_of(error) == cause
