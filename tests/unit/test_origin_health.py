"""Which refusals of the origin are believed."""

import pytest

from imgproxy.delivery.origin_health import SUSPICIOUS_RUN, OriginHealth
from imgproxy.errors import OriginDenied, OriginUnreachable


class Api:
    """An API that fails as it is told to."""

    error: Exception | None = None

    async def probe(self) -> None:
        """One call."""
        if self.error is not None:
            raise self.error


async def test_a_run_of_refusals_is_not_believed_while_the_token_cannot_be_tried() -> None:
    """One 403 is a takedown even while the API is down; picture after picture refused is a fault, until one is not."""
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
async def test_where_the_token_can_be_tried_its_word_counts(error: Exception | None, refuses: bool) -> None:
    """However many refusals there are: many pictures may be revoked at a time."""
    api = Api()
    api.error = error
    health = OriginHealth(api.probe)

    assert [await health.is_refusing_everything() for _ in range(10)] == [refuses] * 10
