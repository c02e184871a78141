"""What one client request asks for, apart from how it was said: its jobs, how to read their output, what to show."""

from typing import Literal

import msgspec

from router.jobs import Job

Reading = Literal["text", "calls", "call"]
"""``text``: as it comes; ``calls``: with Hermes tool calls in it; ``call``: one call as JSON, forced by a grammar."""

Finish = Literal["stop", "length", "tool_calls"]


class Plan(msgspec.Struct, frozen=True):
    """One client request. ``usage``: the stream ends with a bill; ``report``: show what speculation and routing did;
    ``tools`` are the names that a call may have; each prompt is answered ``samples`` times, in consecutive jobs."""

    id: str
    model: str
    jobs: tuple[Job, ...]
    samples: int = 1
    reading: Reading = "text"
    tools: frozenset[str] = frozenset()
    stream: bool = False
    usage: bool = False
    report: bool = False

    def asked(self, key: str, tenant: str) -> "Plan":
        """The same, for this tenant. A client that tries again comes with the same ``key``; all choices share it."""
        jobs = tuple(msgspec.structs.replace(job, key=key, tenant=tenant) for job in self.jobs)
        return msgspec.structs.replace(self, jobs=jobs)
