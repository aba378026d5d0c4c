"""Content Credentials: variants of signed originals are signed, or linked to their manifest."""

import asyncio
import contextlib
import io
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image
from pydantic import SecretStr

from imgproxy.config.credentials import ContentCredentialsSettings
from imgproxy.config.sections import FreshnessSettings, LimitsSettings, RenderSettings, SigningSettings
from imgproxy.errors import ConfigError
from imgproxy.medialibrary.operations import RevokeAsset
from imgproxy.medialibrary.server import AccessToken, EmbeddedLibrary
from imgproxy.params.signature import sign, verify
from tests.support import credentials
from tests.support.credentials import (
    Identity,
    actions,
    are_all_told,
    authority,
    newsroom,
    read,
    signed_source,
    unsigned_source,
)
from tests.support.served import served
from tests.support.site import KEY, Reply, Site, site, until
from tests.support.slow import slow_but

PUBLIC = "https://images.example"
KINDS = ("image/jpeg", "image/png", "image/webp", "image/avif", "image/tiff")
ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")
FORMATS = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "avif": "image/avif"}
Opened = Callable[..., AbstractAsyncContextManager[Site]]


def settings_of(folder: Path, identity: Identity | None = None, **others: Any) -> ContentCredentialsSettings:
    """Settings with the certificate of the newsroom, and the authority of the tests."""
    certificate, key = (identity or newsroom()).write(folder)
    anchors = folder / "anchors.pem"
    anchors.write_text(authority().anchor)
    chosen = {"mode": "embed", "public_url": PUBLIC, "timeout_s": 60, **others}
    return ContentCredentialsSettings(certificate_file=certificate, key_file=key, trust_anchors_file=anchors, **chosen)


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """Return what opens a site with one picture, by default a signed one."""

    @asynccontextmanager
    async def make(
        picture: bytes | None = None, *, sections: dict[str, Any] | None = None, **others: Any
    ) -> AsyncIterator[Site]:
        pictures = {KEY: signed_source() if picture is None else picture}
        chosen = settings_of(tmp_path, **others)
        async with site(tmp_path, pictures=pictures, content_credentials=chosen, **(sections or {})) as here:
            yield here

    return make


def path_of(reply: Reply) -> str:
    """The target of the manifest that an answer links to."""
    link = reply.headers["Link"]
    assert link.endswith('; rel="c2pa-manifest"')
    url = link[1:].partition(">")[0]
    assert url.startswith(PUBLIC)
    return url.removeprefix(PUBLIC)


# --- embed ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", slow_but(["image/jpeg", "image/png"], KINDS))
async def test_a_variant_of_a_signed_original_is_signed_in_every_format(
    opened: Opened, kind: str, subtests: pytest.Subtests
) -> None:
    """The manifest has the original as its parent, with its whole chain, and says what was done."""
    async with opened(signed_source(kind, parents=1, training="notAllowed")) as here:
        for name, content_type in FORMATS.items():
            with subtests.test(name=name):
                reply = await here.get(f"/{KEY}?w=48&fm={name}")

                assert reply.status == 200
                assert reply.headers["X-Imgproxy-Credentials"] == "embedded"
                assert Image.open(io.BytesIO(reply.body)).size == (48, 32)
                store = read(reply.body, content_type)
                assert store is not None
                assert store.state == "Trusted"
                assert any(url.endswith("c2pa.actions.v2") for url in store.created)
                ours, edit, capture = store.generations
                assert ours["ingredients"][0]["relationship"] == "parentOf"
                assert [ours["signature_info"]["common_name"], edit["claim_generator_info"][0]["name"]] == [
                    "Test Newsroom",
                    "Test Editor",
                ]
                assert capture["claim_generator_info"][0]["name"] == "Test Camera"
                assert are_all_told(ours)
                done = {action["action"]: action for action in actions(ours)}
                assert done["c2pa.opened"]["digitalSourceType"] == credentials.CAPTURE
                assert done["c2pa.resized"]["parameters"]["org.imgproxy-edge.width"] == 48
                assert ("c2pa.transcoded" if content_type == kind else "c2pa.converted") in done


