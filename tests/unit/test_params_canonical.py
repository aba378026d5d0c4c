"""One picture, one digest: generated URLs with the same meaning in many spellings, and with different meanings."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgproxy.config.url import UrlSettings
from imgproxy.params import table
from imgproxy.params.negotiate import read_headers
from imgproxy.params.plan import RenderPlan
from tests.support.params import build_request

SETTINGS = UrlSettings()
CHROME = read_headers(accept="image/avif,image/webp,*/*")

# Values that always have an effect, in URLs with w, h and fm=jpg.
MEANINGS: dict[str, list[str]] = {
    "w": ["400", "401", "0.5", "0.25"],
    "h": ["300", "301", "0.5", "0.75"],
    "fit": ["clip", "max", "crop", "min", "scale", "fill", "fillmax", "clamp"],
    "dpr": ["1", "2", "1.5"],
    "rect": ["1,2,300,400", "center,top,300,400", "0.1,0.2,0.5,0.5", "0,0,full,10"],
    "q": ["75", "74", "20", "0"],
    "flip": ["h", "v", "hv"],
    "rot": ["0", "5", "90", "0.5"],
    "orient": ["1", "6", "3"],
    "bg": ["0fff", "red", "80ff0000", "00f"],
    "pad": ["0", "3", "4"],
    "border": ["1,red", "2,red", "2,blue"],
    "mask": ["ellipse", "corners"],
    "trim": ["auto", "color", "alpha"],
    "bri": ["0", "5", "-5"],
    "con": ["0", "7.5", "-7.5"],
    "hue": ["0", "10", "200"],
    "sharp": ["0", "10", "20"],
    "blur": ["0", "10", "20.5"],
    "px": ["0", "5", "6"],
    "sepia": ["0", "50", "51"],
    "monochrome": ["red", "80ff0000", "blue"],
    "duotone": ["000,fff", "red,fff"],
    "invert": ["false", "true"],
    "blend": ["red", "blue", "80ff0000"],
    "mark": ["logo.png", "logos/b c.png"],
    "chromasub": ["420", "444"],
    "cs": ["srgb", "strip", "origin"],
    "iptc": ["allow", "block"],
    "dpi": ["72", "300"],
    "jpg-progressive": ["true", "false"],
    "page": ["1", "2"],
}
# The value that an absent parameter has: to leave it out is another spelling.
ABSENT = {
    "dpr": "1", "q": "75", "rot": "0", "bg": "0fff", "pad": "0", "bri": "0", "con": "0", "hue": "0", "sharp": "0",
    "blur": "0", "px": "0", "sepia": "0", "invert": "false", "chromasub": "420", "cs": "srgb", "iptc": "allow",
    "jpg-progressive": "true", "page": "1", "fit": "clip",
}  # fmt: skip
# Without effect in these URLs: no crop mode, no trim mode that uses them, another output format, another client.
NOISE = [
    "crop=top", "fp-x=0.2", "fp-z=3", "max-w=50", "ar=2:1", "fill-color=red", "fill=blur", "lossless=true",
    "colorquant=16", "usmrad=7", "duotone-alpha=100", "mark-fit=max", "trim-pad=0", "corner-radius=", "colors=3",
    "loop=3", "fps=10", "ixlib=js-3.8.0", "utm_source=x", "txt=Hallo", "s=00000000000000000000000000000000",
    "dl=a.jpg", "expires=99999999999", "border-radius=0", "rot-type=straighten", "mark-pad=5", "mask-bg=", "v",
    "auto=redeye", "faceindex=1", "w=", "blend-mode=overlay", "mark-alpha=100", "gif-q=3",
]  # fmt: skip
NOISE_NEEDS = {"crop", "fp-x", "fp-z", "max-w", "fill-color", "fill"}
NUMERIC = {"q", "dpr", "rot", "bri", "con", "hue", "sharp", "blur", "px", "sepia", "pad", "dpi", "page"}


def digest(query: str, path: str = "/a%20b.jpg") -> str:
    plan = build_request(f"{path}?{query}", CHROME, SETTINGS).plan
    assert plan is not None
    return plan.digest


@st.composite
def meanings(draw: st.DrawFn) -> dict[str, str]:
    names = draw(st.sets(st.sampled_from(sorted(set(MEANINGS) - {"w", "h"})), max_size=10))
    chosen = {name: draw(st.sampled_from(MEANINGS[name])) for name in sorted(names | {"w", "h"})}
    return chosen | {"fm": "jpg"}


def spelled(draw: st.DrawFn, name: str, value: str) -> str:
    """Return one parameter in one of its spellings."""
    if name in NUMERIC:
        forms = [value, f"+{value}", f"0{value}", f"{value}0" if "." in value else f"{value}.0", f" {value}"]
        value = draw(st.sampled_from(forms if not value.startswith("-") else [value, f"{value} "]))
    elif name not in ("mark", "rect"):
        value = draw(st.sampled_from([value, value.upper(), value.title() if name != "rect" else value]))
    row = table.BY_NAME[name]
    written = draw(st.sampled_from(row.names))
    if row.has_base64 and draw(st.booleans()):
        encoded = base64.urlsafe_b64encode(value.encode()).decode()
        return f"{written}64={draw(st.sampled_from([encoded, encoded.rstrip('=')]))}"
    every = "".join(f"%{byte:02X}" for byte in value.encode())
    return f"{written}={draw(st.sampled_from([quote(value, safe=''), quote(value, safe=',:/').replace('%20', '+'), every, every.lower()]))}"


def url(draw: st.DrawFn, meaning: dict[str, str]) -> str:
    """Return a query with this meaning, in any order, with aliases, encodings, defaults and noise."""
    pairs = []
    fits_crop = meaning.get("fit") in ("crop", "min", "fill", "fillmax")
    for name, value in meaning.items():
        if value == ABSENT.get(name) and draw(st.booleans()):
            continue
        pairs.append(spelled(draw, name, value))
    defaults = draw(st.sets(st.sampled_from(sorted(set(ABSENT) - set(meaning))), max_size=4))
    noise = draw(st.lists(st.sampled_from(NOISE), max_size=5, unique=True))
    pairs += [spelled(draw, name, ABSENT[name]) for name in defaults]
    pairs += [item for item in noise if not (fits_crop and item.split("=")[0] in NOISE_NEEDS)]
    return "&".join(draw(st.permutations(pairs)))


@settings(deadline=None, max_examples=60)
@given(data=st.data(), meaning=meanings())
def test_spellings_of_one_picture_share_a_digest(data: st.DataObject, meaning: dict[str, str]) -> None:
    """Order, aliases, base64, escapes, spelled-out defaults and parameters without effect never change the digest."""
    first, second = data.draw(st.composite(url)(meaning)), data.draw(st.composite(url)(meaning))
    assert digest(first) == digest(second), (first, second)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), meaning=meanings(), name=st.sampled_from(sorted(MEANINGS)))
def test_one_changed_value_changes_the_digest(data: st.DataObject, meaning: dict[str, str], name: str) -> None:
    """Two URLs that differ in one parameter with an effect never share a digest."""
    values = MEANINGS[name]
    one, other = data.draw(st.permutations(values))[:2]
    first = data.draw(st.composite(url)(meaning | {name: one}))
    second = data.draw(st.composite(url)(meaning | {name: other}))
    assert digest(first) != digest(second), (first, second)


PAIRS = [
    ("w=400&dpr=2", "w=800"),
    ("w=400&h=300&dpr=2&pad=5", "w=800&h=600&pad=10"),
    ("w=0.25&dpr=2", "w=0.5"),
    ("w=400&fit=crop", "w=400"),
    ("w=400&fit=min", "w=400&fit=max"),
    ("w=400&h=300&fit=facearea", "w=400&h=300&fit=crop&crop=center"),
    ("w=400&h=300&fit=crop&crop=top,left", "w=400&h=300&fit=crop&crop=left,top"),
    ("w=400&h=300&fit=crop&crop=focalpoint&fp-x=0&fp-y=1", "w=400&h=300&fit=crop&crop=bottom,left"),
    ("w=400&h=300&fit=crop&crop=faces,edges", "w=400&h=300&fit=crop&crop=edges,top"),
    ("w=400&ar=16:9&fit=crop", "w=400&ar=32:18&fit=crop"),
    ("w=500&max-w=400&h=9&fit=crop", "w=400&h=9&fit=crop"),
    ("auto=compress&auto=format", "auto=format,compress"),
    ("auto=format&fm=gif", "auto=format&fm=png"),
    ("auto=compress", "auto=compress&q=45"),
    ("auto=compress", "auto=compress&fm=png&cs=strip"),
    ("fm=webp&lossless=true", "fm=webp&lossless=1&q=30"),
    ("fm=pjpg", "fm=jpg"),
    ("fm=png32", "fm=png"),
    ("fm=jpg&bg=ffffff", "fm=jpg"),
    ("bg=0123", "bg=0fff"),
    ("rot=-90", "rot=270"),
    ("rot=360", "flip="),
    ("orient=90", "orient=6"),
    ("orient=0", "orient=1"),
    ("rect=left,top,10,10", "rect=0,0,10,10"),
    ("rect=right,0,full,10", "rect=0,0,1.0,10"),
    ("rect=0,0,full,full", "rect=left,top,1.0,1.0"),
    ("mark=/logo.png", "mark=logo.png&markalign=bottom,right&markpad=5"),
    ("mark=logo.png&mark-x=0&mark-align=top&mark-pad=9", "mark=logo.png&mark-y=0"),
    ("frame=3", "frame=3-3&reverse=true"),
    ("frame=1", "frame=-1"),
    ("frame=1-3", "frame=-3"),
    ("loop=3", "loop=3&frame=1-"),
    ("fm=png&frame=3", "fm=png&frame=3-9"),
    ("fm=png", "fm=png&frame=1"),
    ("duotone=000,fff&duotone-alpha=0", "sepia=0"),
    ("fm=json&w=100", "fm=json"),
    ("palette=css&fm=png&q=3", "palette=css&colors=6&prefix=image"),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_different_words_for_one_picture(first: str, second: str) -> None:
    """By the rules, both queries mean the same picture, so they share a digest."""
    padding = "" if first.startswith("fm=json") else "&sepia=9"
    assert digest(first + padding) == digest(second + padding)


DIFFERENT = [
    ("w=100", "h=100"),
    ("w=1.0", "w=0.999"),
    ("w=400", "w=400&pad=5"),
    ("w=1&pad=5", "pad=5"),
    ("w=400&h=300&fit=crop&crop=top", "w=400&h=300&fit=crop&crop=bottom"),
    ("w=400&h=300&fit=crop&crop=edges", "w=400&h=300&fit=crop&crop=entropy"),
    ("w=400&h=300&fit=min", "w=400&h=300&fit=crop"),
    ("w=400&fit=max", "w=400"),
    ("w=400&fit=fillmax", "w=400"),
    ("w=400&ar=16:9&fit=crop", "w=400&ar=1.7777:1&fit=crop"),
    ("h=200&max-w=200&fit=crop", "h=200&max-w=201&fit=crop"),
    ("rect=0,0,1,1", "rect=0,0,1.0,1.0"),
    ("fm=avif", "auto=format"),
    ("auto=compress", "auto=compress,format"),
    ("q=75&fm=jpg", "q=76&fm=jpg"),
    ("fm=png8", "fm=png"),
    ("fm=png8&colorquant=8", "fm=png8&colorquant=9"),
    ("bg=fff&fm=png", "fm=png"),
    ("trim=auto&trim-md=5", "trim=auto"),
    ("mark=a.png", "mark=b.png"),
    ("mark=a.png&mark-w=100", "mark=a.png&mark-w=0.5"),
    ("frame=1", "frame=1-2"),
    ("frame=3", "frame=3-"),
    ("frame=3", "frame=-3"),
    ("fm=gif&loop=0", "fm=gif"),
    ("palette=css", "palette=json"),
    ("blur=0.000001", "blur=0.000002"),
    ("rot=45", "rot=45&rot-type=pivot"),
    ("fill=blur&fit=fill&w=9&h=9", "fit=fill&w=9&h=9"),
]


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_different_pictures_have_different_digests(first: str, second: str) -> None:
    """The queries look alike, but mean different pictures, so their digests differ."""
    assert digest(first) != digest(second)


def test_the_key_is_not_in_the_plan() -> None:
    """Two keys with the same query have the same plan."""
    assert digest("w=100", "/a.jpg") == digest("w=100", "/b/c.png")


def test_equal_plans_have_equal_text_and_digest() -> None:
    """The digest is that of the canonical text, so equality and digest never disagree."""
    for first, second in PAIRS + DIFFERENT:
        plans = [
            build_request(f"/a.jpg?{query}&fps=9", CHROME, SETTINGS).plan or RenderPlan() for query in (first, second)
        ]
        assert (plans[0] == plans[1]) is (plans[0].digest == plans[1].digest)
        assert (plans[0] == plans[1]) is (plans[0].canonical() == plans[1].canonical())
