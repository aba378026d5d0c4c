"""From image URLs to plans: what each parameter means, when it has an effect, and what `Vary` names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from imgproxy.config.url import UrlSettings
from imgproxy.errors import BadParameter, Expired
from imgproxy.params.appearance import TRANSPARENT_WHITE, Adjust, Blend, Border, Colour, Mask, Sides
from imgproxy.params.faces import needs_faces, plan_of_faces, without_faces
from imgproxy.params.negotiate import ClientHeaders, read_headers
from imgproxy.params.plan import (
    Bounds,
    ColourSpace,
    Crop,
    FaceChoice,
    Fit,
    Focal,
    Format,
    Frames,
    Mark,
    Metadata,
    Output,
    Px,
    Ratio,
    RenderPlan,
    Resize,
    Trim,
)
from imgproxy.params.request import ImageRequest, safe_name
from tests.support.params import build_request

RED = Colour(255, 0, 0)
CHROME = read_headers(accept="image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8")
SAFARI = read_headers(accept="image/webp,image/png,image/*;q=0.8,*/*;q=0.5")
LEGACY = read_headers(accept="*/*")
LENIENT = UrlSettings()


def request(query: str, headers: ClientHeaders = LEGACY, settings: UrlSettings = LENIENT) -> ImageRequest:
    return build_request(f"/a.jpg?{query}", headers, settings)


def plan(query: str, headers: ClientHeaders = LEGACY, settings: UrlSettings = LENIENT) -> RenderPlan:
    found = request(query, headers, settings).plan
    assert found is not None
    return found


# --- pass-through --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "",
        "ixlib=js-3.8.0",
        "s=6797c24146142d5b40bde3141fd3600c",
        "expires=99999999999",
        "dl=name.jpg",
        "utm_source=x&v=3",
        "txt=hello",
        "w=abc",
        "w",
        "preset=none",
    ],
)
def test_nothing_to_render_gives_the_original(query: str) -> None:
    """Without a parameter that renders there is no plan, and no `Vary`."""
    found = request(query, CHROME)
    assert (found.plan, found.vary) == (None, ())


@pytest.mark.parametrize("query", ["w=100", "q=75", "auto=format", "dpr=2", "fit=clip", "fp-x=0.1", "orient=0"])
def test_any_rendering_parameter_renders(query: str) -> None:
    """One parameter that renders is enough, also at its default."""
    assert request(query).plan is not None


def test_legacy_crop_part_renders() -> None:
    """The crop part of the path alone makes a plan."""
    found = build_request("/a.jpg/C=W10,H20,X1,Y2", LEGACY, LENIENT)
    assert found.key == "a.jpg"
    assert found.plan == plan("rect=1,2,10,20")


# --- size ----------------------------------------------------------------------------------------------------------

RESIZES: list[tuple[str, Resize]] = [
    ("w=400", Resize(Px(400))),
    ("w=400&dpr=2", Resize(Px(800))),
    ("w=300&dpr=1.5", Resize(Px(450))),
    ("w=45&dpr=1.1", Resize(Px(49.5))),
    ("w=25&dpr=2", Resize(Px(50))),
    ("w=0.25&dpr=2", Resize(Ratio(0.5))),
    ("dpr=3", Resize()),
    ("w=1", Resize()),
    ("w=1&h=1&fit=scale", Resize()),
    ("w=400&fit=crop", Resize(Px(400))),
    ("w=400&fit=scale", Resize(Px(400))),
    ("w=400&fit=fill&fill-color=red", Resize(Px(400))),
    ("w=400&fit=min", Resize(Px(400), fit=Fit.MAX)),
    ("fit=max", Resize()),
    ("w=400&h=300&ar=2:1&fit=crop", Resize(Px(400), Px(300), fit=Fit.CROP)),
    ("w=400&ar=2:1&fit=crop", Resize(Px(400), aspect=2.0, fit=Fit.CROP)),
    ("w=400&ar=2:1", Resize(Px(400))),
    ("w=400&ar=2:1&fit=min", Resize(Px(400), fit=Fit.MAX)),
    ("w=400&h=300&fit=facearea", Resize(Px(400), Px(300), fit=Fit.CROP)),
    ("w=400&h=300&fit=facearea,fill", Resize(Px(400), Px(300), fit=Fit.FILL)),
    ("w=400&h=300&fit=unknown", Resize(Px(400), Px(300))),
    ("w=400&h=300&crop=top", Resize(Px(400), Px(300))),
    ("w=400&h=300&fit=crop&crop=left,top", Resize(Px(400), Px(300), fit=Fit.CROP, crop=(Crop.TOP, Crop.LEFT))),
    ("w=400&h=300&fit=crop&crop=faces,entropy", Resize(Px(400), Px(300), fit=Fit.CROP, crop=(Crop.ENTROPY,))),
    ("w=400&h=300&fit=crop&crop=faces", Resize(Px(400), Px(300), fit=Fit.CROP)),
    ("w=400&h=300&fit=crop&crop=faces,center", Resize(Px(400), Px(300), fit=Fit.CROP)),
    ("w=400&h=300&fit=crop&crop=entropy,top", Resize(Px(400), Px(300), fit=Fit.CROP, crop=(Crop.ENTROPY,))),
    (
        "w=400&h=300&fit=crop&crop=focalpoint&fp-x=0.3&fp-z=2",
        Resize(Px(400), Px(300), fit=Fit.CROP, crop=(Crop.FOCALPOINT,), focal=Focal(0.3, 0.5, 2.0)),
    ),
    ("w=400&h=300&fit=crop&fp-x=0.3&fp-z=2", Resize(Px(400), Px(300), fit=Fit.CROP)),
    ("w=400&h=300&fit=crop&crop=focalpoint", Resize(Px(400), Px(300), fit=Fit.CROP)),
    (
        "w=400&h=300&fit=crop&crop=focalpoint&fp-x=0",
        Resize(Px(400), Px(300), fit=Fit.CROP, crop=(Crop.LEFT,)),
    ),
    (
        "w=400&fit=crop&crop=focalpoint&fp-z=2",
        Resize(Px(400), fit=Fit.CROP, crop=(Crop.FOCALPOINT,), focal=Focal(0.5, 0.5, 2.0)),
    ),
    ("h=200&max-w=200&fit=crop", Resize(None, Px(200), fit=Fit.CROP, bounds=Bounds(max_width_px=200))),
    (
        "h=200&max-w=200&fit=crop&dpr=2",
        Resize(None, Px(400), fit=Fit.CROP, bounds=Bounds(max_width_px=400)),
    ),
    ("h=200&max-w=200", Resize(None, Px(200))),
    ("w=500&h=200&max-w=200&min-h=300&fit=crop", Resize(Px(200), Px(300), fit=Fit.CROP)),
    ("w=100&max-w=200&fit=crop", Resize(Px(100))),
    ("w=100&min-w=300&max-w=200&h=100&fit=crop", Resize(Px(300), Px(100), fit=Fit.CROP)),
    ("w=400&h=300&fit=fill", Resize(Px(400), Px(300), fit=Fit.FILL)),
    ("w=400&h=300&fit=fill&fill-color=red", Resize(Px(400), Px(300), fit=Fit.FILL, fill_colour=RED)),
    ("w=400&h=300&fit=fill&fill=blur&fill-color=red", Resize(Px(400), Px(300), fit=Fit.FILL, fill_blur=True)),
    ("w=400&h=300&fit=fill&fill=gen", Resize(Px(400), Px(300), fit=Fit.FILL)),
    ("w=400&h=300&fit=fill&fill-color=red&bg=red", Resize(Px(400), Px(300), fit=Fit.FILL)),
    ("ar=2:1&fit=fill", Resize(aspect=2.0, fit=Fit.FILL)),
]


NO_HEADERS = ClientHeaders()
BOX = "w=400&h=300"
FALLBACK = Resize(Px(400), Px(300), fit=Fit.CROP)
WITH_FACES = [
    ("fit=crop&crop=faces", replace(FALLBACK, faces=FaceChoice())),
    ("fit=min&crop=faces", replace(FALLBACK, fit=Fit.MIN, faces=FaceChoice())),
    ("fit=crop&crop=faces,top,right", replace(FALLBACK, crop=(Crop.TOP, Crop.RIGHT), faces=FaceChoice())),
    ("fit=crop&crop=faces&faceindex=2&facepad=3", replace(FALLBACK, faces=FaceChoice(2))),
    ("fit=crop&crop=top,faces", replace(FALLBACK, crop=(Crop.TOP,))),
    ("fit=clip&crop=faces", replace(FALLBACK, fit=Fit.CLIP)),
    ("fit=facearea", replace(FALLBACK, faces=FaceChoice(is_area=True))),
    ("fit=facearea,fill&facepad=2.5", replace(FALLBACK, fit=Fit.FILL, faces=FaceChoice(is_area=True, pad=2.5))),
    ("fit=facearea&crop=faces,left", replace(FALLBACK, crop=(Crop.LEFT,), faces=FaceChoice(is_area=True))),
    ("fit=fill,facearea", replace(FALLBACK, fit=Fit.FILL)),
]


@pytest.mark.parametrize(("query", "resize"), WITH_FACES)
def test_resize_with_a_detector(query: str, resize: Resize) -> None:
    """Faces count if they are named first and the fit cuts; the rest of the plan is for a picture without faces."""
    asked = f"/a/b.jpg?{BOX}&{query}"
    found = build_request(asked, NO_HEADERS, UrlSettings(), finds_faces=True)
    lacking = build_request(asked, NO_HEADERS, UrlSettings())
    assert found.plan is not None
    assert found.plan.resize == resize
    assert without_faces(found.plan) == lacking.plan
    assert (found.lacks_detector, lacking.lacks_detector) == (False, resize.faces is not None)


@pytest.mark.parametrize(
    ("query", "is_wanted"),
    [("fm=json&faces=1", True), ("fm=json", False), ("fm=json&faces=0", False), ("faces=1", False)],
)
def test_only_json_lists_faces(query: str, is_wanted: bool) -> None:
    """`faces=1` has an effect together with fm=json only."""
    found = build_request(f"/a/b.jpg?{query}", NO_HEADERS, UrlSettings(), finds_faces=True)
    assert found.plan is not None
    assert needs_faces(found.plan) is is_wanted


def test_one_face_record_serves_all_sizes() -> None:
    """The plan that finds the faces depends on the page and the orientation only."""
    plans = [
        build_request(f"/a/b.jpg?crop=faces&fit=crop&{query}", NO_HEADERS, UrlSettings(), finds_faces=True).plan
        for query in ("w=10&h=20", "w=300&h=300&auto=format&sepia=80", "w=9&h=9&orient=3", "w=9&h=9&page=2")
    ]
    small, large, turned, second = (plan_of_faces(plan).digest for plan in plans if plan is not None)
    assert small == large
    assert len({small, turned, second}) == 3


@pytest.mark.parametrize(("query", "resize"), RESIZES)
def test_resize(query: str, resize: Resize) -> None:
    """Size, fit and crop are canonical: values without effect are at their defaults."""
    assert plan(query).resize == resize


def test_full_width_counts_with_padding() -> None:
    """w=1 is the size of the source, so it is dropped, unless padding has to fit inside it."""
    assert plan("w=1&pad=10").resize == Resize(Ratio(1.0))
    assert plan("pad=10").resize == Resize()


@pytest.mark.parametrize("query", ["w=0", "h=-3", "w=0.0", "mark=http://elsewhere.example/x.png"])
def test_values_that_are_never_valid_are_refused_in_lenient_mode(query: str) -> None:
    """A size of 0 and URLs of other hosts are 400 in both modes."""
    with pytest.raises(BadParameter):
        request(query)


# --- everything else -------------------------------------------------------------------------------------------------

PLANS: list[tuple[str, RenderPlan]] = [
    ("orient=90", RenderPlan(orient=6)),
    ("flip=H", RenderPlan(flip="h")),
    ("rot=-90&rot-type=pivot", RenderPlan(rotation=270.0, is_pivot=True)),
    ("rot=360&rot-type=pivot", RenderPlan()),
    ("bg=ff0000", RenderPlan(background=RED)),
    ("bg=0123", RenderPlan()),
    ("pad=10&pad-left=0&dpr=2", RenderPlan(pad=Sides(10, 10, 10, 0))),
    ("w=100&pad=10&dpr=2", RenderPlan(resize=Resize(Px(200)), pad=Sides(20, 20, 20, 20))),
    ("w=100&pad=60", RenderPlan(resize=Resize(Px(100)))),
    ("border=10,red", RenderPlan(border=Border(Sides(10, 10, 10, 10), RED))),
    (
        "w=100&dpr=2&border=10,red&border-top=0&border-radius=5",
        RenderPlan(resize=Resize(Px(200)), border=Border(Sides(0, 20, 20, 20), RED, (10,))),
    ),
    ("border-top=5&border-radius=5", RenderPlan()),
    ("mask=ellipse&corner-radius=5", RenderPlan(mask=Mask("ellipse"))),
    ("mask=corners", RenderPlan(mask=Mask("corners"))),
    ("mask=corners&corner-radius=1,2,3,4&mask-bg=red", RenderPlan(mask=Mask("corners", (1, 2, 3, 4), RED))),
    ("corner-radius=5", RenderPlan()),
    ("trim=auto&trim-tol=9", RenderPlan(trim=Trim("auto"))),
    ("trim=color&trim-color=red&trim-tol=9&trim-md=3", RenderPlan(trim=Trim("color", RED, 9.0))),
    ("trim=alpha&trim-alpha=9&trim-pad=3", RenderPlan(trim=Trim("alpha", alpha=9, pad_px=3))),
    ("trim-color=red", RenderPlan()),
    ("bri=10&con=-20.5", RenderPlan(adjust=Adjust(brightness=10.0, contrast=-20.5))),
    ("sat=0&usmrad=9&duotone-alpha=50", RenderPlan()),
    ("usm=20&usmrad=9", RenderPlan(adjust=Adjust(unsharp=20.0, unsharp_radius=9.0))),
    ("mono=ff0000", RenderPlan(adjust=Adjust(monochrome=RED))),
    ("mono=0f00", RenderPlan()),
    ("duotone=000,f00&duotone-alpha=0", RenderPlan()),
    ("invert=true&auto=enhance", RenderPlan(adjust=Adjust(invert=True, enhance=True))),
    ("blend=red&bm=normal&balph=50", RenderPlan(blend=Blend(RED, "normal", 50.0))),
    ("blend-color=red", RenderPlan(blend=Blend(RED))),
    ("blend=red&blend-alpha=0", RenderPlan()),
    ("blend=logo.png&flip=h", RenderPlan(flip="h")),
    ("mark=/logo.png", RenderPlan(mark=Mark("logo.png"))),
    ("mark=logo.png%3Fw%3D100&markalign=left,top", RenderPlan(mark=Mark("logo.png", "left", "top"))),
    ("mark-base=/logos/&mark=a.png&mark-pad=0", RenderPlan(mark=Mark("logos/a.png", pad_px=0))),
    ("mark=logo.png&mark-x=3&mark-pad=9", RenderPlan(mark=Mark("logo.png", x_px=3, y_px=0))),
    ("mark=l.png&mark-w=0.2&mark-scale=9", RenderPlan(mark=Mark("l.png", width=Ratio(0.2)))),
    ("mark=l.png&mark-scale=9&mark-fit=max", RenderPlan(mark=Mark("l.png", scale=9.0))),
    (
        "w=100&dpr=2&mark=l.png&mark-w=20&mark-tile=grid",
        RenderPlan(resize=Resize(Px(200)), mark=Mark("l.png", pad_px=10, width=Px(40), is_tiled=True)),
    ),
    ("mark=logo.png&mark-alpha=0", RenderPlan()),
    ("mark-w=20", RenderPlan()),
    ("page=2&frame=3", RenderPlan(frames=Frames(page=2, first=3, last=3))),
    ("frame=2-5&loop=0&reverse=true", RenderPlan(frames=Frames(first=2, last=5, loop=0, is_reversed=True))),
    ("frame=4-4&loop=3", RenderPlan(frames=Frames(first=4, last=4))),
    ("frame=4-", RenderPlan(frames=Frames(first=4))),
    ("frame=-4", RenderPlan(frames=Frames(last=4))),
]


@pytest.mark.parametrize(("query", "expected"), PLANS)
def test_plans(query: str, expected: RenderPlan) -> None:
    """Each parameter sets its field, scaled by dpr, if it has an effect."""
    assert plan(query) == expected


def test_an_image_is_not_its_own_watermark() -> None:
    """A mark that names the picture itself is 400, as in imgix."""
    with pytest.raises(BadParameter, match="another image"):
        request("mark=/a.jpg")


@pytest.mark.parametrize("mark", ["../secret", "a//b", "a%00", "%2Fa%2F..%2Fb"])
def test_a_watermark_is_a_key(mark: str) -> None:
    """The path of a watermark follows the rules of keys, after control characters are removed."""
    if mark == "a%00":
        assert plan(f"mark={mark}").mark == Mark("a")
    else:
        with pytest.raises(BadParameter):
            request(f"mark={mark}")


# --- output --------------------------------------------------------------------------------------------------------

AVIF, WEBP = "avif", "webp"
OUTPUTS: list[tuple[str, ClientHeaders, Output]] = [
    ("w=9", CHROME, Output()),
    ("fm=jpg", CHROME, Output(Format.JPEG)),
    ("fm=jpeg&q=75&chromasub=420&jpg-progressive=true&cs=srgb", CHROME, Output(Format.JPEG)),
    ("fm=pjpg&jpg-progressive=false", CHROME, Output(Format.JPEG)),
    ("fm=jpg&jpg-progressive=false", CHROME, Output(Format.JPEG, is_progressive=False)),
    ("fm=jpg&chromasub=422&dpi=300", CHROME, Output(Format.JPEG, chroma_444=True, dpi=300)),
    ("fm=png&q=20&lossless=true&chromasub=444&jpg-progressive=0", CHROME, Output(Format.PNG)),
    ("fm=png32", CHROME, Output(Format.PNG)),
    ("fm=png8&colorquant=16", CHROME, Output(Format.PNG8, colours=16)),
    ("fm=gif&colorquant=256&dpi=300", CHROME, Output(Format.GIF)),
    ("fm=webp&lossless=true&q=20", CHROME, Output(Format.WEBP, is_lossless=True)),
    ("fm=avif&lossless=true&q=20", CHROME, Output(Format.AVIF, quality=20)),
    ("fm=jp2&w=9", CHROME, Output()),
    ("cs=strip", CHROME, Output(colour_space=ColourSpace.STRIP)),
    ("iptc=allow", CHROME, Output()),
    ("iptc=block", CHROME, Output(metadata=Metadata.NONE)),
    ("auto=format", CHROME, Output(Format.AVIF, is_negotiated=True, avif_max_pixels=4_000_000, may_be_webp=True)),
    ("auto=format", SAFARI, Output(Format.WEBP, is_negotiated=True)),
    ("auto=format", LEGACY, Output()),
    ("auto=format&fm=png", LEGACY, Output(Format.PNG)),
    ("auto=format&fm=png", CHROME, Output(Format.AVIF, avif_max_pixels=4_000_000, may_be_webp=True)),
    ("auto=format&fm=gif", CHROME, Output(Format.AVIF, avif_max_pixels=4_000_000, may_be_webp=True)),
    (
        "auto=compress",
        CHROME,
        Output(Format.COMPRESSED, quality=45, colour_space=ColourSpace.STRIP, metadata=Metadata.NONE),
    ),
    (
        "auto=compress&fm=webp&cs=srgb&q=75&iptc=allow",
        CHROME,
        Output(Format.COMPRESSED, metadata=Metadata.CREDIT),
    ),
    (
        "auto=compress&auto=format",
        SAFARI,
        Output(
            Format.WEBP,
            is_negotiated=True,
            quality=45,
            colour_space=ColourSpace.STRIP,
            metadata=Metadata.NONE,
        ),
    ),
    (
        "auto=format,compress",
        LEGACY,
        Output(Format.COMPRESSED8, quality=45, colour_space=ColourSpace.STRIP, metadata=Metadata.NONE),
    ),
    ("fm=blurhash&q=20&cs=strip&auto=format", CHROME, Output(Format.BLURHASH)),
    ("palette=json&colors=3&prefix=x&fm=png", CHROME, Output(Format.PALETTE_JSON, colours=3)),
    ("palette=css", CHROME, Output(Format.PALETTE_CSS, colours=6)),
    ("palette=css&prefix=x", CHROME, Output(Format.PALETTE_CSS, colours=6, palette_prefix="x")),
]


@pytest.mark.parametrize(
    ("query", "cap_pixels", "expected"),
    [
        ("auto=format", 900_000, 900_000),
        ("auto=format&fm=jpg", 900_000, 900_000),
        ("auto=format", 0, None),
        ("fm=avif", 900_000, None),
    ],
)
def test_the_size_cap_of_avif(query: str, cap_pixels: int, expected: int | None) -> None:
    """The limit applies to an AVIF that auto=format chose, not to fm=avif."""
    request = build_request(f"/k.jpg?{query}", CHROME, UrlSettings(avif_max_pixels=cap_pixels))
    assert request.plan is not None
    assert (request.plan.output.format, request.plan.output.avif_max_pixels) == (Format.AVIF, expected)


@pytest.mark.parametrize(("query", "headers", "output"), OUTPUTS)
def test_output(query: str, headers: ClientHeaders, output: Output) -> None:
    """Format and encoder options, for clients with AVIF, with WebP and with neither."""
    assert plan(query, headers).output == output


def test_json_describes_the_original_whatever_else_is_asked() -> None:
    """fm=json has one plan."""
    assert plan("fm=json&w=100&q=3&auto=format&blur=9") == RenderPlan(output=Output(Format.JSON))


@pytest.mark.parametrize("still", ["jpg", "png", "png8"])
def test_still_formats_drop_animation_parameters(still: str) -> None:
    """Loop, speed and direction have no effect on a format without animation."""
    assert plan(f"fm={still}&loop=3&fps=5&reverse=1&frame=2-4").frames == Frames(first=2)


def test_background_of_jpeg_is_white_anyway() -> None:
    """A white background changes nothing for JPEG; it does for PNG."""
    assert plan("fm=jpg&bg=fff").background == TRANSPARENT_WHITE
    assert plan("fm=png&bg=fff").background == Colour(255, 255, 255)


def test_configured_metadata_policy_holds_unless_the_url_says_otherwise() -> None:
    """render.metadata is the default; iptc and auto=compress override it."""

    def metadata(query: str) -> Metadata | None:
        found = build_request(f"/a.jpg?{query}", LEGACY, LENIENT, metadata=Metadata.ALL).plan
        return found.output.metadata if found else None

    assert metadata("w=9") is Metadata.ALL
    assert metadata("w=9&iptc=allow") is Metadata.ALL
    assert metadata("w=9&iptc=block") is Metadata.NONE
    assert metadata("auto=compress") is Metadata.NONE


# --- what the answer depends on --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "vary"),
    [
        ("w=9", ()),
        ("fm=webp", ()),
        ("auto=format", ("Accept",)),
        ("auto=compress", ()),
        ("auto=format&fm=json", ()),
        ("auto=format&palette=json", ()),
        ("w=9&ch=width", ("Sec-CH-Width", "Width")),
        ("w=9&ch=dpr", ("Sec-CH-DPR", "DPR")),
        ("ch=dpr", ()),
        ("ch=save-data", ("Save-Data",)),
        ("ch=save-data&q=50", ()),
        ("ch=save-data&fm=png", ()),
        ("ch=save-data&auto=compress", ()),
        ("w=9&auto=format&ch=Width,DPR,Save-Data",
         ("Accept", "Save-Data", "Sec-CH-Width", "Width", "Sec-CH-DPR", "DPR")),
    ],
)  # fmt: skip
def test_vary_names_what_the_answer_depends_on(query: str, vary: tuple[str, ...]) -> None:
    """`Vary` has the headers that can change the plan, and no others."""
    for headers in (CHROME, LEGACY):
        assert request(query, headers).vary == vary


_OTHERS = {
    "Accept": read_headers(accept="image/webp"),
    "Save-Data": read_headers(save_data="on"),
    "DPR": read_headers(dpr="3"),
    "Width": read_headers(width="777"),
}


@pytest.mark.parametrize(
    "query", ["w=9", "auto=format", "w=9&ch=width", "w=9&ch=dpr", "ch=save-data", "ch=dpr", "fm=png&ch=save-data"]
)
def test_a_header_outside_vary_changes_nothing_and_one_in_it_does(query: str) -> None:
    """A header that is not in `Vary` never changes the plan; one that is can."""
    plain = request(query, read_headers())
    for name, headers in _OTHERS.items():
        changed = request(query, headers)
        assert changed.vary == plain.vary
        assert (changed.plan != plain.plan) is (name in plain.vary)


def test_client_hints_replace_size_and_ratio() -> None:
    """Width is in device pixels and replaces w; the height still follows the ratio; without headers the URL counts."""
    hints = read_headers(width="640", dpr="2")
    assert plan("w=100&h=50&ch=width,dpr", hints).resize == Resize(Px(640), Px(100))
    assert plan("w=100&h=50&ch=dpr", hints).resize == Resize(Px(200), Px(100))
    assert plan("w=100&h=50&dpr=3", hints).resize == Resize(Px(300), Px(150))
    assert plan("w=100&h=50&ch=width,dpr&dpr=3").resize == Resize(Px(300), Px(150))
    assert plan("ch=width", hints).resize == Resize(Px(640))


def test_save_data_lowers_the_default_quality_only() -> None:
    """With ch=save-data the default quality is 45; an explicit q stays."""
    saving = read_headers(save_data="on")
    assert plan("fm=jpg&ch=save-data", saving).output.quality == 45
    assert plan("fm=jpg&ch=save-data&q=90", saving).output.quality == 90
    assert plan("fm=jpg", saving).output.quality is None


# --- delivery ------------------------------------------------------------------------------------------------------


def test_expires_is_a_unix_time_or_an_error() -> None:
    """Digits are a time; any other text counts as expired, in both modes."""
    assert request("expires=1700000000").expires_at_s == 1_700_000_000
    assert request("w=9").expires_at_s is None
    assert (request("expires=" + "9" * 400).expires_at_s or 0) > 10**14
    for value in ("tomorrow", "-5", "1.5", "1e9", "\u0661"):
        with pytest.raises(Expired):
            request(f"expires={value}")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (None, None),
        ("bild.jpg", "bild.jpg"),
        ("zürich 1.jpg", "zürich 1.jpg"),
        ('a"b\\c/d.jpg', "abcd.jpg"),
        ("a\r\nSet-Cookie: x", "aSet-Cookie x"),
        ("../../etc/passwd", "etcpasswd"),
        ("...", None),
        ("\u202egpj.exe", "gpj.exe"),
    ],
)
def test_download_names_are_harmless(text: str | None, name: str | None) -> None:
    """A download name keeps its letters and loses paths, quotes, control and direction characters."""
    assert safe_name(text) == name


def test_download_names_are_short() -> None:
    """A name is cut to 200 bytes, between characters."""
    name = safe_name("ä" * 500)
    assert name is not None
    assert len(name.encode()) <= 200


# --- configuration -------------------------------------------------------------------------------------------------


def test_the_url_wins_over_defaults_and_auto_adds_up() -> None:
    """The URL wins over configured defaults; the values of auto add up."""
    settings = UrlSettings.model_validate({"defaults": {"auto": "format", "q": 60, "width": 500}})
    assert plan("fm=jpg", SAFARI, settings).output.format is Format.WEBP
    assert plan("w=100&auto=compress", LEGACY, settings).output == Output(
        Format.COMPRESSED8, quality=60, colour_space=ColourSpace.STRIP, metadata=Metadata.NONE
    )
    assert plan("w=100", LEGACY, settings).resize == Resize(Px(100))
    assert plan("", LEGACY, settings).resize == Resize(Px(500))


def test_presets_are_named_and_the_url_wins() -> None:
    """preset=a,b puts b over a over the defaults, and the URL's own parameters over all."""
    presets = {"teaser": {"w": 320, "h": 180, "fit": "crop"}, "sharp": {"sharp": 10, "w": 640}}
    settings = UrlSettings.model_validate({"presets": presets, "defaults": {"q": 60}})
    assert plan("preset=teaser", LEGACY, settings) == plan("w=320&h=180&fit=crop&q=60")
    assert plan("preset=teaser,sharp&h=100", LEGACY, settings) == plan("w=640&h=100&fit=crop&q=60&sharp=10")
    assert plan("preset=nosuch&w=5", LEGACY, settings) == plan("w=5&q=60")
    assert request("preset=nosuch", LEGACY, settings).notes


