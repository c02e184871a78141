"""The error tree. Every error a caller can meet carries an HTTP status, a gRPC code and a machine-readable reason.

    SwitchyardError                    internal             500  INTERNAL
    ├── BadRequest                     invalid_request      400  INVALID_ARGUMENT
    │   ├── UnsupportedOption          unsupported_option   400  INVALID_ARGUMENT
    │   ├── TooLong                    too_long             400  INVALID_ARGUMENT
    │   ├── TooLarge                   too_large            413  INVALID_ARGUMENT
    │   └── UnknownModel               unknown_model        404  NOT_FOUND
    ├── NotFound                       not_found            404  NOT_FOUND
    ├── MethodNotAllowed               method_not_allowed   405  UNIMPLEMENTED
    ├── Conflict                       conflict             409  ABORTED
    ├── Overloaded                     overloaded           429  RESOURCE_EXHAUSTED
    │   └── QueueFull                  queue_full           429  RESOURCE_EXHAUSTED
    ├── DeadlineExceeded               deadline             504  DEADLINE_EXCEEDED
    ├── Cancelled                      cancelled            499  CANCELLED
    ├── Unavailable                    unavailable          503  UNAVAILABLE
    │   ├── NoReplica                  no_replica           503  UNAVAILABLE
    │   ├── ReplicaLost                replica_lost         503  UNAVAILABLE
    │   └── RouterUnavailable          router_unavailable   503  UNAVAILABLE
    ├── EngineFailed                   engine_failed        500  INTERNAL
    ├── ProtocolError                  protocol_error       500  INTERNAL
    ├── ModelCorrupt                   model_corrupt        500  FAILED_PRECONDITION
    └── ConfigError                    config_error         500  FAILED_PRECONDITION

A reason never changes its meaning: clients and dashboards key on it. An error crosses a process as a ``Failure``.
"""

from collections.abc import Iterator
from typing import ClassVar

import msgspec


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error on the wire: ``reason`` selects the class again on the other side."""

    reason: str
    message: str
    retry_after: float | None = None


class SwitchyardError(Exception):
    """The root. ``message`` is safe to show to a client: no prompt, no key, no path."""

    reason: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    grpc_code: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, retry_after: float | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.param = param

    def failure(self) -> Failure:
        return Failure(self.reason, self.message, self.retry_after)


class BadRequest(SwitchyardError):
    """The request is malformed; sending it again cannot help. ``param`` names the offending field."""

    reason = "invalid_request"
    http_status = 400
    grpc_code = "INVALID_ARGUMENT"


class UnsupportedOption(BadRequest):
    """A valid option of the API that this cluster does not offer. Never silently ignored."""

    reason = "unsupported_option"


class TooLong(BadRequest):
    """Prompt plus requested output do not fit the model's context."""

    reason = "too_long"


class TooLarge(BadRequest):
    """The body, schema or list exceeds a limit that is checked before any work is done."""

    reason = "too_large"
    http_status = 413


class UnknownModel(BadRequest):
    """No pool has the requested name; the message lists those that exist."""

    reason = "unknown_model"
    http_status = 404
    grpc_code = "NOT_FOUND"


class NotFound(SwitchyardError):
    """No such resource or route."""

    reason = "not_found"
    http_status = 404
    grpc_code = "NOT_FOUND"


class MethodNotAllowed(SwitchyardError):
    """The route exists, but not with this method."""

    reason = "method_not_allowed"
    http_status = 405
    grpc_code = "UNIMPLEMENTED"


class Conflict(SwitchyardError):
    """What was to be changed is no longer what the client had seen: look again, then decide again."""

    reason = "conflict"
    http_status = 409
    grpc_code = "ABORTED"


class Overloaded(SwitchyardError):
    """Refused to protect what is already admitted; ``retry_after`` says when to come back (seconds)."""

    reason = "overloaded"
    http_status = 429
    grpc_code = "RESOURCE_EXHAUSTED"


class QueueFull(Overloaded):
    """The router's queue for this pool is at its bound."""

    reason = "queue_full"


class DeadlineExceeded(SwitchyardError):
    """The request's own deadline passed, in the queue or while generating."""

    reason = "deadline"
    http_status = 504
    grpc_code = "DEADLINE_EXCEEDED"


class Cancelled(SwitchyardError):
    """The client went away or asked to stop."""

    reason = "cancelled"
    http_status = 499
    grpc_code = "CANCELLED"


class Unavailable(SwitchyardError):
    """A part of the cluster is missing; a retry may succeed."""

    reason = "unavailable"
    http_status = 503
    grpc_code = "UNAVAILABLE"


class NoReplica(Unavailable):
    """The pool exists but has no live replica."""

    reason = "no_replica"


class ReplicaLost(Unavailable):
    """The replica that held this request died or stopped answering."""

    reason = "replica_lost"


class RouterUnavailable(Unavailable):
    """The router did not answer and no snapshot to fall back on exists."""

    reason = "router_unavailable"


class EngineFailed(SwitchyardError):
    """The engine gave up on this request (or on all of them)."""

    reason = "engine_failed"


class ProtocolError(SwitchyardError):
    """A peer spoke another protocol version, or sent what does not decode."""

    reason = "protocol_error"


class ModelCorrupt(SwitchyardError):
    """A model file does not match its manifest; it is not loaded."""

    reason = "model_corrupt"
    grpc_code = "FAILED_PRECONDITION"


class ConfigError(SwitchyardError):
    """The configuration is wrong; nothing was started."""

    reason = "config_error"
    grpc_code = "FAILED_PRECONDITION"


def _tree(root: type[SwitchyardError]) -> Iterator[type[SwitchyardError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def error_from(failure: Failure) -> SwitchyardError:
    """The typed error a ``Failure`` stands for; a reason from a newer peer becomes the root class."""
    by_reason = {kind.reason: kind for kind in _tree(SwitchyardError)}
    kind = by_reason.get(failure.reason, SwitchyardError)
    return kind(failure.message, retry_after=failure.retry_after)
