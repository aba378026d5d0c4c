"""
Content Credentials for tests: certificates, sources as from a camera, and a reader. Nothing is fetched from a network.

`signed_source` writes with c2pa-python. `read` reads with the same library; `tests/support/c2patool.py` is the other reader.
"""

from __future__ import annotations

import datetime as dt
import functools
import io
import json
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from tests.support import heif, images

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.support.images import Pixels

    Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

FORMATS: Final = ("image/jpeg", "image/png", "image/webp", "image/avif", "image/heic", "image/tiff")
ALGORITHMS: Final = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")

SOURCE_TYPES: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/"
CAPTURE: Final = f"{SOURCE_TYPES}digitalCapture"
GENERATED: Final = f"{SOURCE_TYPES}trainedAlgorithmicMedia"

# What the EXIF of a source says, and what `tampered` makes of it.
DESCRIPTION: Final = b"Harbour at dusk"
_CHANGED: Final = b"Harbour at dawn"


# --- certificates -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signs: a certificate with those above it except the root, and its key, both as PEM."""

    algorithm: str
    chain: str
    key: str

    def write(self, folder: Path, name: str = "signer") -> tuple[Path, Path]:
        """Write both into files, for a configuration."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_text(self.chain)
        key.write_text(self.key)
        return certificate, key

    def signer(self) -> c2pa.Signer:
        """A signer of c2pa-python. It is used once."""
        info = c2pa.C2paSignerInfo(self.algorithm.encode(), self.chain.encode(), self.key.encode(), None)
        return c2pa.Signer.from_info(info)


def with_key_of(identity: Identity, other: Identity) -> Identity:
    """A certificate with the key of another one."""
    return replace(identity, key=other.key)


class Authority:
    """A root certificate, and what it signs."""

    def __init__(self, name: str = "Test Root") -> None:
        self._name = _subject(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._serial = 1
        builder = self._builder(self._name, self._key.public_key(), (-400, 4000))
        usage = _key_usage(key_cert_sign=True, crl_sign=True)
        root = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self._root = root.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        self.anchor = _pem(self._root)

    def issue(
        self,
        algorithm: str = "es256",
        *,
        name: str = "Test Camera",
        days: tuple[float, float] = (-1, 365),
        may_sign: bool = True,
        purposes: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.EMAIL_PROTECTION,),
        has_root: bool = False,
    ) -> Identity:
        """
        A certificate for a new key. `days` from now it begins and ends.

        As the C2PA specification 2.4 wants it (section 14.5.1), if `may_sign` and `purposes` are not changed.
        """
        key = _new_key(algorithm)
        usage = _key_usage(digital_signature=True) if may_sign else _key_usage(key_agreement=True)
        builder = self._builder(_subject(name), key.public_key(), days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(usage, critical=True)
        if purposes:
            is_clock = ExtendedKeyUsageOID.TIME_STAMPING in purposes  # RFC 3161, 2.3: critical
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=is_clock)
        chain = _pem(builder.sign(self._key, hashes.SHA256())) + (self.anchor if has_root else "")
        return Identity(algorithm, chain, _key_text(key))

    def own(self) -> Identity:
        """The root certificate with its key: self-signed, so no reader accepts what it signs."""
        return Identity("es256", self.anchor, _key_text(self._key))

    def _builder(self, subject: x509.Name, key: Any, days: tuple[float, float]) -> x509.CertificateBuilder:
        first, last = (_now() + dt.timedelta(days=each) for each in days)
        self._serial += 1
        ours = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder(self._name, subject, key, self._serial, first, last)
            .add_extension(ours, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )


@functools.cache
def authority() -> Authority:
    """The authority of the tests, made once."""
    return Authority()


@functools.cache
def camera() -> Identity:
    """Who signs the pictures of the camera."""
    return authority().issue(name="Test Camera")


@functools.cache
def newsroom() -> Identity:
    """Who signs what was done to them afterwards."""
    return authority().issue(name="Test Newsroom")


def _new_key(algorithm: str) -> Key:
    match algorithm:
        case "es256":
            return ec.generate_private_key(ec.SECP256R1())
        case "es384":
            return ec.generate_private_key(ec.SECP384R1())
        case "es512":
            return ec.generate_private_key(ec.SECP521R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
    assert algorithm in ALGORITHMS
    return rsa.generate_private_key(65537, 2048)


def _key_text(key: Key) -> str:
    kinds = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*kinds).decode()


def _subject(name: str) -> x509.Name:
    parts = ((NameOID.COUNTRY_NAME, "CH"), (NameOID.ORGANIZATION_NAME, f"{name} Ltd"), (NameOID.COMMON_NAME, name))
    return x509.Name([x509.NameAttribute(*part) for part in parts])


def _key_usage(**allowed: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**(dict.fromkeys(names, False) | allowed))


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


# --- sources ----------------------------------------------------------------------------------------------------------


def signed_source(
    kind: str = "image/jpeg",
    *,
    parents: int = 0,
    training: str | None = None,
    digital_source_type: str = CAPTURE,
    identity: Identity | None = None,
    pixels: Pixels | None = None,
    orientation: int = 1,
    padding_bytes: int = 0,
) -> bytes:
    """
    A picture with Content Credentials, as from a camera: EXIF, and a manifest that says how it was captured.

    With `parents=1` it is of the second generation: a newsroom opened such a picture, and made it brighter. `training`
    is "allowed", "notAllowed" or "constrained", for all four uses of the assertion; it is in the first generation, and so
    are `padding_bytes` of text, in place of the thumbnail of a real camera. `identity` is the camera's.
    """
    found = images.photo(96, 64) if pixels is None else pixels
    data = unsigned_source(kind, pixels=found, orientation=orientation)
    created = {"action": "c2pa.created", "digitalSourceType": digital_source_type}
    assertions = [_assertion("c2pa.actions.v2", {"actions": [created]})]
    if training is not None:
        uses = ("c2pa.ai_generative_training", "c2pa.ai_inference", "c2pa.ai_training", "c2pa.data_mining")
        assertions.append(_assertion("c2pa.training-mining", {"entries": {use: {"use": training} for use in uses}}))
    if padding_bytes:
        assertions.append(_assertion("org.example.padding", {"text": "x" * padding_bytes}))
    signed = sign(data, kind, identity or camera(), title="DSC_0001", generator="Test Camera", assertions=assertions)
    for number in range(parents):
        edit = _assertion("c2pa.actions.v2", {"actions": [{"action": "c2pa.adjustedColor", "description": "Brighter"}]})
        title = f"Edit {number + 1}"
        data = unsigned_source(kind, pixels=_brighter(found), orientation=orientation)
        signed = sign(data, kind, newsroom(), title=title, generator="Test Editor", assertions=[edit], parent=signed)
    return signed


def unsigned_source(kind: str = "image/jpeg", *, pixels: Pixels | None = None, orientation: int = 1) -> bytes:
    """The same picture without credentials."""
    found = images.photo(96, 64) if pixels is None else pixels
    exif = Image.Exif()
    exif[0x010E], exif[0x0110], exif[0x0112] = DESCRIPTION.decode(), "Test Camera", orientation
    if kind == "image/heic":
        return heif.write(heif.rgb(found), heif.exif(exif.tobytes().removeprefix(b"Exif\0\0"), of=1))
    name = kind.removeprefix("image/").upper()
    return images.encode(found, name, exif=exif)


def sign(
    data: bytes,
    kind: str,
    identity: Identity,
    *,
    title: str,
    generator: str,
    assertions: Sequence[Mapping[str, Any]] = (),
    parent: bytes | None = None,
) -> bytes:
    """Sign a picture, with another one of the same format as its parent."""
    manifest = {
        "title": title,
        "format": kind,
        "claim_generator_info": [{"name": generator, "version": "1.0"}],
        "assertions": list(assertions),
    }
    out = io.BytesIO()
    with c2pa.Builder(manifest, context=_context(authority())) as builder, identity.signer() as signer:
        if parent is not None:
            builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
            builder.add_ingredient({"title": title, "relationship": "parentOf"}, kind, io.BytesIO(parent))
        builder.sign(signer, kind, io.BytesIO(data), out)
    return out.getvalue()


def linked(data: bytes, kind: str, url: str) -> bytes:
    """A picture whose XMP has a link to its manifest, and no manifest."""
    out = io.BytesIO()
    manifest = {"format": kind, "claim_generator_info": [{"name": "Test Camera", "version": "1.0"}]}
    with c2pa.Builder(manifest, context=_context(authority())) as builder, camera().signer() as signer:
        builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.DIGITAL_CAPTURE)
        builder.set_no_embed()
        builder.set_remote_url(url)
        builder.sign(signer, kind, io.BytesIO(data), out)
    return out.getvalue()


def manifest_beside(data: bytes, kind: str, identity: Identity | None = None) -> bytes:
    """A manifest store for a picture, beside it: the picture stays as it is."""
    out = io.BytesIO()
    manifest = {"format": kind, "claim_generator_info": [{"name": "Test Camera", "version": "1.0"}]}
    with c2pa.Builder(manifest, context=_context(authority())) as builder, (identity or camera()).signer() as signer:
        builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.DIGITAL_CAPTURE)
        builder.set_no_embed()
        found: bytes = builder.sign(signer, kind, io.BytesIO(data), out)
    assert out.getvalue() == data
    return found


def tampered(signed: bytes) -> bytes:
    """
    Change a word in the EXIF of a signed source. Its manifest stays, and does not fit any more.

    The picture is as sound as before: a checksum of a PNG is corrected.
    """
    changed = signed.replace(DESCRIPTION, _CHANGED)
    assert changed != signed
    at = changed.find(b"eXIf")
    if not changed.startswith(b"\x89PNG") or at < 0:
        return changed
    size = int.from_bytes(changed[at - 4 : at], "big")
    checksum = zlib.crc32(changed[at : at + 4 + size]).to_bytes(4, "big")
    return changed[: at + 4 + size] + checksum + changed[at + 8 + size :]


def _brighter(pixels: Pixels) -> Pixels:
    found: Pixels = 255 - (255 - pixels) // 2
    return found


def _assertion(label: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {"label": label, "data": dict(data)}


# --- a reader ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Store:
    """A manifest store as c2pa-python reads it. `state` is Trusted, Valid or Invalid."""

    state: str
    text: str
    details: str

    @property
    def created(self) -> list[str]:
        """The URLs of the assertions for which the signer of the active manifest answers."""
        found = json.loads(self.details)
        claim = found["manifests"][found["active_manifest"]]["claim"]
        return [each["url"] for each in claim["created_assertions"]]

    @property
    def json(self) -> dict[str, Any]:
        """The whole report."""
        found: dict[str, Any] = json.loads(self.text)
        return found

    @property
    def generations(self) -> list[dict[str, Any]]:
        """The active manifest, its parent, and so on."""
        manifests, label = self.json["manifests"], self.json["active_manifest"]
        found = []
        while label is not None:
            found.append(manifests[label])
            parents = [each for each in found[-1].get("ingredients", ()) if each["relationship"] == "parentOf"]
            label = parents[0].get("active_manifest") if parents else None
        return found

    @property
    def failures(self) -> set[str]:
        """The codes of what is wrong with the active manifest."""
        results = self.json.get("validation_results", {}).get("activeManifest", {})
        return {each["code"] for each in results.get("failure", ())}


def read(data: bytes, kind: str, *, trusted: Authority | None = None, manifest: bytes | None = None) -> Store | None:
    """
    Read a picture's manifest store, or the one that is given with it; None if there is none.

    Those whom `trusted` has signed are trusted, by default those of `authority()`.
    """
    try:
        reader = c2pa.Reader(kind, io.BytesIO(data), manifest_data=manifest, context=_context(trusted or authority()))
    except c2pa.C2paError.ManifestNotFound:
        return None
    with reader:
        state = reader.get_validation_state()
        assert state is not None
        return Store(state, reader.json(), reader.detailed_json())


def are_all_told(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest says that its actions are complete."""
    found = [each["data"] for each in manifest["assertions"] if each["label"].startswith("c2pa.actions")]
    return all(data.get("allActionsIncluded", False) for data in found)


def actions(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The actions of a manifest, in their order."""
    found = (each["data"]["actions"] for each in manifest["assertions"] if each["label"].startswith("c2pa.actions"))
    return [action for part in found for action in part]


@functools.cache
def _context(trusted: Authority) -> c2pa.Context:
    settings = {
        "builder": {"thumbnail": {"enabled": False}},
        "trust": {"user_anchors": trusted.anchor},
        "verify": {
            "verify_trust": True,
            "ocsp_fetch": False,
            "remote_manifest_fetch": False,
            "verify_after_sign": False,
        },
    }
    return c2pa.Context(c2pa.Settings.from_dict(settings))
