"""Replaces the part of a page between two marker lines."""

from __future__ import annotations


def replace_between(page: str, begin: str, end: str, text: str) -> str:
    """
    Return the page with `text` between its two marker lines.

    Raises:
        ValueError: a marker is missing.
    """
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"the page needs the lines {begin} and {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"