@pytest.mark.parametrize(
    "section",
    [
        {"defaults": {"wdith": 100}},
        {"defaults": {"w": 0}},
        {"defaults": {"q": 150}},
        {"defaults": {"fit": "cropp"}},
        {"defaults": {"ch": "width"}},
        {"defaults": {"s": "x"}},
        {"defaults": {"w64": "MTAw"}},
        {"defaults": "auto=format"},
        {"presets": {"a": {"preset": "b"}}},
        {"presets": {"a b": {"w": 1}}},
        {"presets": {"a": {"mark": "http://elsewhere.example/x.png"}}},
        {"width_ladder_px": [0]},
    ],
)
def test_configured_parameters_are_checked_at_start(section: dict[str, object]) -> None:
    """A default or preset that strict mode would refuse is an error of the configuration."""
    with pytest.raises(ValidationError):
        UrlSettings.model_validate(section)


def test_width_ladder_raises_the_width_and_scales_the_rest() -> None:
    """A width between two steps becomes the upper one, and height and padding grow by the same factor."""
    settings = UrlSettings(width_ladder_px=(800, 400, 1600))
    assert plan("w=200&h=100&pad=10", LEGACY, settings) == plan("w=400&h=200&pad=20")
    assert plan("w=400&dpr=1.5", LEGACY, settings).resize == Resize(Px(800))
    assert plan("w=9000", LEGACY, settings).resize == Resize(Px(1600))
    assert plan("h=100", LEGACY, settings).resize == Resize(None, Px(100))
    assert plan("w=0.3", LEGACY, settings).resize == Resize(Ratio(0.3))


