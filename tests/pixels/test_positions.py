"""Positions: no property that tells where a picture was taken leaves, under any policy, in any format."""

from __future__ import annotations

import json
import re
import struct
from typing import TYPE_CHECKING, Any

import pytest

from imgproxy.params.plan import Format, Metadata, Output, RenderPlan
from imgproxy.render import credit
from imgproxy.render.credit import Credit
from tests.support import containers, images, tagged
from tests.support.rendering import render

if TYPE_CHECKING:
    from collections.abc import Iterator

# Every property is given a value of its own, and no such value may be in a variant.
VALUE = re.compile(rb"LEAK-\d+")

# Properties of XMP that hold a position, by namespace. Sources: XMP Specification part 2 (exif), CIPA DC-010 (exifEX);
# IPTC Photo Metadata (LocationDetails, with GPS and identifiers); W3C Basic Geo; GeoRSS; Darwin Core; the drones of DJI,
# Parrot, Skydio and Autel; Pix4D's "Camera"; ExifTool's own namespaces; properties that photo libraries invented.
PROPERTIES = {
    "http://ns.adobe.com/exif/1.0/": """GPSVersionID GPSLatitude GPSLongitude GPSAltitudeRef GPSAltitude GPSTimeStamp
        GPSSatellites GPSStatus GPSMeasureMode GPSDOP GPSSpeedRef GPSSpeed GPSTrackRef GPSTrack GPSImgDirectionRef
        GPSImgDirection GPSMapDatum GPSDestLatitude GPSDestLongitude GPSDestBearingRef GPSDestBearing GPSDestDistanceRef
        GPSDestDistance GPSProcessingMethod GPSAreaInformation GPSDifferential GPSHPositioningError GPSDateStamp""",
    "http://cipa.jp/exif/1.0/": "GPSLatitude GPSLongitude",
    "http://www.w3.org/2003/01/geo/wgs84_pos#": "lat long alt lat_long location Point",
    "http://www.georss.org/georss": "point where elev featurename box",
    "http://www.opengis.net/gml": "pos Point posList",
    "http://rs.tdwg.org/dwc/terms/": """decimalLatitude decimalLongitude verbatimLatitude verbatimCoordinates footprintWKT
        minimumElevationInMeters coordinateUncertaintyInMeters""",
    "http://www.dji.com/drone-dji/1.0/": """Latitude Longitude GpsLatitude GpsLongitude GpsLongtitude GpsStatus
        AbsoluteAltitude RelativeAltitude AltitudeType FlightYawDegree RtkFlag RtkStdLat SensorId""",
    "http://www.uav.com/drone-dji/1.0/": "GpsLatitude AbsoluteAltitude",
    "http://www.parrot.com/drone-parrot/1.0/": "CapturedLatitude GimbalPitch HomeLatitude HomeLongitude HomeAltitude",
    "http://www.parrot.com/status/1.0/": "Home",
    "http://www.skydio.com/drone-skydio/1.0/": "Latitude Longitude AbsoluteAltitude CameraPositionNED",
    "http://www.autelrobotics.com/xmp/1.0/": "AboveGroundAltitude Position",
    "http://pix4d.com/camera/1.0": "GPSXYAccuracy GPSZAccuracy Yaw AboveGroundAltitude HorizCS",
    "http://pix4d.com/camera/1.0/": "GPSXYAccuracy",
    "http://ns.exiftool.org/EXIF/GPS/1.0/": "GPSLatitude",
    "http://ns.exiftool.org/Composite/1.0/": "GPSPosition GPSAltitude",
    "http://ns.adobe.com/xap/1.0/": "Latitude Longitude GeoTag Geohash geolocation",
    "http://ns.adobe.com/photoshop/1.0/": "GPSPosition Coordinates",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "LocationId",
    "http://ns.microsoft.com/photo/1.2/": "GPSLatitude what3words",
    "http://ns.google.com/photos/1.0/image/": "Data Mime",
    "http://ns.google.com/photos/1.0/audio/": "Data",
}

# Texts that are positions, in keywords.
TEXTS = ("geo:lat=LEAK-1", "geo:long=LEAK-2", "gps:latitude = LEAK-3", "geo:47.37,8.54;LEAK-4", "GPSLongitude=LEAK-5")


