"""Where sessions live."""

from collections import Counter
from collections.abc import Iterator

import pytest

from cluster.transport import BlockingLink, Wire
from experts.api import DraftPeer
from experts.speculation.messages import VERSION, ToVerifier
from experts.speculation.placement import Placement

NOWHERE = "tcp://127.0.0.1:1"
RETRY = 0.5


def peer(name: str, load: float = 0.0) -> DraftPeer:
    return DraftPeer(name, 1, NOWHERE, load)


@pytest.fixture
def placement() -> Iterator[Placement]:
    wire = Wire(VERSION, ToVerifier)
    found = Placement(lambda endpoint: BlockingLink(wire, endpoint, largest=1024), retry=RETRY, changes=Counter())
    yield found
    found.use(())


def homes(placement: Placement, count: int) -> Counter[str]:
    placed = (placement.home(f"s{number}", 0.0, {}) for number in range(count))
    return Counter(home.peer.replica for home in placed if home is not None)


def test_new_sessions_go_where_there_is_less_to_do(placement: Placement) -> None:
    placement.use([peer("busy", load=0.9), peer("idle", load=0.0)])
    assert homes(placement, 20) == {"idle": 20}


def test_a_load_that_is_heard_later_counts_for_the_sessions_after_it(placement: Placement) -> None:
    placement.use([peer("a", load=0.9), peer("b", load=0.0)])
    homes(placement, 5)
    placement.use([peer("a", load=0.0), peer("b", load=0.9)])
    assert placement.home("later", 0.0, {}).peer.replica == "a"


def test_a_session_that_one_replica_has_no_room_for_lives_at_another_at_once(placement: Placement) -> None:
    placement.use([peer("full"), peer("other", load=0.5)])
    assert placement.home("s", 0.0, {}).peer.replica == "full"
    placement.refuse("s", 0.0)
    assert placement.home("s", 0.0, {}).peer.replica == "other"


def test_a_replica_without_room_is_asked_again_after_a_while(placement: Placement) -> None:
    placement.use([peer("full")])
    placement.home("s", 0.0, {})
    placement.refuse("s", 0.0)
    assert placement.home("s", RETRY / 2, {}) is None
    assert placement.home("s", RETRY, {}).peer.replica == "full"


def test_a_session_that_nobody_has_room_for_is_left_in_peace(placement: Placement) -> None:
    placement.use([peer("full"), peer("other", load=0.5)])
    for _ in range(2):
        placement.home("s", 0.0, {})
        placement.refuse("s", 0.0)
    assert placement.home("s", RETRY / 2, {}) is None
    placement.close("s")
    assert placement.home("s", RETRY / 2, {}) is not None
