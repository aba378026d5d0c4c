"""Escaping for XML does what the standard library does, without what that imports."""

from __future__ import annotations

import subprocess
import sys
from xml.sax import saxutils

from hypothesis import given
from hypothesis import strategies as st

from imgproxy.render.escaping import escape, quoteattr

TEXT = st.text(st.one_of(st.sampled_from("&<>\"'\n\r\t"), st.characters()))


@given(TEXT)
def test_text_and_attributes_are_escaped_as_by_the_standard_library(text: str) -> None:
    """For any text, with every character that has a meaning in XML."""
    assert escape(text) == saxutils.escape(text)
    assert quoteattr(text) == saxutils.quoteattr(text)


def test_a_render_process_starts_without_an_http_client() -> None:
    """Neither `http.client` nor `email` is imported by what it runs."""
    code = "import sys, imgproxy.render.pipeline, imgproxy.render.child; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"http.client", "email", "urllib.request"}.isdisjoint(found)