async def test_one_frame_of_a_signed_animation_is_told(opened: Opened) -> None:
    """Of an animation with more frames than the limit the first one is served, and its manifest says so."""
    frames, data = [Image.new("RGB", (96, 64), colour) for colour in ("red", "blue")], io.BytesIO()
    frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:])
    animation = credentials.sign(data.getvalue(), "image/webp", newsroom(), title="Radar", generator="Test Editor")
    async with opened(animation, sections={"limits": LimitsSettings(frames=1)}) as here:
        store = read((await here.get(f"/{KEY}?w=48&fm=webp")).body, "image/webp")
        assert store is not None
        [edited] = [each for each in actions(store.generations[0]) if each["action"] == "c2pa.edited"]
        assert edited["parameters"] == {"org.imgproxy-edge.step": "frames", "org.imgproxy-edge.firstFrameOnly": True}


async def test_the_assertion_about_training_is_kept(opened: Opened) -> None:
    """A reader looks for it in the newest manifest."""
    async with opened(signed_source(training="notAllowed")) as here:
        store = read((await here.get(f"/{KEY}?w=48")).body, "image/jpeg")

        assert store is not None
        found = next(one for one in store.generations[0]["assertions"] if one["label"] == "c2pa.training-mining")
        assert found["data"]["entries"]["c2pa.ai_training"] == {"use": "notAllowed"}


async def test_a_changed_byte_of_a_variant_is_detected(opened: Opened) -> None:
    """The signature is over the pixels that were sent."""
    async with opened() as here:
        body = bytearray((await here.get(f"/{KEY}?w=48")).body)
        body[-30] ^= 0x55

        store = read(bytes(body), "image/jpeg")

        assert store is not None
        assert store.state == "Invalid"


async def test_a_source_that_was_tampered_with_is_passed_on_as_such(opened: Opened) -> None:
    """Our own signature is right, and says that the parent's is not."""
    async with opened(credentials.tampered(signed_source())) as here:
        reply = await here.get(f"/{KEY}?w=48")

        store = read(reply.body, "image/jpeg")
        assert reply.headers["X-Imgproxy-Credentials"] == "embedded"
        assert store is not None
        assert store.failures == set()
        results = store.generations[0]["ingredients"][0]["validation_results"]["activeManifest"]
        assert [one["code"] for one in results["failure"]] == ["assertion.dataHash.mismatch"]


async def test_a_signed_variant_has_a_weak_tag_and_is_kept(opened: Opened) -> None:
    """A second signature would have other bytes, so the tag is weak; the file is signed once."""
    async with opened() as here:
        first = await here.get(f"/{KEY}?w=48")
        again = await here.get(f"/{KEY}?w=48")
        asked = await here.get(f"/{KEY}?w=48", If_None_Match=first.headers["ETag"])
        refused = await here.get(f"/{KEY}?w=48", If_Match=first.headers["ETag"])

        assert first.headers["ETag"].startswith('W/"')
        assert again.body == first.body
        assert (asked.status, asked.headers["ETag"]) == (304, first.headers["ETag"])
        assert refused.status == 412
        assert here.metric("imgproxy_credentials_total", result="embedded") == 1


@pytest.mark.parametrize(
    ("query", "picture"), [("w=48&iptc=block", signed_source()), ("w=48", unsigned_source()), ("fm=blurhash", None)]
)
async def test_a_variant_without_metadata_or_of_an_unsigned_original_has_none(
    tmp_path: Path, opened: Opened, query: str, picture: bytes | None
) -> None:
    """It has the bytes and the tag that it has without the feature, and nothing is asked to sign it."""
    data = picture or signed_source()
    (tmp_path / "plain").mkdir()
    async with site(tmp_path / "plain", pictures={KEY: data}) as plain:
        usual = await plain.get(f"/{KEY}?{query}")
    async with opened(data) as here:
        reply = await here.get(f"/{KEY}?{query}")

        assert reply.status == 200
        assert reply.body == usual.body
        assert reply.headers["ETag"] == usual.headers["ETag"]
        assert "X-Imgproxy-Credentials" not in reply.headers
        assert here.metric("imgproxy_credentials_total") == 0


async def test_by_default_credentials_are_stripped(tmp_path: Path) -> None:
    """Without the setting a variant has none, and no process is started."""
    async with site(tmp_path, pictures={KEY: signed_source()}) as here:
        reply = await here.get(f"/{KEY}?w=48")

        assert read(reply.body, "image/jpeg") is None
        assert here.edge.credentials is None