def packet() -> bytes:
    """A packet with every property in each of the three forms: attribute, element, and inside a structure of a list."""
    names = [(uri, name) for uri, words in PROPERTIES.items() for name in words.split()]
    attributes, elements, nested = "", "", ""
    for number, (uri, name) in enumerate(names):
        attributes += f'<rdf:Description xmlns:p="{uri}" p:{name}="LEAK-{number}1"/>'
        elements += f'<p:{name} xmlns:p="{uri}"><rdf:Seq><rdf:li>LEAK-{number}2</rdf:li></rdf:Seq></p:{name}>'
        nested += f'<p:{name} xmlns:p="{uri}">LEAK-{number}3</p:{name}>'
    words = "".join(f"<rdf:li>{text}</rdf:li>" for text in (*TEXTS, "Zoo"))
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'{attributes}<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="geo:47.4,8.5;LEAK-6"'
        ' xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"'
        f' photoshop:City="Zürich">{elements}<dc:subject><rdf:Bag>{words}</rdf:Bag></dc:subject>'
        "<dc:creator><rdf:Seq><rdf:li>Jane Doe</rdf:li></rdf:Seq></dc:creator>"
        f'<e:LocationCreated><rdf:Bag><rdf:li rdf:parseType="Resource"><e:CountryName>CH</e:CountryName>{nested}</rdf:li>'
        "</rdf:Bag></e:LocationCreated></rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def exif(order: str) -> bytes:
    """A block with every tag of the GPS IFD, and the tags beside it that tell a place or a height."""
    gps = [tagged.text(tag, b"LEAK-7%02d\0" % tag) for tag in range(32)]
    height = struct.pack(f"{order}II", 47_4711, 1)
    camera = [(tag, tagged.RATIONAL, 1, height) for tag in (0x9402, 0x9403, 0x9405)]
    # Blocks inside of the block, and texts that are positions.
    inner = tagged.resource(0x404, tagged.iim((2, 25, b"geo:lat=LEAK-800")))
    camera += [
        tagged.text(0x9286, b"ASCII\0\0\0geo:lat=LEAK-801", tagged.UNDEFINED),
        tagged.text(0xEA1C, b"LEAK-802", tagged.UNDEFINED),
    ]
    picture = [
        tagged.text(0x010E, b"geo:47.4,8.5;LEAK-803\0"),
        tagged.text(0x013B, b"Jane Doe\0"),
        tagged.text(
            0x02BC, b'<x xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="LEAK-804"/>', tagged.BYTE
        ),
        tagged.text(0x83BB, inner[12:], tagged.UNDEFINED),
        tagged.text(0x8649, inner, tagged.BYTE),
        tagged.text(0x9C9E, "Zoo;geo:lat=LEAK-805\0".encode("utf-16-le"), tagged.BYTE),
    ]
    return tagged.block(order, picture, camera, gps)


def sources() -> Iterator[tuple[str, bytes]]:
    """Pictures with all of it, in every format that can hold it."""
    xmp, pixels = packet(), images.quarters()
    iptc = b"Photoshop 3.0\0" + tagged.resource(0x404, tagged.iim(*((2, 25, text.encode()) for text in TEXTS)))
    jpeg = tagged.with_segments(images.jpeg(pixels), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp), (0xED, iptc))
    for order in ("<", ">"):
        yield f"JPEG{order}", tagged.with_exif(jpeg, exif(order))
    for kind in ("WEBP", "PNG", "AVIF"):
        options: dict[str, Any] = {} if kind == "PNG" else {"xmp": xmp}
        data = images.encode(pixels, kind, exif=b"Exif\0\0" + exif(">"), **options)
        yield (
            kind,
            containers.with_chunks(data, (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)) if kind == "PNG" else data,
        )
    blocks = [
        tagged.text(700, xmp, tagged.BYTE),
        tagged.text(34377, iptc.removeprefix(b"Photoshop 3.0\0"), tagged.BYTE),
    ]
    yield "TIFF", tagged.tiff("<", blocks)


SOURCES = dict(sources())


@pytest.mark.parametrize("wanted", [Format.JPEG, Format.WEBP, Format.AVIF, Format.PNG, Format.GIF])
@pytest.mark.parametrize("policy", list(Metadata))
@pytest.mark.parametrize("name", SOURCES)
def test_no_position_leaves(name: str, policy: Metadata, wanted: Format) -> None:
    """Of some hundred properties in all forms, none is in the variant. What is no position stays under `all`."""
    assert len(set(VALUE.findall(SOURCES[name]))) > 150
    data = render(SOURCES[name], RenderPlan(output=Output(format=wanted, metadata=policy))).data
    text = data + data.decode("utf-16-le", "ignore").encode() + data.decode("utf-16-be", "ignore").encode()
    assert not VALUE.findall(text)
    assert b"GPS" not in text
    assert struct.pack("<I", 47_4711) not in data
    assert struct.pack(">I", 47_4711) not in data
    if policy is Metadata.ALL and wanted is not Format.GIF:
        assert "Zürich".encode() in data
        assert b"<dc:subject><rdf:Bag><rdf:li>Zoo</rdf:li></rdf:Bag></dc:subject>" in data
        assert b"CountryName" in data


def test_positions_are_not_in_fm_json() -> None:
    """The description of a picture has no position, and no height."""
    for data in SOURCES.values():
        text = render(data, RenderPlan(output=Output(format=Format.JSON))).data
        assert not VALUE.findall(text)
        assert b"GPS" not in text
        assert b"474711" not in text
        assert json.loads(text)["PixelWidth"] in (16, 64)


def test_the_credit_of_owners_is_no_private_property() -> None:
    """Owners of the rights stay under `all`; the owner of the camera does not."""
    xmp = credit.as_xmp(Credit(creators=("Jane",))).replace(
        b'<rdf:Description rdf:about=""',
        b'<rdf:Description rdf:about="" xmlns:aux="http://ns.adobe.com/exif/1.0/aux/" aux:OwnerName="LEAK-8"'
        b' xmlns:exifEX="http://cipa.jp/exif/1.0/" exifEX:CameraOwnerName="LEAK-9" plus:CopyrightOwnerName="dpa"',
    )
    data = images.jpeg(images.quarters(), xmp=xmp)
    found = render(data, RenderPlan(output=Output(metadata=Metadata.ALL))).data
    assert b'plus:CopyrightOwnerName="dpa"' in found
    assert not VALUE.findall(found)
