"""The command line's door to a gateway: its HTTP API, decoded into the records the gateway itself answers with."""

from collections.abc import Iterator
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from cluster.comparison import Comparison
from cluster.errors import Failure, ProtocolError, SwitchyardError, Unavailable, error_from
from cluster.flags import Flag, FlagList
from deployments.config import GatewayConfig
from deployments.ingress.openai_wire import ErrorBody, Progress, Report
from deployments.ingress.status import Status

_DONE = "[DONE]"
_DATA = "data:"

Record = TypeVar("Record")


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: str
    content: str


class Piece(msgspec.Struct, frozen=True):
    """What one chunk of a stream brought: text, and how many of its tokens had been drafted; at the end the report."""

    text: str = ""
    tokens: int = 0
    accepted: int = 0
    report: Report | None = None


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta


class _Chunk(msgspec.Struct, frozen=True):
    """The part of a chat chunk that is shown."""

    choices: tuple[_Choice, ...] = ()
    switchyard: dict[str, object] | None = None


class Client:
    """A gateway at ``url``. Raises the typed error the gateway answered with; Unavailable if it cannot be reached."""

    def __init__(self, url: str, timeout: float = 60.0) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=httpx.Timeout(timeout, connect=3.0), trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def status(self) -> Status:
        """Pools, replicas and queues. Raises RouterUnavailable while the gateway has no directory."""
        return self._look("/status", Status)

    def flags(self) -> FlagList:
        """Every flag in force."""
        return self._look("/admin/flags", FlagList)

    def flag(self, name: str) -> Flag:
        """Raises NotFound."""
        return self._look(_path("/admin/flags", name), Flag)

    def set_flag(self, flag: Flag) -> Flag:
        """Put it in the place of the version that it has; as it is in force then. Raises Conflict if that is gone."""
        body = {
            "version": flag.version,
            "enabled": flag.enabled,
            "percent": flag.percent,
            "tenants": flag.tenants,
            "routes": flag.routes,
        }
        return self._asked("PUT", _path("/admin/flags", flag.name), Flag, body)

    def experiment(self, flag: str) -> Comparison:
        """How its cohorts compare. Raises NotFound."""
        return self._look(_path("/experiments", flag), Comparison)

    def _look(self, path: str, kind: type[Record]) -> Record:
        return self._asked("GET", path, kind)

    def _asked(self, method: str, path: str, kind: type[Record], body: object = None) -> Record:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise Unavailable(f"no gateway answers at {self.url}: {error}") from error
        _raise_for(answer)
        return msgspec.json.decode(answer.content, type=kind)

    def chat(self, model: str, history: list[Turn]) -> Iterator[Piece]:
        """Continue a conversation; pieces as they arrive, the report last."""
        body = {
            "model": model,
            "messages": msgspec.to_builtins(history),
            "stream": True,
            "switchyard": {"report": True},
        }
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.is_error:
                    answer.read()
                    _raise_for(answer)
                yield from _pieces(answer.iter_lines())
        except httpx.HTTPError as error:
            raise Unavailable(f"the connection to {self.url} failed: {error}") from error


def _path(above: str, name: str) -> str:
    return f"{above}/{quote(name, safe='')}"


def _pieces(lines: Iterator[str]) -> Iterator[Piece]:
    for line in lines:
        data = line.removeprefix(_DATA).strip()
        if not line.startswith(_DATA):
            continue
        if data == _DONE:
            return
        yield _piece(data.encode())
    raise ProtocolError("the stream ended without its end mark")


def _piece(data: bytes) -> Piece:
    failed = _failure(data)
    if failed is not None:
        raise failed
    chunk = msgspec.json.decode(data, type=_Chunk)
    text = "".join(choice.delta.content or "" for choice in chunk.choices)
    if chunk.switchyard is None:
        return Piece(text)
    if "pool" in chunk.switchyard:
        return Piece(text, report=msgspec.convert(chunk.switchyard, Report))
    progress = msgspec.convert(chunk.switchyard, Progress)
    return Piece(text, progress.tokens, progress.accepted)


def _raise_for(answer: httpx.Response) -> None:
    if answer.is_error:
        raise _failure(answer.content) or Unavailable(f"the gateway answered {answer.status_code}")


def _failure(body: bytes) -> SwitchyardError | None:
    try:
        detail = msgspec.json.decode(body, type=ErrorBody).error
    except msgspec.MsgspecError:
        return None
    return error_from(Failure(detail.code, detail.message))


def gateway_url(gateway: GatewayConfig) -> str:
    """Where clients of this machine reach the gateway."""
    host = f"[{gateway.host}]" if ":" in gateway.host else gateway.host
    return f"http://{host}:{gateway.http_port}"
