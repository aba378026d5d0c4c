"""Any URL that the grammar allows gets the picture that its plan describes."""

from __future__ import annotations

import asyncio
import io
import random
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from PIL import Image

from imgproxy.config.url import UrlSettings
from imgproxy.params.negotiate import read_headers
from imgproxy.render.geometry import find_region, place
from imgproxy.render.sizes import Size
from tests.support.params import build_request
from tests.support.site import site

if TYPE_CHECKING:
    from pathlib import Path

    from imgproxy.params.plan import RenderPlan

ACCEPT = "image/avif,image/webp,*/*;q=0.8"
SOURCE = Size(60, 40)
# For each parameter, values of different kinds. Lengths fit the small source.
VALUES: dict[str, list[str]] = {
    "w": ["30", "90", "0.5", "1", "2"],
    "h": ["20", "90", "0.5", "1"],
    "dpr": ["0.75", "2", "5"],
    "ar": ["16:9", "1:3", "9"],
    "fit": ["clip", "max", "crop", "min", "scale", "fill", "fillmax", "clamp", "facearea", "facearea,fill"],
    "max-w": ["20", "200"],
    "min-h": ["10", "70"],
    "fill": ["blur", "solid"],
    "fill-color": ["red", "800f"],
    "rect": ["5,5,30,20", "center,middle,0.5,0.5", "right,top,20,full", "-5,-5,20,20", "500,0,9,9"],
    "crop": ["top", "bottom,right", "faces", "focalpoint", "edges", "entropy", "faces,entropy"],
    "fp-x": ["0", "0.3"],
    "fp-y": ["0.9"],
    "fp-z": ["1.5", "100"],
    "orient": ["0", "3", "6", "90"],
    "flip": ["h", "v", "hv"],
    "rot": ["90", "12.5", "359.9"],
    "rot-type": ["pivot", "straighten"],
    "bg": ["red", "80ff0000"],
    "pad": ["3", "100"],
    "pad-left": ["0", "9"],
    "border": ["2,red", "100,80ff0000"],
    "border-radius": ["5", "1,2,3,400"],
    "border-radius-inner": ["3"],
    "mask": ["ellipse", "corners"],
    "corner-radius": ["5", "1,2,3,400"],
    "mask-bg": ["blue"],
    "trim": ["auto", "color", "alpha", "colorunlessalpha"],
    "trim-pad": ["-5", "5"],
    "bri": ["-100", "50"],
    "con": ["-100", "100"],
    "exp": ["100"],
    "gam": ["-100", "100"],
    "hue": ["180"],
    "sat": ["-100", "100"],
    "vib": ["50"],
    "high": ["-100"],
    "shad": ["100"],
    "sharp": ["100"],
    "usm": ["-100", "100"],
    "usmrad": ["50"],
    "blur": ["1", "2000"],
    "px": ["1", "7", "100"],
    "monochrome": ["80ff0000"],
    "sepia": ["100"],
    "duotone": ["000,ff0"],
    "invert": ["true"],
    "blend": ["red"],
    "blend-mode": ["normal", "multiply", "hue", "luminosity", "burn", "dodge", "softlight"],
    "blend-alpha": ["50"],
    "mark": ["logo.png", "nosuch.png"],
    "mark-w": ["5", "0.5", "200"],
    "mark-fit": ["crop", "fill", "max", "scale"],
    "mark-align": ["top,left", "middle,center"],
    "mark-rot": ["30"],
    "mark-alpha": ["50"],
    "mark-tile": ["grid"],
    "auto": ["format", "compress", "enhance", "format,compress"],
    "fm": ["jpg", "pjpg", "png", "png8", "webp", "avif", "gif", "json", "blurhash"],
    "q": ["0", "100"],
    "lossless": ["true"],
    "jpg-progressive": ["false"],
    "chromasub": ["444"],
    "colorquant": ["2", "17"],
    "dpi": ["300"],
    "cs": ["origin", "adobergb1998", "tinysrgb", "strip"],
    "iptc": ["allow", "block"],
    "palette": ["json", "css"],
    "colors": ["0", "16"],
    "page": ["1", "9"],
    "frame": ["1", "2-3"],
    "interval": ["2"],
    "reverse": ["true"],
    "fps": ["5"],
    "loop": ["3"],
}


def picture(suffix: str) -> bytes:
    """Return a small picture with detail. A PNG has alpha, a GIF three frames."""
    mode = "RGBA" if suffix == "png" else "RGB"
    size = (SOURCE.width_px, SOURCE.height_px)
    frames = [Image.effect_noise(size, 60 + 20 * shade).convert(mode) for shade in range(3)]
    if suffix == "png":
        frames[0].putalpha(Image.linear_gradient("L").resize(size))
    out = io.BytesIO()
    if suffix == "gif":
        frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=100)
    else:
        frames[0].save(out, "JPEG" if suffix == "jpg" else "PNG")
    return out.getvalue()


def query(rng: random.Random) -> str:
    """Return a query with one to nine parameters."""
    names = rng.sample(sorted(VALUES), rng.randint(1, 9))
    return "&".join(f"{name}={quote(rng.choice(VALUES[name]))}" for name in names)


def expected_size(plan: RenderPlan) -> Size | None:
    """Return the size by the plan's geometry; None if it depends on the pixels."""
    if plan.trim is not None:
        return None
    is_turned = plan.orient is not None and plan.orient >= 5
    upright = Size(SOURCE.height_px, SOURCE.width_px) if is_turned else SOURCE
    return place(find_region(upright, plan.rect), plan).final


@pytest.mark.slow
async def test_any_url_gives_a_picture_of_the_planned_size(tmp_path: Path) -> None:
    """Of 600 random URLs over a JPEG, a PNG with alpha and a GIF, none fails, and each has its planned size."""
    rng = random.Random(20261123)
    failures = []
    pictures = {f"picture.{suffix}": picture(suffix) for suffix in ("jpg", "png", "gif")}
    async with site(tmp_path, pictures=pictures | {"logo.png": picture("png")}) as here:
        for _ in range(600):
            target = f"/{rng.choice(sorted(pictures))}?{query(rng)}"
            plan = build_request(target, read_headers(accept=ACCEPT), UrlSettings(strict=False)).plan
            async with asyncio.timeout(30):
                reply = await here.get(target, Accept=ACCEPT)
            if reply.status != 200:
                failures.append(f"{target}: {reply.status}")
            elif plan is not None and reply.headers["Content-Type"].startswith("image/"):
                size = expected_size(plan)
                found = Image.open(io.BytesIO(reply.body))
                found.load()
                if size is not None and found.size != (size.width_px, size.height_px):
                    failures.append(f"{target}: {found.size}, planned {size}")
        assert not failures, "\n".join(failures)
