"""
The certificate and the key that sign manifests: loaded, and checked against what C2PA asks of them.

Source: C2PA Technical Specification 2.2, 14.5 (certificate profile) and 13.2 (algorithms).
"""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

_HASHES: Final[Mapping[str, Callable[[], hashes.HashAlgorithm]]] = {
    "256": hashes.SHA256,
    "384": hashes.SHA384,
    "512": hashes.SHA512,
}
_CURVES: Final = {"es256": ec.SECP256R1, "es384": ec.SECP384R1, "es512": ec.SECP521R1}
# C2PA 14.5.1.1: these purposes are allowed to sign; the last one is C2PA's own.
_PURPOSES: Final = frozenset(
    {
        ExtendedKeyUsageOID.EMAIL_PROTECTION,
        ObjectIdentifier("1.3.6.1.5.5.7.3.36"),  # document signing, RFC 9336
        ObjectIdentifier("1.3.6.1.4.1.62558.2.1"),  # C2PA claim signing
    }
)
_RSA_MIN_BITS: Final = 2048


class CertificateProblemError(Exception):
    """The certificate or the key cannot be used. The text says why, for the operator."""


@dataclass(frozen=True, slots=True)
class Credential:
    """
    A chain of certificates, PEM, that of the signer first; its key; and until when it is valid, Unix time.

    `subject` and `issuer` are the names in the signer's certificate, as people read them.
    """

    chain_pem: str
    key: PrivateKey
    algorithm: str
    subject: str
    issuer: str
    expires_at_s: float

    def sign(self, data: bytes) -> bytes:
        """Return the signature of `data` in the form of COSE (RFC 9053, 2.1 and 2.2; RFC 8230, 2)."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(data)
        algorithm = _HASHES[self.algorithm[2:]]()
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            size_bytes = (self.key.curve.key_size + 7) // 8
            r, s = decode_dss_signature(self.key.sign(data, ec.ECDSA(algorithm)))
            return r.to_bytes(size_bytes, "big") + s.to_bytes(size_bytes, "big")
        pss = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=algorithm.digest_size)
        return self.key.sign(data, pss, algorithm)


def load_credential(certificate_file: Path, key_file: Path, algorithm: str, now_s: float) -> Credential:
    """
    Load certificate and key, and check that readers of manifests will accept them. `now_s`: Unix time.

    Raises CertificateProblemError.
    """
    try:
        certificates = x509.load_pem_x509_certificates(_read(certificate_file, "certificate_file"))
    except ValueError:
        raise CertificateProblemError(
            f"certificate_file {certificate_file}: expected certificates in PEM, the signer's first"
        ) from None
    key = _load_key(key_file)
    leaf = certificates[0]
    if _public_bytes(leaf.public_key()) != _public_bytes(key.public_key()):
        raise CertificateProblemError("key_file: expected the key of the first certificate; this is another key")
    _check_algorithm(key, algorithm)
    _check_profile(leaf)
    for number, certificate in enumerate(certificates, 1):
        _check_time(certificate, number, now_s)
    _check_chain(certificates)
    # A root that readers know by themselves adds bytes to every picture, so it is left out (C2PA 14.6).
    sent = [one for one in certificates if one is leaf or one.subject != one.issuer]
    chain = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in sent)
    ends = min(one.not_valid_after_utc for one in certificates)
    return Credential(
        chain_pem=chain.decode(),
        key=key,
        algorithm=algorithm,
        subject=_words(leaf.subject),
        issuer=_words(leaf.issuer),
        expires_at_s=ends.timestamp(),
    )


def check_anchors(path: Path) -> None:
    """
    Check that a file has certificates of authorities.

    The library that reads manifests takes any file, and would trust nobody. Raises CertificateProblemError.
    """
    try:
        x509.load_pem_x509_certificates(_read(path, "trust_anchors_file"))
    except ValueError:
        raise CertificateProblemError(f"trust_anchors_file {path}: expected certificates in PEM") from None


def _words(name: x509.Name) -> str:
    """Return the common name and the organisation of a name, as far as it has them."""
    found = (name.get_attributes_for_oid(oid) for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME))
    return ", ".join(dict.fromkeys(str(parts[0].value) for parts in found if parts)) or name.rfc4514_string()


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateProblemError(f"{name} {path}: {error.strerror}") from None


def _load_key(path: Path) -> PrivateKey:
    data = _read(path, "key_file")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise CertificateProblemError(f"key_file {path}: expected a key without a password") from None
    except ValueError:
        raise CertificateProblemError(f"key_file {path}: expected a private key in PEM") from None
    if not isinstance(key, PrivateKey):
        raise CertificateProblemError(f"key_file {path}: expected an EC, an RSA or an Ed25519 key")
    return key


def _public_bytes(key: object) -> bytes:
    assert hasattr(key, "public_bytes")
    found: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return found


def _check_algorithm(key: PrivateKey, algorithm: str) -> None:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        fitting = ["ed25519"]
    elif isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < _RSA_MIN_BITS:
            raise CertificateProblemError(f"key_file: expected an RSA key of at least {_RSA_MIN_BITS} bits")
        fitting = ["ps256", "ps384", "ps512"]
    else:
        fitting = [name for name, curve in _CURVES.items() if isinstance(key.curve, curve)]
    if algorithm not in fitting:
        allowed = " or ".join(fitting) or "a key on the curve P-256, P-384 or P-521"
        raise CertificateProblemError(f'algorithm = "{algorithm}": the key needs {allowed}')


def _check_profile(leaf: x509.Certificate) -> None:
    """Check the signer's certificate against the profile of C2PA, 14.5.1."""
    if leaf.subject == leaf.issuer:
        raise CertificateProblemError(
            "certificate_file: expected a certificate that an authority has issued; this one is self-signed, "
            "and readers of manifests refuse it"
        )
    found = leaf.extensions
    try:
        if found.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise CertificateProblemError("certificate_file: the first certificate is that of an authority")
    except x509.ExtensionNotFound:
        pass
    try:
        may_sign = found.get_extension_for_class(x509.KeyUsage).value.digital_signature
        purposes = set(found.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        may_sign, purposes = False, set()
    if not may_sign or not purposes & _PURPOSES:
        raise CertificateProblemError(
            "certificate_file: expected a certificate for signatures: key usage digitalSignature, and as extended key "
            "usage emailProtection, document signing or C2PA claim signing"
        )


def _check_time(certificate: x509.Certificate, number: int, now_s: float) -> None:
    now = dt.datetime.fromtimestamp(now_s, dt.UTC)
    if certificate.not_valid_after_utc < now:
        raise CertificateProblemError(
            f"certificate_file: certificate {number} expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
        )
    if certificate.not_valid_before_utc > now:
        raise CertificateProblemError(
            f"certificate_file: certificate {number} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d}"
        )


def _check_chain(certificates: list[x509.Certificate]) -> None:
    """Check that each certificate is issued by the next one."""
    for number, (one, issuer) in enumerate(itertools.pairwise(certificates), 1):
        try:
            one.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            raise CertificateProblemError(
                f"certificate_file: certificate {number} is not issued by certificate {number + 1}; "
                "expected the signer's first, then that of its issuer, and so on"
            ) from None
