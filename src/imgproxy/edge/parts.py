"""
The parts of the edge below HTTP, made in order: each is given those before it. Nothing runs yet.

What the settings leave out (a cluster, a shared store) is not made: the other parts are given None.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING

from imgproxy.admission.policy import Admission
from imgproxy.cache.cache import Cache
from imgproxy.cache.purge_event import PurgeEvent
from imgproxy.config.secrets import signing_tokens
from imgproxy.credentials.service import CredentialsService
from imgproxy.delivery.batching import Batches
from imgproxy.delivery.credentials import Credentials
from imgproxy.delivery.delivery import Delivery
from imgproxy.delivery.fallback import Fallback
from imgproxy.delivery.fetching import Fetching
from imgproxy.delivery.origin_health import OriginHealth
from imgproxy.delivery.originals import Originals
from imgproxy.delivery.refusals import Refusals
from imgproxy.delivery.settling import Settling
from imgproxy.delivery.variants import Variants
from imgproxy.delivery.warming import Warming
from imgproxy.edge import sharing
from imgproxy.edge.cluster import AnswersUnderWay, engine_of, make_node, turns_of_fetches
from imgproxy.edge.fast.memo import AnswerMemo, memo_bytes
from imgproxy.edge.origin import library_client, probe
from imgproxy.failpoints import Failpoints
from imgproxy.params.signature import sign
from imgproxy.purge.answers import Answers
from imgproxy.purge.downstream.targets import Downstreams
from imgproxy.purge.entry_keys import EntryKeys
from imgproxy.purge.service import PurgeService
from imgproxy.purge.updates import Updates
from imgproxy.telemetry.metrics import Metrics
from imgproxy.workers.extras import find_detector
from imgproxy.workers.pool import RenderPool
from imgproxy.workers.process import RenderProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.cluster.clock import Clock
    from imgproxy.cluster.log import PurgeLog
    from imgproxy.config.settings import Settings


class Parts:
    """
    What stores, purges, fetches and renders. The HTTP server is composed around it.

    `admission_clock`, `purge_log` (of the cluster), `cluster_clock` (of its leases) and `process_class` (of render
    processes) replace the usual ones.
    """

    def __init__(
        self,
        settings: Settings,
        failpoints: Failpoints | None = None,
        *,
        admission_clock: Callable[[], float] | None = None,
        purge_log: PurgeLog | None = None,
        cluster_clock: Clock | None = None,
        process_class: type[RenderProcess] = RenderProcess,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.run = secrets.token_hex(8)
        # What the nodes of a cluster share besides the log is in here, too.
        self.engine = engine_of(settings, self.run) if purge_log is None else None
        if self.engine is not None:
            purge_log = self.engine.log
        refusals = Refusals()
        self._compose_storage_and_purge(settings, failpoints, purge_log, cluster_clock)
        self.detector = find_detector()
        face_model = self.detector.model if self.detector is not None else ""
        self.pool = RenderPool(
            settings.render,
            settings.limits,
            observer=self.metrics,
            face_model=face_model,
            process_class=process_class,
        )
        self._compose_originals(settings, failpoints, refusals, admission_clock)
        self._compose_delivery(settings, failpoints, refusals)

    def _compose_storage_and_purge(
        self, settings: Settings, failpoints: Failpoints | None, purge_log: PurgeLog | None, cluster_clock: Clock | None
    ) -> None:
        self.cache = Cache(settings.cache, purged=PurgeEvent())
        self.shared = sharing.open_shared(settings, self.cache, self.metrics)
        self.library = library_client(settings.origin)
        self.memo = AnswerMemo(self.cache, memo_bytes(settings.cache.hot_max_bytes), self.metrics.tally)
        shared_keys = sharing.shared_keys_of(self.engine, self.cache)
        self.entries = EntryKeys(self.cache, self.library, on_known=self.memo.forget, shared=shared_keys)
        self.answers = Answers(self.cache.purged, self.cache.purged_all, self.cache.purged_many)
        self.under_way = AnswersUnderWay(self.answers)
        self.node = None
        if purge_log is not None:
            self.node = make_node(
                purge_log,
                self.run,
                settings,
                self.cache,
                answers=self.answers,
                under_way=self.under_way,
                failpoints=failpoints or Failpoints(),
                metrics=self.metrics,
                clock=cluster_clock,
                on_keys=self.entries.note,
            )
        self.cluster_facts = sharing.shared_by(self.engine, self.node)
        # None: the edge is alone, or serves what it has while it is cut off.
        self.fence = self.node.fence if self.node is not None and self.node.is_proving else None
        self.downstreams = Downstreams(
            settings.downstream,
            self.cache.journal,
            purge=settings.purge,
            freshness=settings.freshness,
            metrics=self.metrics,
            cluster=settings.cluster if self.node is not None else None,
            cluster_facts=self.cluster_facts,
            shared=self.shared,
        )
        self.purges = PurgeService(
            self.cache,
            self.entries,
            self.answers,
            settings=settings.purge,
            freshness=settings.freshness,
            metrics=self.metrics,
            downstream=self.downstreams,
            nodes=self.node,
            nodes_wait_s=settings.cluster.wait_s,
            shared=self.cluster_facts,
        )
        self.upkeep = sharing.upkeep_of(self.cluster_facts, shared_keys, self.purges, self.downstreams, settings)

    def _compose_originals(
        self,
        settings: Settings,
        failpoints: Failpoints | None,
        refusals: Refusals,
        admission_clock: Callable[[], float] | None,
    ) -> None:
        self.health = OriginHealth(lambda: probe(self.library))
        self.admission = Admission(
            settings.render,
            self.pool.processes,
            on_refused=lambda rule: self.metrics.refused.labels(rule=rule).inc(),
            now=admission_clock,
            fetch_queue_max=settings.origin.fetch_queue_max,
        )
        self.credentials_service = self._compose_credentials(settings)
        self.known = sharing.known_originals_of(self.cluster_facts, self.cache, self.entries, settings)
        fetching = Fetching(
            self.cache,
            self.library,
            self.health,
            refusals,
            purge=self.purges.purge_found,
            admission=self.admission,
            source_max_bytes=settings.limits.source_bytes,
            negative_ttl_s=settings.freshness.negative_ttl_s,
            metrics=self.metrics,
            failpoints=failpoints,
            fetches_max=settings.origin.fetches_max,
            shared=self.shared,
            fence=self.fence,
            turns=turns_of_fetches(self.node, settings.origin.fetches_max),
            on_proved=self.known.note if self.cluster_facts is not None else None,
            look=None if self.credentials_service is None else self.credentials_service.look,
        )
        self.originals = Originals(
            self.cache,
            fetching,
            refusals,
            freshness=settings.freshness,
            shared=self.shared,
            fence=self.fence,
        )
        self.under_way.originals = self.originals
        self.updates = Updates(
            self.cache,
            self.entries,
            self.purges,
            self.originals,
            known=self.known,
            downstream=self.downstreams,
            settings=settings.purge,
            freshness=settings.freshness,
            metrics=self.metrics,
        )
        self.settling = Settling(
            self.cache,
            self.originals,
            settle_s=settings.freshness.settle_s,
            retry_max_s=settings.purge.retry_max_s,
        )

    def _compose_delivery(self, settings: Settings, failpoints: Failpoints | None, refusals: Refusals) -> None:
        fallback = Fallback(self.cache)
        service = self.credentials_service
        self.credentials = (
            None if service is None else Credentials(self.cache, self.originals, service, settings.limits.output_px)
        )
        self.variants = Variants(
            self.cache,
            self.originals,
            Batches(self.cache.store, self.pool, self.admission),
            fallback=fallback,
            refusals=refusals,
            metrics=self.metrics,
            failpoints=failpoints,
            refusal_ttl_s=settings.freshness.error_ttl_s,
            shared=self.shared,
            credentials=self.credentials,
        )
        self.delivery = Delivery(
            self.cache,
            self.originals,
            self.variants,
            fallback=fallback,
            admission=self.admission,
            metrics=self.metrics,
            failpoints=failpoints,
            fence=self.fence,
            has_shared_store=self.shared is not None,
            credentials=self.credentials,
        )
        self.warming = Warming(
            self.cache,
            self.originals,
            self.variants,
            warm=settings.warm,
            url=settings.url,
            render=settings.render,
            finds_faces=self.detector is not None,
            credentials=self.credentials,
        )

    def _compose_credentials(self, settings: Settings) -> CredentialsService | None:
        """Return what signs variants; None where Content Credentials are stripped."""
        if settings.content_credentials.mode == "strip":
            return None
        tokens = signing_tokens(settings.signing) if settings.signing.required else ()
        return CredentialsService(
            settings.content_credentials,
            metrics=self.metrics,
            sign_url=partial(sign, token=tokens[0]) if tokens else str,
            error_ttl_s=settings.freshness.error_ttl_s,
        )
