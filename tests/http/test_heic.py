"""HEIC as clients see it, with and without `imgproxy-edge[heic]`."""

import json
import os
from pathlib import Path

import pytest

from tests.support import heif
from tests.support.site import site, width_of

PHONE = "2026/03/14/phone.heic"


async def test_a_heic_is_served_as_what_the_client_takes(tmp_path: Path) -> None:
    """A photo of a phone is a JPEG or WebP, upright, and `fm=json` describes it; without parameters it is itself."""
    data = heif.write(heif.rgb(heif.picture()).having(heif.turn(3)))
    async with site(tmp_path, pictures={PHONE: data}) as here:
        as_jpeg = await here.get(f"/{PHONE}?w=40")
        as_webp = await here.get(f"/{PHONE}?w=40&auto=format", Accept="image/webp")
        described = json.loads((await here.get(f"/{PHONE}?fm=json")).body)
        untouched = await here.get(f"/{PHONE}")

        assert (as_jpeg.headers["Content-Type"], width_of(as_jpeg.body)) == ("image/jpeg", 40)
        assert (as_webp.headers["Content-Type"], width_of(as_webp.body)) == ("image/webp", 40)
        assert (described["PixelWidth"], described["PixelHeight"]) == (64, 96)
        assert (untouched.headers["Content-Type"], untouched.body) == ("image/heic", data)


async def test_without_the_extra_the_answer_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The render processes find no pi-heif: 422, with its own code and the name of the extra."""
    without = tmp_path / "without"
    without.mkdir()
    (without / "pi_heif.py").write_text("raise ImportError('not installed')\n")
    monkeypatch.setenv("PYTHONPATH", f"{without}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    async with site(tmp_path, pictures={PHONE: heif.write(heif.rgb(heif.picture()))}) as here:
        reply = await here.get(f"/{PHONE}?w=40")
        problem = json.loads(reply.body)

        assert (reply.status, problem["type"]) == (422, "urn:imgproxy:problem:heic-not-installed")
        assert "imgproxy-edge[heic]" in problem["detail"]
