"""Drafts from draft replicas, and a note of every wait for them; an engine finds the class by its name."""

from pathlib import Path
from typing import Any, ClassVar

from experts.speculation.proposer import Proposal, RemoteDrafts

WATCHED = f"{__name__}.Watched"


class Watched(RemoteDrafts):
    """``waits`` of all of this process, in seconds, less the time for which others had the core."""

    waits: ClassVar[list[float]] = []

    def propose(self, *args: Any, **settings: Any) -> Proposal:
        before = _off_core()
        proposal = super().propose(*args, **settings)
        if proposal.hits or proposal.misses:
            Watched.waits.append(proposal.wait - (_off_core() - before))
        return proposal


def _off_core() -> float:
    """Seconds that this thread could have run but others did, since it began; see proc(5)."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