def test_avif_can_be_turned_off() -> None:
    """With auto_avif=false clients with AVIF get WebP; fm=avif is still AVIF."""
    settings = UrlSettings(auto_avif=False)
    assert plan("auto=format", CHROME, settings).output.format is Format.WEBP
    assert plan("fm=avif", CHROME, settings).output.format is Format.AVIF


@pytest.mark.parametrize(
    ("query", "name"),
    [("w=9&v=3", "v"), ("w=abc", "w"), ("preset=nosuch", "preset"), ("w=9&mark-sclae=2", "mark-sclae")],
)
def test_strict_mode_refuses_what_lenient_mode_drops(query: str, name: str) -> None:
    """strict=true: unknown names, unreadable values and unknown presets are 400, naming the parameter."""
    assert request(query).notes
    with pytest.raises(BadParameter) as caught:
        request(query, LEGACY, UrlSettings(strict=True))
    assert caught.value.name == name


def test_strict_mode_takes_everything_the_official_clients_send() -> None:
    """ixlib, s, and parameters of imgix that have no effect here are no error."""
    query = "ixlib=js-3.8.0&w=320&dpr=1&q=75&auto=format&txt=x&bg-remove=true&s=6797c24146142d5b40bde3141fd3600c"
    assert not request(query, LEGACY, UrlSettings(strict=True)).notes