async def test_the_original_itself_is_passed_on_with_its_own(opened: Opened) -> None:
    """Without parameters nothing is done to it, so nothing is signed."""
    data = signed_source()
    async with opened(data) as here:
        assert (await here.get(f"/{KEY}")).body == data


async def test_another_certificate_makes_new_variants(tmp_path: Path, opened: Opened) -> None:
    """The tag counts it, and a restart with it does not serve the older signature."""
    async with opened() as here:
        before = await here.get(f"/{KEY}?w=48")
    async with opened(identity=authority().issue(name="Other Desk")) as here:
        after = await here.get(f"/{KEY}?w=48", If_None_Match=before.headers["ETag"])

        assert after.status == 200
        store = read(after.body, "image/jpeg")
        assert store is not None
        assert store.generations[0]["signature_info"]["common_name"] == "Other Desk"


@pytest.mark.parametrize("algorithm", slow_but(["es256", "ps256", "ed25519"], ALGORITHMS))
async def test_every_algorithm_signs(opened: Opened, algorithm: str) -> None:
    """What the library verifies is what the signer made."""
    async with opened(identity=authority().issue(algorithm), algorithm=algorithm) as here:
        store = read((await here.get(f"/{KEY}?w=48")).body, "image/jpeg")

        assert store is not None
        assert store.state == "Trusted"


# --- remote -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), FORMATS.items())
async def test_a_linked_variant_names_its_manifest_and_the_manifest_fits(opened: Opened, name: str, kind: str) -> None:
    """The link is in the header and in the XMP; the manifest is made when it is asked for, and is then a hit."""
    async with opened(signed_source(parents=1), mode="remote") as here:
        reply = await here.get(f"/{KEY}?w=48&fm={name}")
        target = path_of(reply)
        made = await here.get(target)
        again = await here.get(target)

        assert reply.headers["X-Imgproxy-Credentials"] == "linked"
        assert f'dcterms:provenance="{PUBLIC}{target}"'.encode() in reply.body
        assert (made.status, made.headers["Content-Type"]) == (200, "application/c2pa")
        assert again.body == made.body
        assert "hit" in again.cache_status
        store = read(reply.body, kind, manifest=made.body)
        assert store is not None
        assert store.state == "Trusted"
        assert len(store.generations) == 3
        changed = bytearray(reply.body)
        changed[-20] ^= 0x55
        broken = read(bytes(changed), kind, manifest=made.body)
        assert broken is not None
        assert broken.state == "Invalid"


async def test_a_revoked_picture_has_no_manifest_any_more(opened: Opened) -> None:
    """After the purge is acknowledged, the manifest is refused as the picture is; after a return it is made anew."""
    async with opened(mode="remote") as here:
        target = path_of(await here.get(f"/{KEY}?w=48"))
        first = await here.get(target)
        entry = here.library.entry_id(KEY)
        entry = here.library.entry_id(KEY)
        await here.library.patch(entry, RevokeAsset())
        await here.purge(entry)

        revoked = [await here.get(target), await here.get(f"/{KEY}?w=48")]

        assert first.status == 200
        assert [reply.status for reply in revoked] == [403, 403]


@pytest.mark.parametrize("what", ["picture", "manifest"])
async def test_what_is_signed_across_a_purge_is_never_sent(opened: Opened, what: str) -> None:
    """The purge is acknowledged while the builder stands still; what it finishes afterwards is thrown away."""
    async with opened(mode="remote") as here:
        service = here.edge.credentials_service
        assert service is not None
        reply = await here.get(f"/{KEY}?w=48")
        process = service._builder
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        target = path_of(reply) if what == "manifest" else f"/{KEY}?w=40"
        waiting = asyncio.create_task(here.get(target))
        await until(service._turn.locked)
        entry = here.library.entry_id(KEY)
        await here.library.patch(entry, RevokeAsset())

        receipt = await here.purge(entry)
        os.kill(process.pid, signal.SIGCONT)
        late = await waiting

        assert receipt.status == 200
        assert late.status == 403
        assert (await here.get(target)).status == 403


