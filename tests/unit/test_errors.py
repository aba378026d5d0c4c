"""The error tree keeps its promises."""

import pickle
from dataclasses import fields

import pytest

from imgproxy import errors
from imgproxy.errors import ImgproxyError


def every_error() -> list[ImgproxyError]:
    """One of each error of the tree, with plausible facts."""
    made = []
    pending = [ImgproxyError]
    while pending:
        cls = pending.pop()
        pending += [sub for sub in cls.__subclasses__() if sub.__module__ == errors.__name__]
        facts = {
            item.name: 3 if "int" in str(item.type) else 1.5 if "float" in str(item.type) else "text"
            for item in fields(cls)
        }
        made.append(cls(**facts))
    return made


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.code)
def test_an_error_has_a_status_a_code_and_a_sentence(error: ImgproxyError) -> None:
    """4xx or 5xx, a code of small letters, a public text that ends as a sentence and holds its facts."""
    assert 400 <= error.status < 600
    assert error.code.replace("_", "").isalpha()
    assert error.code == error.code.lower()
    assert error.title
    assert "{" not in error.public
    assert error.public.endswith((".", "text"))


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.code)
def test_an_error_survives_the_border_of_a_process(error: ImgproxyError) -> None:
    """Pickled and back, it is the same error with the same facts."""
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is type(error)
    assert again.facts() == error.facts()
    assert again.public == error.public


def test_codes_are_not_used_twice() -> None:
    """A script that reads the code knows the class."""
    codes = [error.code for error in every_error()]

    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.code)
def test_an_error_can_be_had_again_without_its_past(error: ImgproxyError) -> None:
    """A new instance with the same facts, and nothing of where the first was raised."""
    try:
        raise error
    except ImgproxyError as raised:
        again = raised.again()

    assert type(again) is type(error)
    assert again.facts() == error.facts()
    assert again.__traceback__ is None
