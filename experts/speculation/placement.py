"""Which draft replica keeps which session. Called on the verifier's engine thread, with time passed in."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from cluster.transport import BlockingLink
from experts.api import DraftPeer
from experts.speculation.messages import ToDrafter, ToVerifier
from experts.speculation.replicas import Kept, Replica

SESSIONS = 64
"""How many sessions a full draft replica is taken to hold, to compare its load with the sessions placed there."""

Connect = Callable[[str], BlockingLink[ToDrafter, ToVerifier]]
"""From an endpoint to a link."""


class Placement:
    """The known draft replicas and the homes of the sessions. ``retry`` is how long a session that a replica has no
    room for is decoded plainly, and the measure of the pauses after faults (see ``Trust``), in seconds."""

    def __init__(self, connect: Connect, *, retry: float, changes: Counter[str]) -> None:
        self._connect, self._retry, self._changes = connect, retry, changes
        self._replicas: dict[str, Replica] = {}
        self._homes: dict[str, Replica] = {}
        self._refused: dict[str, dict[str, float]] = {}

    @property
    def replicas(self) -> Iterable[Replica]:
        return self._replicas.values()

    def kept_by(self, session: str) -> Replica | None:
        """Its home, if it has one."""
        return self._homes.get(session)

    def home(self, session: str, now: float, asked: Mapping[Replica, int]) -> Replica | None:
        """The replica that keeps the session, or else the trusted one with the least to do; None if there is none.

        ``asked`` counts the rows each replica is asked about in this step: on probation it takes only so many. Sessions
        leave a replica that is not trusted if there is one that is.
        """
        home = self._homes.get(session)
        if home is not None and _takes(home, now, asked):
            return home
        refused = self._refused.get(session, {})
        others = [
            each
            for each in self.replicas
            if (home is None or each.trust.closed)
            and _takes(each, now, asked)
            and refused.get(each.peer.replica, now) <= now
        ]
        if not others:
            return None
        self.leave(session)
        # What a replica reports includes our sessions, so these count twice, here as there.
        home = min(others, key=lambda each: len(each.kept) + SESSIONS * each.peer.load)
        home.kept[session] = Kept()
        self._homes[session] = home
        return home

    def leave(self, session: str) -> Replica | None:
        """Take a session from its home, which is returned; unknown ones have none."""
        home = self._homes.pop(session, None)
        if home is not None:
            del home.kept[session]
        return home

    def close(self, session: str) -> Replica | None:
        """Forget a session that has ended; its home is returned."""
        self._refused.pop(session, None)
        return self.leave(session)

    def refuse(self, session: str, now: float) -> None:
        """A replica that was sent everything and still does not keep it has no room: leave it in peace for a while."""
        home = self.leave(session)
        if home is not None:
            self._refused.setdefault(session, {})[home.peer.replica] = now + self._retry

    def use(self, peers: Sequence[DraftPeer]) -> None:
        """Replace the known replicas. Sessions of one that is gone, or has a new life, have no home any more."""
        wanted = {peer.replica: peer for peer in peers}
        for name, replica in list(self._replicas.items()):
            old, new = replica.peer, wanted.get(name)
            if new is not None and (new.epoch, new.endpoint) == (old.epoch, old.endpoint):
                replica.peer = new
                continue
            replica.link.close()
            del self._replicas[name]
            for session in list(replica.kept):
                self.leave(session)
        for name, peer in wanted.items():
            if name not in self._replicas:
                link = self._connect(peer.endpoint)
                self._replicas[name] = Replica(peer, link, retry=self._retry, changes=self._changes)


def _takes(replica: Replica, now: float, asked: Mapping[Replica, int]) -> bool:
    allowed = replica.trust.allows(now)
    return allowed is None or asked.get(replica, 0) < allowed
