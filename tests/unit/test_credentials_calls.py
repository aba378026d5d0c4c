"""The service of Content Credentials and its processes: what a restart of the signer may change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgproxy.config.credentials import ContentCredentialsSettings
from imgproxy.credentials.messages import Failure, Job, Kind, Reason, Result, Task
from imgproxy.credentials.service import CredentialsService
from imgproxy.telemetry.metrics import Metrics
from tests.support.credentials import authority, camera, newsroom

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_signer_that_starts_again_with_another_certificate_does_not_sign(tmp_path: Path) -> None:
    """The manifests name the certificate of the start: a signature of another key would be invalid."""
    certificate, key = newsroom().write(tmp_path)
    settings = ContentCredentialsSettings(
        mode="embed", public_url="https://images.example", certificate_file=certificate, key_file=key, timeout_s=60
    )
    service = CredentialsService(settings, metrics=Metrics(), sign_url=str, error_ttl_s=1)
    job = Job(Task.TRY, "trial", "", "", "", "", 0, "", str(tmp_path / "out"))
    try:
        await service.start()
        await _end_signer(service)
        again = await service.do(job)
        camera().write(tmp_path)
        await _end_signer(service)
        other = await service.do(job)
        newsroom().write(tmp_path)
        back = await service.do(job)
    finally:
        await service.close()

    assert isinstance(again, Result)
    assert again.kind is Kind.TRIED
    assert isinstance(other, Failure)
    assert other.reason is Reason.SIGNATURE
    assert isinstance(back, Result)


async def test_each_setting_that_changes_manifests_makes_new_variants(tmp_path: Path) -> None:
    """The mark is in the names of variants. The same settings have the same mark after a restart."""
    certificate, key = newsroom().write(tmp_path)
    other, other_key = camera().write(tmp_path, "other")
    anchors = tmp_path / "anchors.pem"
    anchors.write_text(authority().anchor)
    usual = {
        "mode": "embed",
        "public_url": "https://images.example",
        "certificate_file": certificate,
        "key_file": key,
    }
    changes: list[dict[str, object]] = [
        {"mode": "remote"},
        {"public_url": "https://other.example"},
        {"certificate_file": other, "key_file": other_key},
        {"trust_anchors_file": anchors},
        {"timestamp_url": "http://timestamp.example"},
        {"claim_generator": "The Paper"},
        {"c2pa_max_bytes": 1},
    ]

    first, again = await _mark(usual), await _mark(usual | {"timeout_s": 9})
    marks = [await _mark(usual | change) for change in changes]

    assert first == again
    assert len({first, *marks}) == 1 + len(changes)


async def _mark(chosen: dict[str, object]) -> str:
    settings = ContentCredentialsSettings.model_validate(chosen)
    service = CredentialsService(settings, metrics=Metrics(), sign_url=str, error_ttl_s=1)
    try:
        await service.start()
        return service.mark("digest")
    finally:
        await service.close()


async def _end_signer(service: CredentialsService) -> None:
    signer = service._signer
    assert signer is not None
    signer._child.kill()
    await signer._child.wait()