async def test_a_manifest_too_long_for_its_picture_becomes_a_link(opened: Opened) -> None:
    """Over `c2pa_max_bytes` the picture is linked, and the manifest is whole."""
    async with opened(signed_source(padding_bytes=30_000), c2pa_max_bytes=25_000) as here:
        reply = await here.get(f"/{KEY}?w=48")
        manifest = await here.get(path_of(reply))

        assert reply.headers["X-Imgproxy-Credentials"] == "linked"
        assert len(reply.body) < 10_000
        assert len(manifest.body) > 25_000
        store = read(reply.body, "image/jpeg", manifest=manifest.body)
        assert store is not None
        assert store.state == "Trusted"


async def test_the_manifest_of_an_evicted_variant_is_made_from_the_same_bytes(tmp_path: Path, opened: Opened) -> None:
    """The plan is known, so the variant is made again, and its manifest fits the copy that a reader has."""
    async with opened(mode="remote") as here:
        reply = await here.get(f"/{KEY}?w=48")
        hashed = next((tmp_path / "cache" / "keys").glob("*/*")).name
        here.edge.cache.hot.drop(hashed)
        for path in (tmp_path / "cache").glob("keys/*/*/v-*"):
            path.unlink()

        manifest = await here.get(path_of(reply))

        store = read(reply.body, "image/jpeg", manifest=manifest.body)
        assert store is not None
        assert store.state == "Trusted"


async def test_a_url_that_names_no_manifest_says_so(opened: Opened) -> None:
    """An unknown variant, another variant's name, and a picture without credentials are 404, with the reason."""
    async with opened(mode="remote") as here:
        target = path_of(await here.get(f"/{KEY}?w=48"))
        digest = target.rpartition("/")[2].partition("-")[0]
        for wrong in (f"{'0' * 32}-{'0' * 12}", f"{digest}-{'0' * 12}"):
            reply = await here.get(f"/{KEY}/-/credentials/{wrong}.c2pa")
            assert reply.status == 404
            assert reply.json()["type"].endswith("no-manifest")


async def test_the_url_of_a_manifest_is_signed_where_urls_are(opened: Opened) -> None:
    """Whoever has the picture can get its manifest; nobody can ask for another one."""
    signing = SigningSettings(required=True, tokens=(SecretStr("a-token-of-sixteen"),))
    async with opened(mode="remote", sections={"signing": signing}) as here:
        target = path_of(await here.get(sign(f"/{KEY}?w=48", "a-token-of-sixteen")))

        assert verify(target, ("a-token-of-sixteen",))
        assert (await here.get(target)).status == 200
        assert (await here.get(target.partition("?")[0])).status == 403


# --- the summary ------------------------------------------------------------------------------------------------------


async def test_the_json_of_a_picture_has_a_summary(opened: Opened) -> None:
    """Issuer, signer, program, actions and validity, the newest first."""
    async with opened(signed_source(parents=1)) as here:
        found = (await here.get(f"/{KEY}?fm=json")).json()

        assert found["PixelWidth"] == 96
        summary = found["ContentCredentials"]
        assert (summary["validity"], summary["problems"]) == ("trusted", [])
        edit, capture = summary["generations"]
        assert edit["program"].startswith("Test Editor 1.0")
        assert {"action": "c2pa.adjustedColor"} in edit["actions"]
        assert capture["actions"][0] == {"action": "c2pa.created", "source_type": "digitalCapture"}


async def test_the_summary_says_what_is_wrong(opened: Opened) -> None:
    """A source that was tampered with is invalid, with the codes of the specification."""
    async with opened(credentials.tampered(signed_source())) as here:
        summary = (await here.get(f"/{KEY}?fm=json")).json()["ContentCredentials"]

        assert summary["validity"] == "invalid"
        assert summary["problems"] == ["assertion.dataHash.mismatch"]


# --- failures cost the credentials, never the picture -----------------------------------------------------------------


def unreadable() -> bytes:
    """Return a source whose manifest is cut to pieces: its boxes are there, their contents are not."""
    data = bytearray(signed_source())
    at = data.find(b"c2ma")
    data[at + 40 : at + 700] = bytes(660)
    return bytes(data)


