"""
An example for each parameter of `imgproxy.params.table`: a query to show, or why there is nothing to see.

`tools.parameter_pictures` renders them for the site. It fails where a row of the table has no example here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

HARBOUR: Final = "2026/03/14/harbour-at-dusk.jpg"  # 6000 x 4000
PORTRAIT: Final = "2026/03/14/eileen-collins.jpg"  # 384 x 512
SUN: Final = "graphics/sun-and-showers.png"  # 1600 x 1200, with transparency
RADAR: Final = "2026/03/15/rain-radar.gif"  # 640 x 480, 24 frames
PLAIN: Final = "w=320"


@dataclass(frozen=True, slots=True)
class Example:
    """
    A picture with a parameter, beside the same picture without it.

    `added` is what the parameter adds to the query `without`. `accept` is the client's header.
    `note` says what to look at.
    """

    added: str
    without: str = PLAIN
    key: str = HARBOUR
    note: str = ""
    accept: str = "image/webp,image/*"

    @property
    def query(self) -> str:
        """The whole query."""
        return f"{self.without}&{self.added}" if self.without else self.added


@dataclass(frozen=True, slots=True)
class NoPicture:
    """A parameter without a picture, and why."""

    why: str


_SQUARE: Final = "w=240&h=240&fit=crop"
_FACE: Final = "w=240&h=240&fit=facearea"
_BOX: Final = "w=320&h=320"
_BORDER: Final = "w=320&border=12,ffd166"
_CORNERS: Final = "w=320&mask=corners"
_TRIM: Final = "w=240&bg=eee"
_SUN_ON_HARBOUR: Final = "w=320&mark=graphics/sun-and-showers.png"
_FRAMES: Final = "w=240"

EXAMPLES: Final[Mapping[str, Example | NoPicture]] = {
    # Size
    "w": Example("w=160", without="h=160", note="With both, the picture is as large as fits: see `fit`."),
    "h": Example("h=120", note="Without `w` the width follows."),
    "ar": Example("ar=1:1", without="w=240&fit=crop"),
    "dpr": Example("dpr=2", without="w=160", note="Twice the pixels: 320 for a space of 160 CSS pixels."),
    "fit": Example("fit=fill&fill-color=ffd166", without="w=320&h=320"),
    "max-w": Example("max-w=160", without="w=320&h=200&fit=crop"),
    "max-h": Example("max-h=100", without="w=320&h=200&fit=crop"),
    "min-w": Example("min-w=320", without="w=160&h=200&fit=crop"),
    "min-h": Example("min-h=200", without="w=320&h=100&fit=crop"),
    "fill": Example("fill=blur", without=f"{_BOX}&fit=fill"),
    "fill-color": Example("fill-color=4b6bfb", without=f"{_BOX}&fit=fill"),
    # Crop
    "rect": Example("rect=1900,1600,1300,1500", without="h=240"),
    "crop": Example("crop=right", without=_SQUARE, note="The lighthouse is at the right."),
    "fp-x": Example("fp-x=0.92", without=f"{_SQUARE}&crop=focalpoint"),
    "fp-y": Example("fp-y=0.1", without="w=320&h=100&fit=crop&crop=focalpoint"),
    "fp-z": Example("fp-z=4", without=f"{_SQUARE}&crop=focalpoint&fp-x=0.41&fp-y=0.65"),
    "faceindex": NoPicture("It chooses one of several faces. The sample photos show one person at most."),
    "facepad": Example("facepad=3", without=_FACE, key=PORTRAIT),
    # Orientation
    "orient": Example("orient=90"),
    "flip": Example("flip=h"),
    "rot": Example("rot=15"),
    "rot-type": Example("rot-type=pivot", without="w=320&rot=15"),
    # Frame, mask and trim
    "bg": Example("bg=4b6bfb", key=SUN),
    "pad": Example("pad=24&bg=ffd166"),
    "pad-top": Example("pad-top=48&bg=ffd166"),
    "pad-right": Example("pad-right=48&bg=ffd166"),
    "pad-bottom": Example("pad-bottom=48&bg=ffd166"),
    "pad-left": Example("pad-left=48&bg=ffd166"),
    "border": Example("border=12,ffd166"),
    "border-top": Example("border-top=40", without=_BORDER),
    "border-right": Example("border-right=40", without=_BORDER),
    "border-bottom": Example("border-bottom=40", without=_BORDER),
    "border-left": Example("border-left=40", without=_BORDER),
    "border-radius": Example("border-radius=40", without=_BORDER),
    "border-radius-inner": Example("border-radius-inner=40", without=_BORDER),
    "mask": Example("mask=ellipse", without="w=320&fm=png"),
    "corner-radius": Example("corner-radius=20", without=f"{_CORNERS}&fm=png"),
    "mask-bg": Example("mask-bg=4b6bfb", without=_CORNERS),
    "trim": Example("trim=alpha", without=_TRIM, key=SUN),
    "trim-color": Example("trim-color=0000&trim-tol=60", without=f"{_TRIM}&trim=color", key=SUN),
    "trim-tol": Example("trim-tol=120", without=f"{_TRIM}&trim=color&trim-color=0000", key=SUN),
    "trim-md": Example("trim-md=60", without="w=320&trim=auto&trim-sd=30"),
    "trim-sd": Example("trim-sd=30", without="w=320&trim=auto", note="The sky is uniform by this measure."),
    "trim-alpha": Example("trim-alpha=200", without=f"{_TRIM}&trim=alpha", key=SUN),
    "trim-pad": Example("trim-pad=150", without=f"{_TRIM}&trim=alpha", key=SUN),
    # Tone and style
    "bri": Example("bri=40"),
    "con": Example("con=40"),
    "exp": Example("exp=30"),
    "gam": Example("gam=40"),
    "hue": Example("hue=120", key=PORTRAIT, without="w=240"),
    "sat": Example("sat=-100", key=PORTRAIT, without="w=240"),
    "vib": Example("vib=80"),
    "high": Example("high=-80", key=PORTRAIT, without="w=240"),
    "shad": Example("shad=80"),
    "sharp": Example("sharp=60", key=PORTRAIT, without="w=240"),
    "usm": Example("usm=80", key=PORTRAIT, without="w=240"),
    "usmrad": Example("usmrad=12", key=PORTRAIT, without="w=240&usm=80"),
    "blur": Example("blur=60"),
    "px": Example("px=10", key=PORTRAIT, without="w=240"),
    "monochrome": Example("monochrome=4b6bfb"),
    "sepia": Example("sepia=80", key=PORTRAIT, without="w=240"),
    "duotone": Example("duotone=000080,ffd166"),
    "duotone-alpha": Example("duotone-alpha=40", without="w=320&duotone=000080,ffd166"),
    "invert": Example("invert=true"),
    # Overlays
    "blend": Example("blend=ffd166"),
    "blend-color": Example("blend-color=4b6bfb"),
    "blend-mode": Example("blend-mode=multiply", without="w=320&blend=ffd166"),
    "blend-alpha": Example("blend-alpha=30", without="w=320&blend=ffd166"),
    "mark": Example("mark=graphics/sun-and-showers.png&mark-w=0.3"),
    "mark-base": Example("mark-base=graphics&mark=sun-and-showers.png&mark-w=0.3"),
    "mark-align": Example("mark-align=top,left", without=f"{_SUN_ON_HARBOUR}&mark-w=0.3"),
    "mark-pad": Example("mark-pad=40", without=f"{_SUN_ON_HARBOUR}&mark-w=0.3"),
    "mark-x": Example("mark-x=20", without=f"{_SUN_ON_HARBOUR}&mark-w=0.3"),
    "mark-y": Example("mark-y=20", without=f"{_SUN_ON_HARBOUR}&mark-w=0.3"),
    "mark-w": Example("mark-w=0.6", without=_SUN_ON_HARBOUR),
    "mark-h": Example("mark-h=60", without=_SUN_ON_HARBOUR),
    "mark-scale": Example("mark-scale=25", without=_SUN_ON_HARBOUR),
    "mark-fit": Example("mark-fit=scale", without=f"{_SUN_ON_HARBOUR}&mark-w=150&mark-h=60"),
    "mark-alpha": Example("mark-alpha=40", without=f"{_SUN_ON_HARBOUR}&mark-w=0.3"),
    "mark-rot": Example("mark-rot=20", without=f"{_SUN_ON_HARBOUR}&mark-w=0.3"),
    "mark-tile": Example("mark-tile=grid", without=f"{_SUN_ON_HARBOUR}&mark-w=0.2"),
    "mark-if-min-width": Example(
        "mark-if-min-width=400",
        without=f"{_SUN_ON_HARBOUR}&mark-w=0.3",
        note="This picture is 320 pixels wide: no watermark."
    ),
    "mark-if-min-height": Example(
        "mark-if-min-height=400",
        without=f"{_SUN_ON_HARBOUR}&mark-w=0.3",
        note="This picture is 213 pixels high: no watermark."
    ),
    # Format and encoding
    "auto": Example(
        "auto=format", note="The client accepts AVIF: the same to the eye, and smaller.", accept="image/avif,image/webp"
    ),
    "fm": Example("fm=webp"),
    "faces": Example("faces=1", without="fm=json", key=PORTRAIT),
    "q": Example("q=10"),
    "lossless": Example("lossless=true", without="w=320&fm=webp", note="The same to the eye, with more bytes."),
    "jpg-progressive": Example(
        "jpg-progressive=false", note="The same pixels. A baseline JPEG appears from top to bottom."
    ),
    "chromasub": Example("chromasub=444", note="Edges between strong colours are sharper, for more bytes."),
    "colorquant": Example("colorquant=8", without="w=320&fm=png8"),
    "dpi": NoPicture("It is a number in the file for printing programs. The pixels stay."),
    "cs": Example("cs=adobergb1998", note="The same colours to the eye. The file has another profile."),
    "iptc": NoPicture("Credit and copyright are in the file, not in its pixels."),
    "palette": Example("palette=css&colors=4"),
    "colors": Example("colors=3", without="palette=css"),
    "prefix": Example("prefix=hero", without="palette=css&colors=3"),
    # Pages and frames
    "page": NoPicture("It needs a document with pages, such as a TIFF. None of the sample photos has pages."),
    "frame": Example("frame=1", without=_FRAMES, key=RADAR, note="One frame: it stands still."),
    "loop": Example("loop=1", without=_FRAMES, key=RADAR, note="It plays once. Reload the page to see it."),
    "interval": Example("interval=4", without=_FRAMES, key=RADAR, note="Every fourth frame."),
    "skip": Example("skip=2", without=_FRAMES, key=RADAR, note="Without every second frame."),
    "reverse": Example("reverse=true", without=_FRAMES, key=RADAR),
    "fps": Example("fps=25", without=_FRAMES, key=RADAR),
    # Client hints and delivery
    "ch": NoPicture("The picture depends on headers that the browser sends."),
    "preset": NoPicture("It stands for parameters of your configuration, and looks as they do."),
    "dl": NoPicture("The browser saves the file instead of showing it."),
    "expires": NoPicture("It limits how long the URL is valid. The pixels stay."),
    "s": NoPicture("It is the signature of the URL. The pixels stay."),
    "ixlib": NoPicture("It names the client that made the URL, and has no effect."),
}  # fmt: skip
