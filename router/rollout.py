"""The router actor's part in a rollout: it holds the flags, and adds up what the gateways have counted. No clock, no
network: time comes in."""

from collections.abc import Iterable

import msgspec

from cluster.errors import BadRequest, Conflict
from cluster.flags import Flag, Flags
from cluster.tallies import Tally, joined
from router.api import Change, Counted

PACE = 0.25
"""Seconds between two sums over all gateways."""


class Rollout:
    """Flags start as configured. After a restart the gateways bring back what had been changed before."""

    def __init__(self, flags: Flags, routes: frozenset[str], *, epoch: int) -> None:
        """``routes`` are the names of rules and pools that an override may have; ``epoch`` is this life's."""
        self.flags = flags
        self._routes = routes
        self._epoch = epoch
        self._told: dict[str, tuple[Tally, ...]] = {}
        self._counted = Counted()
        self._since = float("-inf")

    def change(self, wanted: Change) -> Flag:
        """Put a flag in force, as a new version. Raises NotFound, Conflict or BadRequest."""
        known = self.flags.get(wanted.flag.name)
        if wanted.expected is not None and wanted.expected != known.version:
            raise Conflict(f"flag {known.name!r} has version {known.version} by now, not {wanted.expected}")
        strange = sorted(wanted.flag.routes.keys() - self._routes)
        if strange:
            raise BadRequest(f"no route {strange[0]!r}; there are {', '.join(sorted(self._routes))}", param="routes")
        epoch = max(self._epoch, known.epoch)
        flag = msgspec.structs.replace(wanted.flag, epoch=epoch, version=known.version + 1)
        self.flags = self.flags.newest((flag,))
        return flag

    def adopt(self, told: Iterable[Flag]) -> bool:
        """Take over what a gateway knows and this life of the router does not. Says whether that was anything."""
        before = self.flags
        self.flags = before.newest(told)
        return self.flags != before

    def hear(self, gateway: str, tallies: tuple[Tally, ...]) -> None:
        """All that a gateway has counted so far, in the place of what it told before."""
        self._told[gateway] = tallies

    def forget(self, gateway: str) -> None:
        self._told.pop(gateway, None)

    def counted(self, now: float) -> Counted:
        """What the living gateways have counted, at most ``PACE`` seconds old."""
        if now - self._since >= PACE:
            self._since = now
            told = [each for tallies in self._told.values() for each in tallies]
            ranks = {flag.name: flag.rank for flag in self.flags.all}
            current = (each for each in told if each.rank == ranks.get(each.flag))
            self._counted = Counted(len(self._told), joined(current))
        return self._counted
