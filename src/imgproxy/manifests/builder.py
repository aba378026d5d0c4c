"""
The process that builds manifests. It reads the manifests of foreign pictures, so it has no key.

It asks the edge for each signature. It fetches nothing but timestamps: no manifest that a picture names, no revocation
list. Its memory and its files are limited. If a picture takes it over, it can ask for signatures of claims until the
edge ends it; it cannot read the key. `credentials.messages` has the messages.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

import c2pa
from cachetools import LRUCache

from imgproxy.credentials.messages import BuilderSettings, Failure, Job, Kind, Reason, Result, Task
from imgproxy.digest import digest_of
from imgproxy.manifests.limits import limit_process
from imgproxy.manifests.source import (
    INGREDIENT_ID,
    SourceCredentials,
    UnreadableError,
    make_context,
    read_source,
    read_store,
)
from imgproxy.manifests.summary import summary
from imgproxy.workers.channel import frame, receive

if TYPE_CHECKING:
    from collections.abc import Sequence

# The sizes of one page ask for the same original within seconds.
SOURCES_MAX: Final = 16
# A signature of no meaning, of the length that an ES256 signature has: only the link of such a manifest is kept.
NO_SIGNATURE: Final = bytes(64)
# A PNG of one pixel, to be signed by `imgproxy check`.
PIXEL: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)
PASSED_ON: Final = 1_000_000
SOURCE_TYPES: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/"


class SignatureError(Exception):
    """The edge gave no signature."""


class ManifestBuilder:
    """Does jobs. `sign` returns the signature of bytes, or raises SignatureError."""

    def __init__(self, settings: BuilderSettings, sign: Any) -> None:
        self._settings = settings
        self._context = make_context(settings.trust_anchors)
        self._sources: LRUCache[tuple[str, str], SourceCredentials] = LRUCache(SOURCES_MAX)
        algorithm = c2pa.C2paSigningAlg[settings.algorithm.upper()]
        self._signer = c2pa.Signer.from_callback(sign, algorithm, settings.chain, settings.timestamp_url or None)
        self._unsigned = c2pa.Signer.from_callback(
            lambda _data: NO_SIGNATURE, c2pa.C2paSigningAlg.ES256, settings.chain, None
        )

    def run(self, job: Job) -> Result | Failure:
        """Do a job: write its file, and say what is in it."""
        try:
            if job.task is Task.LINK:
                return self._link(job)
            if job.task is Task.TRY:
                return self._try(job)
            source = self._source(job)
            if job.task is Task.DESCRIBE:
                return _written(job, Kind.DESCRIBED, _with_summary(_read(job), source))
            if job.task is Task.MANIFEST:
                return self._manifest(job, source)
            return self._embed(job, source)
        except UnreadableError as error:
            return Failure(Reason.UNREADABLE, str(error))
        except SignatureError as error:
            return Failure(Reason.SIGNATURE, str(error))
        except c2pa.C2paError as error:
            is_signature = isinstance(error, c2pa.C2paError.Signature) or "imestamp" in str(error)
            return Failure(Reason.SIGNATURE if is_signature else Reason.BUILD, str(error))
        except (OSError, ValueError, KeyError, TypeError) as error:
            return Failure(Reason.BUILD, repr(error))

    def _source(self, job: Job) -> SourceCredentials:
        name = (job.original_digest, job.title)
        found = self._sources.get(name)
        if found is None:
            found = read_source(job.original, job.original_type, job.title, self._context)
            self._sources[name] = found
        return found

    def _embed(self, job: Job, source: SourceCredentials) -> Result:
        out = io.BytesIO()
        manifest = self._build(job, source).sign(self._signer, job.variant_type, io.BytesIO(_read(job)), out)
        if len(manifest) > job.max_bytes:
            return self._link(job)
        return _written(job, Kind.EMBEDDED, out.getvalue(), len(manifest))

    def _link(self, job: Job) -> Result:
        """Write the URL of the manifest into the XMP (C2PA 2.2, 11.5). The same variant gives the same bytes."""
        builder = c2pa.Builder({}, context=self._context)
        builder.set_no_embed()
        builder.set_remote_url(job.link)
        out = io.BytesIO()
        builder.sign(self._unsigned, job.variant_type, io.BytesIO(_read(job)), out)
        return _written(job, Kind.LINKED, out.getvalue())

    def _manifest(self, job: Job, source: SourceCredentials) -> Result:
        builder = self._build(job, source)
        builder.set_no_embed()
        manifest = builder.sign(self._signer, job.variant_type, io.BytesIO(_read(job)), io.BytesIO())
        return _written(job, Kind.MANIFEST, manifest, len(manifest))

    def _try(self, job: Job) -> Result | Failure:
        """Sign a picture, and read it again: a reader sees more in a certificate than the signer has checked."""
        created = {"action": "c2pa.created", "digitalSourceType": f"{SOURCE_TYPES}digitalCreation"}
        manifest = {
            "title": job.title,
            "format": "image/png",
            "assertions": [_own_actions([created])],
        }
        out = io.BytesIO()
        builder = c2pa.Builder(manifest, context=self._context)
        size_bytes = len(builder.sign(self._signer, "image/png", io.BytesIO(PIXEL), out))
        out.seek(0)
        found = summary(read_store(out, "image/png", self._context))
        if found["validity"] == "invalid":
            return Failure(Reason.SIGNATURE, ", ".join(found["problems"]))
        return _written(job, Kind.TRIED, out.getvalue(), size_bytes)

    def _build(self, job: Job, source: SourceCredentials) -> c2pa.Builder:
        opened: dict[str, Any] = {"action": "c2pa.opened", "parameters": {"ingredientIds": [INGREDIENT_ID]}}
        if source.source_type:
            opened["digitalSourceType"] = source.source_type
        builder = c2pa.Builder(
            {
                "claim_generator_info": [{"name": self._settings.claim_generator, "version": self._settings.version}],
                "title": job.title,
                "format": job.variant_type,
                "assertions": [_own_actions([opened, *job.actions]), *source.training],
            },
            context=self._context,
        )
        builder.add_ingredient_from_archive(io.BytesIO(source.ingredient))
        return builder


def _own_actions(actions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make the assertion of all that this edge did. The signer answers for it, so it is `created` (C2PA 2.4)."""
    data = {"actions": list(actions), "allActionsIncluded": True}
    return {"label": "c2pa.actions.v2", "data": data, "created": True}


