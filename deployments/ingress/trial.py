"""Requests that have ended, on their way into the account of the experiments. Structured answers are judged first,
in a thread of their own, so that no schema holds up the event loop."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec
from prometheus_client import CollectorRegistry

from cluster.experiments import Experiments, Sample
from cluster.tallies import Tally
from deployments.ingress.judge import Evidence, judge

log = logging.getLogger(__name__)

WAITING = 64
"""Requests whose answers may wait to be judged; beyond them they count without a verdict."""


class Trial:
    """One gateway's part in the experiments."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._experiments = Experiments(registry)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="judge")
        self._waiting = 0
        self._closed = False

    def end(self, sample: Sample, evidence: tuple[Evidence, ...]) -> None:
        """A request has ended; with evidence it is counted a little later."""
        if not evidence or self._closed or self._waiting >= WAITING:
            self._experiments.record(sample)
            return
        self._waiting += 1
        verdict = asyncio.get_running_loop().run_in_executor(self._thread, judge, evidence)
        verdict.add_done_callback(partial(self._judged, sample))

    def tallies(self) -> tuple[Tally, ...]:
        return self._experiments.tallies()

    def close(self) -> None:
        """What still waits is counted without a verdict."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _judged(self, sample: Sample, verdict: asyncio.Future[bool | None]) -> None:
        self._waiting -= 1
        valid = None
        if not verdict.cancelled():
            error = verdict.exception()
            valid = verdict.result() if error is None else None
            if error is not None:
                log.debug("an answer could not be judged: %r", error)
        self._experiments.record(msgspec.structs.replace(sample, valid=valid))
