"""The pool protocol: what a gateway and a replica say to each other (ZMQ DEALER to ROUTER, msgpack, tagged records)."""

import msgspec

from experts.api import Chunk, GenerateRequest

VERSION = 1
"""Raised with every incompatible change of a record; peers with another version are refused, not guessed at."""


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Generate. ``epoch`` is the life of the replica the lease was made for; another life answers ReplicaLost."""

    request: GenerateRequest
    epoch: int


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Stop generating; the replica still sends the last chunk."""

    id: str


class Frame(msgspec.Struct, frozen=True, tag=True):
    """All that one engine step produced for one gateway."""

    epoch: int
    chunks: tuple[Chunk, ...]


ToReplica = Submit | Abort
ToGateway = Frame
