"""The two processes of Content Credentials, from inside: certificate, source, summary."""

import json
import time
from pathlib import Path
from typing import Any

import c2pa
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from imgproxy.manifests.certificate import CertificateProblemError, load_credential
from imgproxy.manifests.source import UnreadableError, generations, read_source
from imgproxy.manifests.summary import summary
from tests.support.credentials import Identity, authority, newsroom, signed_source, unsigned_source

CONTEXT = c2pa.Context(c2pa.Settings.from_dict({"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def now_s() -> float:
    """The time of the machine: the certificates of the tests are valid now."""
    return time.time()


def test_the_root_is_not_sent_with_every_picture(tmp_path: Path) -> None:
    """Readers know the roots that they trust; its bytes would be in every variant."""
    certificate, key = authority().issue(has_root=True).write(tmp_path)

    chain = load_credential(certificate, key, "es256", now_s()).chain_pem

    assert certificate.read_text().count("BEGIN CERTIFICATE") == 2
    assert chain.count("BEGIN CERTIFICATE") == 1


def test_a_chain_in_the_wrong_order_is_refused(tmp_path: Path) -> None:
    """Each certificate must be issued by the next one."""
    one, other = newsroom(), authority().issue(name="Somebody")
    certificate, key = Identity("es256", one.chain + other.chain, one.key).write(tmp_path)

    with pytest.raises(CertificateProblemError, match="certificate 1 is not issued by certificate 2"):
        load_credential(certificate, key, "es256", now_s())


def test_a_key_with_a_password_is_refused_in_words(tmp_path: Path) -> None:
    """Nobody is there to type it."""
    certificate, key = newsroom().write(tmp_path)
    plain = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )

    with pytest.raises(CertificateProblemError, match="expected a key without a password"):
        load_credential(certificate, key, "es256", now_s())


def test_a_short_rsa_key_is_refused(tmp_path: Path) -> None:
    """C2PA 13.2.1 wants 2,048 bits."""
    short = rsa.generate_private_key(65_537, 1_024)
    text = short.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate, key = Identity("ps256", newsroom().chain, text.decode()).write(tmp_path)

    with pytest.raises(CertificateProblemError):
        load_credential(certificate, key, "ps256", now_s())


def test_a_picture_without_a_manifest_is_unreadable(tmp_path: Path) -> None:
    """It is not taken for one with an empty manifest."""
    path = tmp_path / "a.jpg"
    path.write_bytes(unsigned_source())

    with pytest.raises(UnreadableError):
        read_source(str(path), "image/jpeg", "a.jpg", CONTEXT)


def test_a_chain_that_names_itself_ends() -> None:
    """A hostile store cannot keep the builder busy."""
    loop = {
        "active_manifest": "a",
        "manifests": {
            "a": {"ingredients": [{"relationship": "parentOf", "active_manifest": "b"}]},
            "b": {"ingredients": [{"relationship": "parentOf", "active_manifest": "a"}]},
        },
    }

    assert len(list(generations(loop))) == 2


def test_a_summary_is_bounded() -> None:
    """However much a manifest says, a picture's JSON stays short."""
    action = {"action": "c2pa.edited" * 1_000, "when": "x" * 10_000}
    manifest = {
        "title": "t" * 100_000,
        "claim_generator_info": [{"name": "n" * 10_000}] * 1_000,
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [action] * 1_000}}],
    }

    found = summary({"active_manifest": "a", "manifests": {"a": manifest}, "validation_state": "Valid"})

    assert len(json.dumps(found)) < 50_000


@given(
    st.fixed_dictionaries(
        {
            "active_manifest": st.just("a"),
            "manifests": st.fixed_dictionaries(
                {
                    "a": st.dictionaries(
                        st.sampled_from(
                            ["assertions", "ingredients", "signature_info", "claim_generator_info", "title"]
                        ),
                        json_values,
                    )
                }
            ),
            "validation_results": json_values,
        }
    )
)
def test_a_summary_is_made_of_any_json(store: dict[str, Any]) -> None:
    """What the library passes on of a stranger's manifest may have any shape."""
    found = summary(store)

    assert set(found) == {"validity", "problems", "generations"}


def test_signed_sources_have_their_generations(tmp_path: Path) -> None:
    """The newest first."""
    path = tmp_path / "a.jpg"
    path.write_bytes(signed_source(parents=1, training="notAllowed"))

    found = read_source(str(path), "image/jpeg", "a.jpg", CONTEXT)

    assert [one["title"] for one in generations(found.store)] == ["Edit 1", "DSC_0001"]
    assert found.source_type.endswith("/digitalCapture")
