"""
The step `credentials`: a variant of an original with Content Credentials is signed, or linked to its manifest.

The digest of the originals that such a variant is known by ends with "~" and a mark: of the mode, the certificates and
the other settings. So a change of them makes new variants, and pictures without credentials keep theirs. With the mark
MISSING it is a variant that goes without, for as long as nothing can be signed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from imgproxy.cache.entry import Provenance, Variant, VariantFacts
from imgproxy.credentials.actions import MadeFacts, actions_of
from imgproxy.credentials.messages import Failure, Job, Kind, Reason, Result, Task
from imgproxy.credentials.service import manifest_name, manifest_plan
from imgproxy.delivery.asked import StaleGeneration
from imgproxy.delivery.request import MANIFEST_TYPE
from imgproxy.errors import CacheUnavailable, ManifestFailed, NoManifest
from imgproxy.flights import Flights
from imgproxy.params.plan import Format, Metadata

if TYPE_CHECKING:
    from imgproxy.cache.cache import Cache
    from imgproxy.cache.purge_event import Purged, PurgedAll, PurgedMany
    from imgproxy.credentials.service import CredentialsService
    from imgproxy.delivery.originals import Original, Originals
    from imgproxy.params.plan import RenderPlan
    from imgproxy.workers.job import Rendered

log = logging.getLogger(__name__)

MISSING: Final = "missing"
EMBEDDED: Final = str(Kind.EMBEDDED)
LINKED: Final = str(Kind.LINKED)
JSON_TYPE: Final = "application/json"
# What the library can put a manifest into, of what this service makes.
SIGNED_TYPES: Final = frozenset({"image/jpeg", "image/png", "image/webp", "image/avif"})
# These have no place for credentials, and describe the picture instead of showing it.
_DESCRIPTIONS: Final = frozenset({Format.BLURHASH, Format.PALETTE_CSS, Format.PALETTE_JSON, Format.FACES})
# A site uses the same few queries for all its pictures. A plan has about 2 kB.
PLANS_MAX: Final = 2_048


@dataclass(frozen=True, slots=True)
class Attached:
    """A finished file with its credentials: what is in it, and for a link what the manifest will say."""

    rendered: Rendered
    credentials: str = ""
    link: str = ""
    actions: str = ""


class Credentials:
    """Credentials of variants, made by `service`. There is one only if the mode is not `strip`."""

    def __init__(self, cache: Cache, originals: Originals, service: CredentialsService, limit_px: int) -> None:
        """`limit_px`: the longest side that a variant may have."""
        self._limit_px = limit_px
        self._cache = cache
        self._originals = originals
        self._service = service
        self._plans: OrderedDict[str, RenderPlan] = OrderedDict()
        self._manifests: Flights[Variant] = Flights()
        cache.purged.subscribe(self._forget)
        cache.purged_all.subscribe(self._forget_all)
        cache.purged_many.subscribe(self._forget_all)

    async def close(self) -> None:
        """Cancel manifests under way."""
        await self._manifests.close()

    # --- which ones --------------------------------------------------------------------------------------------

    async def find(self, original: Original, plan: RenderPlan) -> tuple[Original, str]:
        """
        Return the mark of an original's variants, or an empty one if they have no credentials.

        An original is looked at once. It is returned with what was found.

        Raises:
            StaleGeneration: a purge came meanwhile.
            ImgproxyError: its file had to be fetched, and the origin refused.
        """
        if plan.output.metadata is Metadata.NONE or plan.output.format in _DESCRIPTIONS:
            return original, ""
        if original.facts.has_credentials is None:
            original = await self._look(original)
        if not original.facts.has_credentials:
            return original, ""
        self._remember(plan)
        return original, self._service.mark(original.facts.digest)

    async def _look(self, original: Original) -> Original:
        original, path = await self._originals.file(original)
        try:
            facts = replace(original.facts, has_credentials=await self._service.look(path))
        except OSError:
            raise StaleGeneration from None  # a purge or an eviction took the file away
        now = self._cache.facts(original.key_hash)
        if now is not None and now.digest == facts.digest:
            # It may have been proved again meanwhile: the later proof stays.
            self._cache.commit_facts(replace(now, has_credentials=facts.has_credentials))
        return replace(original, facts=facts)

    def _remember(self, plan: RenderPlan) -> None:
        self._plans[plan.digest] = plan
        self._plans.move_to_end(plan.digest)
        if len(self._plans) > PLANS_MAX:
            self._plans.popitem(last=False)

    def plan_of(self, digest: str) -> RenderPlan | None:
        """Return the plan with this digest, if a picture was asked for with it since the start."""
        return self._plans.get(digest)

    # --- a variant ---------------------------------------------------------------------------------------------

    async def attach(self, original: Original, path: str, plan: RenderPlan, rendered: Rendered) -> Attached:
        """
        Sign or link a file that was just rendered. The result has a file of its own; the rendered file stays.

        A failure gives the file as it is, with the word `missing`.
        """
        kind = rendered.content_type
        is_summary = kind == JSON_TYPE and plan.output.format is Format.JSON
        if not is_summary and kind not in SIGNED_TYPES:
            return Attached(rendered)
        task = Task.DESCRIBE if is_summary else Task.EMBED if self._service.is_embedding else Task.LINK
        actions = _actions(original, plan, rendered, self._limit_px)
        key, name = original.facts.key, manifest_name(plan.digest, rendered.digest)
        job = Job(
            task=task,
            title=key,
            original=path,
            original_digest=original.facts.digest,
            original_type=original.facts.content_type,
            variant=rendered.path,
            variant_bytes=rendered.size_bytes,
            variant_type=kind,
            out=self._cache.store.temp_path(original.key_hash),
            actions=actions,
            link=self._service.link(key, name),
            max_bytes=self._service.max_bytes,
        )
        made = await self._do(job)
        if isinstance(made, Failure):
            return Attached(rendered, MISSING)
        signed = replace(rendered, path=job.out, size_bytes=made.size_bytes, digest=made.digest)
        if made.kind is Kind.LINKED:
            return Attached(signed, LINKED, name, json.dumps(actions))
        return Attached(signed, EMBEDDED if made.kind is Kind.EMBEDDED else "")

    async def _do(self, job: Job) -> Result | Failure:
        """Do a job. Its file is discarded if it failed, or is not as long as it is said to be."""
        made: Result | Failure = Failure(Reason.TIMEOUT)
        try:
            made = await self._service.do(job)
            if isinstance(made, Result) and os.stat(job.out).st_size != made.size_bytes:
                made = Failure(Reason.CRASHED)
        except OSError:
            made = Failure(Reason.BUILD)
        finally:
            if isinstance(made, Failure):
                self._cache.store.discard(job.out)
        return made

    # --- a manifest --------------------------------------------------------------------------------------------

    async def make_manifest(self, original: Original, of: Variant, name: str) -> Variant:
        """
        Make the manifest of a linked variant. It is kept like a variant, so a purge of the key removes it.

        Raises:
            NoManifest: the variant has another manifest, or none.
            ManifestFailed: it could not be made.
            StaleGeneration: a purge came meanwhile.
        """
        if of.facts.link != name:
            raise NoManifest
        flight = (original.key_hash, of.facts.original, name)
        made, _ = await self._manifests.join(flight, lambda: self._make_manifest(original, of))
        return made

    async def _make_manifest(self, original: Original, of: Variant) -> Variant:
        store = self._cache.store
        body = None
        with self._cache.epochs.at_work():
            original, path = await self._originals.file(original)
            if of.body is not None:  # its file may have been evicted
                body = store.temp_path(original.key_hash)
                await asyncio.to_thread(Path(body).write_bytes, of.body)
            job = Job(
                task=Task.MANIFEST,
                title=original.facts.key,
                original=path,
                original_digest=original.facts.digest,
                original_type=original.facts.content_type,
                variant=body or of.path or store.variant_path(of.key_hash, of.facts.plan),
                variant_bytes=of.facts.size_bytes,
                variant_type=of.facts.content_type,
                out=store.temp_path(original.key_hash),
                actions=tuple(json.loads(of.facts.actions)),
            )
            try:
                made = await self._do(job)
            finally:
                if body is not None:
                    store.discard(body)
            if isinstance(made, Failure):
                if not self._cache.epochs.all_hold(of.proofs):
                    raise StaleGeneration
                raise ManifestFailed
            return self._commit(job.out, made, of)

    def _commit(self, path: str, made: Result, of: Variant) -> Variant:
        facts = VariantFacts(
            key=of.facts.key,
            plan=manifest_plan(of.facts.link),
            original=of.facts.original,
            content_type=MANIFEST_TYPE,
            size_bytes=made.size_bytes,
            digest=made.digest,
            width_px=0,
            height_px=0,
        )
        variant = None
        try:
            variant = self._cache.commit_variant(path, facts, Provenance(of.key_hash, of.facts.original, of.proofs))
        except OSError as exc:
            self._cache.housekeeping.make_room(exc)
            raise CacheUnavailable from exc
        finally:
            if variant is None:
                self._cache.store.discard(path)
        if variant is None:
            raise StaleGeneration
        return variant

    # --- purges ------------------------------------------------------------------------------------------------

    def _forget(self, purged: Purged) -> None:
        """After a purge: new requests do not join the flights that began before it."""
        self._manifests.detach_where(lambda name: isinstance(name, tuple) and name[0] == purged.key_hash)

    def _forget_all(self, _purged: PurgedAll | PurgedMany) -> None:
        self._manifests.detach_where(lambda _name: True)


def _actions(original: Original, plan: RenderPlan, rendered: Rendered, limit_px: int) -> tuple[dict[str, Any], ...]:
    made = MadeFacts(
        source_format=original.facts.content_type,
        format=rendered.content_type,
        width_px=rendered.width_px,
        height_px=rendered.height_px,
        source_width_px=rendered.source_width_px,
        source_height_px=rendered.source_height_px,
        orientation=rendered.orientation,
        shared_decode=rendered.shared_decode,
        is_mark_missing=rendered.is_mark_missing,
        is_first_frame_only=rendered.is_first_frame_only,
        limit_px=limit_px,
    )
    return tuple(action.as_json() for action in actions_of(plan, made))
