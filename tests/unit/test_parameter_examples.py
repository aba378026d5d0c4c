"""The examples of the documentation: one for each parameter, and each shows what it is there for."""

from __future__ import annotations

import pytest

from imgproxy.config.url import UrlSettings
from imgproxy.params.explain import Effect, explain
from imgproxy.params.negotiate import read_headers
from imgproxy.params.request import RequestReader
from imgproxy.params.table import PARAMETERS, SECTIONS
from tools.parameter_examples import EXAMPLES, Example, NoPicture
from tools.parameter_pictures import PHOTOS, IncompleteExamples, Shown, check_complete, page, page_name

SHOWN = {name: example for name, example in EXAMPLES.items() if isinstance(example, Example)}


def test_every_parameter_has_an_example_and_no_example_is_left_over() -> None:
    """A new row of the table fails here, and fails the build of the site."""
    check_complete((row.name for row in PARAMETERS), EXAMPLES)


def test_a_missing_and_an_unknown_example_are_named() -> None:
    """The message says which file to change."""
    with pytest.raises(IncompleteExamples, match=r"parameter_examples.py has no example for b"):
        check_complete(["a", "b"], ["a"])
    with pytest.raises(IncompleteExamples, match=r"has examples for c: not in the table"):
        check_complete(["a"], ["a", "c"])


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_uses_its_parameter_and_nothing_unknown(name: str) -> None:
    """By the words of `imgproxy explain`: used, with no other parameter ignored or changed."""
    example, settings = SHOWN[name], UrlSettings()
    assert (PHOTOS / example.key).is_file()
    found = explain(
        f"/{example.key}?{example.query}",
        read_headers(example.accept),
        reader=RequestReader(settings),
        settings=settings,
    )
    effects = {line.parameter: line.effect for line in found.parameters}
    assert found.error is None
    # What these do is decided when the faces are known, after the plan that is explained.
    assert effects[name] is (Effect.NO_EFFECT if name in {"facepad", "faces"} else Effect.USED)
    assert set(effects.values()) <= {Effect.USED, Effect.NO_EFFECT}
    assert name not in {part.partition("=")[0] for part in example.without.split("&")}


def test_a_reason_for_no_picture_is_a_sentence() -> None:
    """So that it reads well below the parameter's name."""
    reasons = [example.why for example in EXAMPLES.values() if isinstance(example, NoPicture)]
    assert all(reason[0].isupper() and reason.endswith(".") for reason in reasons)
    assert len(reasons) < 0.15 * len(EXAMPLES)


def test_a_page_has_each_parameter_with_both_pictures_or_the_reason() -> None:
    """Its heading is the name, so that links can lead to it."""
    title, rows = SECTIONS[-1]
    text = page(title, rows, {})
    assert page_name(title) == "client-hints-and-delivery.md"
    assert "## `s` {: #s }\n\nThe signature; see below.\n\n*No picture: it is the signature" in text

    title, rows = SECTIONS[0]
    pairs = {
        row.name: (
            Shown("w=1", "image/jpeg", 999, file="a.jpg"),
            Shown("w=2&x=<", "image/webp", 2500, file=f"{row.name}.webp"),
        )
        for row in rows
    }
    text = page(title, rows, pairs)
    for row in rows:
        assert f'src="pictures/{row.name}.webp"' in text
    assert "<code>?w=2&amp;x=&lt;</code> WEBP, 2.5 kB" in text
    assert "JPG, 999 bytes" in text
