"""When to ask a draft replica and when to decode plainly: a circuit breaker per replica, with time passed in."""

from dataclasses import dataclass, replace

PATIENCE = 3
"""Misses in a row before a replica is left alone."""
CAP = 16
"""The longest pause, as a multiple of the first."""


@dataclass(frozen=True, slots=True)
class Trust:
    """How far one life of a draft replica is trusted; a new life starts with a new ``Trust``.

    Trusted, it is asked at every step. After ``PATIENCE`` misses in a row it is left alone for ``retry`` seconds; then
    one ask is a probe, whose miss doubles the pause (up to ``CAP`` times ``retry``) and whose answer restores trust.
    """

    retry: float
    misses: int = 0
    pause: float = 0.0
    until: float = 0.0

    def asks(self, now: float) -> bool:
        return now >= self.until

    def answered(self) -> "Trust":
        return Trust(self.retry)

    def missed(self, now: float) -> "Trust":
        """No answer in time, or a useless one."""
        misses = self.misses + 1
        if misses < PATIENCE:
            return replace(self, misses=misses)
        pause = min(2 * self.pause or self.retry, CAP * self.retry)
        return replace(self, misses=misses, pause=pause, until=now + pause)
