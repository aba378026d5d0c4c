"""Errors are pickled, inherited and raised again."""

import pickle

import pytest

from imgproxy.errors import ImgproxyError, NotFound
from imgproxy.medialibrary.errors import LibraryNotFound
from tests.support.errors import every_error


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.code)
def test_an_error_survives_the_border_of_a_process(error: ImgproxyError) -> None:
    """Pickled and unpickled, it is the same error with the same facts."""
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is type(error)
    assert again.facts() == error.facts()
    assert again.public == error.public


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.code)
def test_an_error_is_raised_again_without_its_traceback(error: ImgproxyError) -> None:
    """`again` gives a new instance with the same facts and no traceback."""
    try:
        raise error
    except ImgproxyError as raised:
        again = raised.again()

    assert type(again) is type(error)
    assert again.facts() == error.facts()
    assert again.__traceback__ is None


def test_an_error_with_two_bases_has_the_status_of_the_more_special_one() -> None:
    """The client's NotFound has the status of the edge's NotFound, not that of its first base."""
    assert (LibraryNotFound.status, LibraryNotFound.code, LibraryNotFound.title) == (404, "not_found", NotFound.title)