def _read(job: Job) -> bytes:
    with open(job.variant, "rb") as file:
        return file.read(job.variant_bytes)


def _with_summary(body: bytes, source: SourceCredentials) -> bytes:
    found = json.loads(body)
    found["ContentCredentials"] = summary(source.store)
    return json.dumps(found, ensure_ascii=False).encode()


def _written(job: Job, kind: Kind, body: bytes, manifest_bytes: int = 0) -> Result:
    with open(job.out, "wb") as file:
        file.write(body)
    return Result(kind, len(body), digest_of(body), manifest_bytes)


def main() -> None:
    """Do jobs until the edge closes the channel."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    limit_process()
    os.nice(10)  # below the event loop, as render processes are
    logging.getLogger("c2pa").setLevel(logging.CRITICAL)  # its callbacks log what `Failure` says
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        first = receive(channel)
        if first is None:
            return
        builder = ManifestBuilder(BuilderSettings(**json.loads(first)), lambda data: _ask(channel, data))
        _send(channel, {"ready": True})
        while (payload := receive(channel)) is not None:
            found = json.loads(payload)
            job = Job(**(found | {"task": Task(found["task"]), "actions": tuple(found["actions"])}))
            result = builder.run(job)
            if isinstance(result, Failure):
                _send(channel, {"failed": result.reason, "detail": result.detail[:PASSED_ON]})
            else:
                made = {"kind": result.kind, "size_bytes": result.size_bytes, "digest": result.digest}
                _send(channel, {"made": made | {"manifest_bytes": result.manifest_bytes}})


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    channel.sendall(frame(json.dumps(message).encode()))


def _ask(channel: socket.socket, data: bytes) -> bytes:
    _send(channel, {"sign": base64.b64encode(data).decode()})
    answer = receive(channel)
    if answer is None:
        sys.exit(0)
    signature = json.loads(answer)["signature"]
    if signature is None:
        raise SignatureError("no signature")
    return base64.b64decode(signature)


if __name__ == "__main__":
    main()
