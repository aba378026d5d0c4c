"""The pages of the reference are what the code declares."""

import pytest

from tools.reference_pages import DOCS, REMEDIES, every_error, pages


@pytest.mark.parametrize("name", pages())
def test_a_page_is_what_the_code_declares(name: str) -> None:
    """After a change of a setting or an error: python -m tools.reference_pages."""
    assert (DOCS / name).read_text("utf-8") == pages()[name], "run: python -m tools.reference_pages"


def test_every_error_has_a_remedy_and_no_remedy_is_left_over() -> None:
    """The page says what to do about each."""
    assert {error.code for error in every_error()} == REMEDIES.keys()