async def test_a_manifest_that_cannot_be_read_costs_the_credentials(opened: Opened) -> None:
    """The picture is sent, says so, may be kept for a short time only, and is not made again for each request."""
    async with opened(unreadable()) as here:
        reply = await here.get(f"/{KEY}?w=48")
        again = await here.get(f"/{KEY}?w=48")

        assert reply.status == again.status == 200
        assert reply.headers["X-Imgproxy-Credentials"] == again.headers["X-Imgproxy-Credentials"] == "missing"
        assert reply.headers["Cache-Control"].startswith("public, max-age=60,")
        assert Image.open(io.BytesIO(reply.body)).size == (48, 32)
        assert here.metric("imgproxy_credentials_total", result="unreadable") == 1
        assert await here.renders() == 1


@pytest.mark.parametrize("which", ["builder", "signer"])
async def test_a_process_that_is_killed_comes_back(opened: Opened, which: str) -> None:
    """The next picture is signed again."""
    async with opened() as here:
        service = here.edge.credentials_service
        assert service is not None
        first = await here.get(f"/{KEY}?w=48")
        process = service._builder if which == "builder" else service._signer
        assert process is not None
        process._child.kill()
        await process._child.wait()
        replies = [await here.get(f"/{KEY}?w={40 + number}") for number in range(2)]

        assert first.headers["X-Imgproxy-Credentials"] == "embedded"
        assert [reply.status for reply in replies] == [200, 200]
        assert replies[1].headers["X-Imgproxy-Credentials"] == "embedded"


async def test_a_timestamp_authority_that_does_not_answer_costs_the_credentials(opened: Opened) -> None:
    """The picture waits for `timeout_s`; the next ones do not wait at all for a while."""
    asked, released = asyncio.Event(), asyncio.Event()

    async def never(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await released.wait()
        writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with opened(timestamp_url=f"http://127.0.0.1:{port}/tsa", timeout_s=2) as here:
        first = await here.get(f"/{KEY}?w=48")
        second = await here.get(f"/{KEY}?w=40")

        assert asked.is_set()
        assert [first.status, second.status] == [200, 200]
        assert first.headers["X-Imgproxy-Credentials"] == second.headers["X-Imgproxy-Credentials"] == "missing"
        assert here.metric("imgproxy_credentials_total", result="timeout") == 1
        assert here.metric("imgproxy_credentials_total") == 1
    released.set()
    server.close()
    await server.wait_closed()


async def test_a_signature_that_comes_too_late_is_not_taken_for_the_next_one(opened: Opened) -> None:
    """The signer stands still until the time is over. The next picture has a signature of its own."""
    async with opened(timeout_s=2) as here:
        service = here.edge.credentials_service
        assert service is not None
        signer = service._signer
        assert signer is not None
        os.kill(signer.pid, signal.SIGSTOP)
        late = await here.get(f"/{KEY}?w=48")
        with contextlib.suppress(ProcessLookupError):
            os.kill(signer.pid, signal.SIGCONT)
        service._paused_until_s = 0
        service._failed.clear()
        await until(lambda: service._builder is not None)
        signed = await here.get(f"/{KEY}?w=40")

        assert late.headers["X-Imgproxy-Credentials"] == "missing"
        assert signed.headers["X-Imgproxy-Credentials"] == "embedded"
        store = read(signed.body, "image/jpeg")
        assert store is not None
        assert store.state == "Trusted"


async def test_after_a_while_a_picture_gets_its_credentials(opened: Opened) -> None:
    """What was without is made again with them, under another tag, as soon as they can be had."""
    async with opened() as here:
        service = here.edge.credentials_service
        assert service is not None
        now_s = service._now()
        service._paused_until_s = now_s + 1_000
        without = await here.get(f"/{KEY}?w=48")
        service._paused_until_s = 0
        signed = await here.get(f"/{KEY}?w=48")

        assert without.headers["X-Imgproxy-Credentials"] == "missing"
        assert signed.headers["X-Imgproxy-Credentials"] == "embedded"
        assert signed.headers["ETag"] != without.headers["ETag"]


# --- the start --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "others", "words"),
    [
        (lambda: authority().issue(days=(-30, -1)), {}, "expired on"),
        (lambda: authority().issue(days=(1, 30)), {}, "is valid only from"),
        (lambda: credentials.with_key_of(newsroom(), authority().issue()), {}, "this is another key"),
        (newsroom, {"algorithm": "es384"}, "the key needs es256"),
        (lambda: authority().issue(may_sign=False), {}, "digitalSignature"),
        (lambda: authority().issue(purposes=()), {}, "extended key usage"),
        (lambda: Identity("es256", authority().anchor, newsroom().key), {}, "another key"),
        (lambda: Identity("es256", "no certificate", newsroom().key), {}, "expected certificates in PEM"),
        (lambda: Identity("es256", newsroom().chain, "no key"), {}, "expected a private key in PEM"),
    ],
)
async def test_a_certificate_that_cannot_be_used_is_refused_at_the_start(
    tmp_path: Path, identity: Callable[[], Identity], others: dict[str, Any], words: str
) -> None:
    """In words, before the port is open, and no process is left."""
    chosen = settings_of(tmp_path, identity(), **others)
    with pytest.raises(ConfigError, match=words):
        async with site(tmp_path, content_credentials=chosen):
            pass


