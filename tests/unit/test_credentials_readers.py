"""
The sources and certificates of the tests are what they say, and two readers agree on them.

One reader is c2pa-python, the other the program c2patool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import c2pa
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from imgproxy.credentials.actions import MadeFacts, actions_of
from imgproxy.params.appearance import Adjust, Border, Colour, Mask, Sides
from imgproxy.params.plan import Fit, Mark, Output, Px, Ratio, Rect, RenderPlan, Resize
from tests.support.c2patool import needs_c2patool, read_file
from tests.support.credentials import (
    ALGORITHMS,
    FORMATS,
    GENERATED,
    Authority,
    actions,
    authority,
    camera,
    linked,
    manifest_beside,
    newsroom,
    read,
    sign,
    signed_source,
    tampered,
    unsigned_source,
    with_key_of,
)

if TYPE_CHECKING:
    from pathlib import Path

MISMATCHES = {"assertion.dataHash.mismatch", "assertion.bmffHash.mismatch"}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("parents", [0, 1])
def test_a_source_is_as_from_a_camera(kind: str, parents: int) -> None:
    """A signed source is trusted, has its generations, how it was captured, and what may be done with it."""
    found = read(signed_source(kind, parents=parents, training="notAllowed"), kind)

    assert found is not None
    assert (found.state, found.failures) == ("Trusted", set())
    generations = found.generations
    assert len(generations) == 1 + parents
    assert actions(generations[-1])[0]["digitalSourceType"].endswith("/digitalCapture")
    (training,) = (each["data"] for each in generations[-1]["assertions"] if each["label"] == "c2pa.training-mining")
    assert {entry["use"] for entry in training["entries"].values()} == {"notAllowed"}
    assert [each["action"] for each in actions(generations[0])] == (
        ["c2pa.opened", "c2pa.adjustedColor"] if parents else ["c2pa.created"]
    )
    assert read(unsigned_source(kind), kind) is None


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("parents", [0, 1])
def test_a_tampered_source_is_invalid(kind: str, parents: int) -> None:
    """A byte outside the manifest that changed is seen, in each format and generation."""
    found = read(tampered(signed_source(kind, parents=parents)), kind)

    assert found is not None
    assert found.state == "Invalid"
    assert len(found.failures & MISMATCHES) == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_signs(algorithm: str) -> None:
    """A certificate of each algorithm is trusted if its authority is, and valid if it is not."""
    signed = signed_source(identity=authority().issue(algorithm), digital_source_type=GENERATED)
    ours, others = read(signed, "image/jpeg"), read(signed, "image/jpeg", trusted=Authority("Other"))

    assert ours is not None
    assert others is not None
    assert (ours.state, others.state) == ("Trusted", "Valid")
    assert others.failures == {"signingCredential.untrusted"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"days": (-9, -1)},
        {"days": (1, 9)},
        {"may_sign": False},
        {"purposes": ()},
        {"purposes": (ExtendedKeyUsageOID.SERVER_AUTH,)},
    ],
    ids=str,
)
def test_a_wrong_certificate_does_not_sign(wrong: dict[str, Any]) -> None:
    """A certificate that is expired, not yet valid, or for another use is refused by the library."""
    with pytest.raises(c2pa.C2paError, match="certificate"):
        signed_source(identity=authority().issue(**wrong))


def test_a_key_of_another_certificate_is_seen() -> None:
    """A picture that was signed with another key than the certificate's is invalid."""
    found = read(signed_source(identity=with_key_of(camera(), newsroom())), "image/jpeg")

    assert found is not None
    assert (found.state, found.failures) == ("Invalid", {"claimSignature.mismatch"})


PLAN = RenderPlan(
    rect=Rect(Px(3), Px(4), Ratio(0.5), Px(40)),
    resize=Resize(Px(20), Px(20), fit=Fit.CROP),
    flip="h",
    rotation=12.5,
    adjust=Adjust(saturation=-100.0, sharpen=10.0, blur=2.5),
    mark=Mark("logo.png", is_tiled=True, alpha=33.3),
    border=Border(Sides(1, 1, 1, 1), Colour(1, 2, 3)),
    mask=Mask("ellipse"),
    output=Output(quality=60),
)
MADE = MadeFacts("image/jpeg", "image/webp", 20, 20, 96, 64, 6, "40-1")


def test_the_actions_of_a_plan_stand_in_a_manifest() -> None:
    """A manifest with every action of a plan is trusted, and is read back with the same parameters."""
    made = [action.as_json() for action in actions_of(PLAN, MADE)]
    assertion = {"label": "c2pa.actions.v2", "data": {"actions": made, "allActionsIncluded": True}}
    made_into: dict[str, Any] = {"title": "variant", "generator": "b", "assertions": [assertion]}

    found = read(sign(unsigned_source(), "image/jpeg", newsroom(), parent=signed_source(), **made_into), "image/jpeg")

    assert found is not None
    assert found.state == "Trusted"
    opened, *others = actions(found.generations[0])
    assert opened["action"] == "c2pa.opened"
    assert others == made


# --- the other reader -------------------------------------------------------------------------------------------------


@needs_c2patool
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("parents", [0, 1])
def test_c2patool_reads_the_same(kind: str, parents: int, tmp_path: Path) -> None:
    """c2patool finds the same manifests, with the same assertions, and the same state, as c2pa-python."""
    file = tmp_path / f"source.{kind.removeprefix('image/')}"
    for data in (signed_source(kind, parents=parents), tampered(signed_source(kind, parents=parents))):
        file.write_bytes(data)
        ours, theirs = read(data, kind), read_file(file, trusted=authority())

        assert ours is not None
        assert theirs is not None
        assert theirs["validation_state"] == ours.state
        assert theirs["active_manifest"] == ours.json["active_manifest"]
        assert theirs["manifests"].keys() == ours.json["manifests"].keys()
        for label, manifest in theirs["manifests"].items():
            assert manifest["assertions"] == ours.json["manifests"][label]["assertions"]


@needs_c2patool
@pytest.mark.parametrize("kind", FORMATS)
def test_a_manifest_beside_a_picture_is_of_that_picture(kind: str, tmp_path: Path) -> None:
    """Both readers trust a manifest that is beside its picture, and refuse it for a picture that changed."""
    linked_one = linked(unsigned_source(kind), kind, "https://media.example.com/manifest")
    manifest, file = tmp_path / "manifest.c2pa", tmp_path / f"source.{kind.removeprefix('image/')}"
    manifest.write_bytes(manifest_beside(linked_one, kind))
    for data, expected in ((linked_one, "Trusted"), (tampered(linked_one), "Invalid")):
        file.write_bytes(data)
        ours = read(data, kind, manifest=manifest.read_bytes())
        theirs = read_file(file, trusted=authority(), manifest=manifest)

        assert ours is not None
        assert theirs is not None
        assert (ours.state, theirs["validation_state"]) == (expected, expected)


@needs_c2patool
def test_c2patool_finds_nothing_in_other_pictures(tmp_path: Path) -> None:
    """A picture without credentials has no manifest store."""
    file = tmp_path / "plain.jpeg"
    file.write_bytes(unsigned_source())

    assert read_file(file) is None