async def test_a_file_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    """The message names the setting and the file."""
    chosen = settings_of(tmp_path)
    (tmp_path / "signer.key").unlink()
    with pytest.raises(ConfigError, match=r"key_file .*signer.key: No such file"):
        async with site(tmp_path, content_credentials=chosen):
            pass


async def test_pictures_that_share_a_decode_are_all_signed(opened: Opened) -> None:
    """The sizes of a page come at once: each has a manifest of its own that fits."""
    render = RenderSettings(processes=1, timeout_s=60)
    async with opened(sections={"render": render, "freshness": FreshnessSettings()}) as here:
        replies = await asyncio.gather(*(here.get(f"/{KEY}?w={width}") for width in range(20, 60, 5)))

        for reply in replies:
            store = read(reply.body, "image/jpeg")
            assert store is not None
            assert store.state == "Trusted"
        await until(lambda: not here.edge.pool.busy)


# --- the key ----------------------------------------------------------------------------------------------------------


def memory_of(pid: int) -> bytes:
    """Return all memory of a process that can be written to: there its data are."""
    found = bytearray()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            start, end = (int(part, 16) for part in span.split("-"))
            if rights.startswith("rw"):
                with contextlib.suppress(OSError, OverflowError):
                    memory.seek(start)
                    found += memory.read(end - start)
    return bytes(found)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="the memory of processes is read from /proc (Linux)")
async def test_the_key_is_in_the_memory_of_the_signer_alone(tmp_path: Path) -> None:
    """Neither the edge, which reads requests, nor the builder, which reads pictures, has a piece of it."""
    identity = newsroom()
    settings_of(tmp_path, identity)
    key = serialization.load_pem_private_key(identity.key.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    number = key.private_numbers().private_value
    needles = [identity.key.splitlines()[1].encode()[:40], number.to_bytes(32, "big"), number.to_bytes(32, "little")]
    config = (
        f"[content_credentials]\nmode = 'embed'\npublic_url = '{PUBLIC}'\ncertificate_file = '{tmp_path}/signer.pem'\n"
        f"key_file = '{tmp_path}/signer.key'\ntimeout_s = 60\n"
    )
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(signed_source())
    async with (
        EmbeddedLibrary(tmp_path / "photos", tokens=[AccessToken("library-token")]) as library,
        served(library, tmp_path, stderr=asyncio.subprocess.DEVNULL, config=config) as (process, url),
        aiohttp.ClientSession() as session,
    ):
        async with session.get(f"{url}/a.jpg?w=48") as response:
            assert response.headers["X-Imgproxy-Credentials"] == "embedded"
        pids = [process.pid, *children_of(process.pid)]
        try:
            memories = {pid: memory_of(pid) for pid in pids}
        except PermissionError:
            pytest.skip("this system lets nobody read the memory of another process")
        holders = [pid for pid, memory in memories.items() if any(needle in memory for needle in needles)]
        names = [Path(f"/proc/{pid}/cmdline").read_text().split("\0")[3] for pid in holders]

    assert len(pids) >= 4  # the edge, a render process, the builder, the signer
    assert names == ["imgproxy.manifests.signer"]


def children_of(pid: int) -> list[int]:
    """The children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
