"""Talking to a gateway from the terminal, over real HTTP, with a server that says what the test wants."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from typing import Any

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cluster.errors import Overloaded, ProtocolError, QueueFull, ReplicaLost, SwitchyardError, Unavailable
from deployments.cli.chat import DRAFTED, Conversation, coloured
from deployments.cli.client import Client, Piece, Turn
from deployments.cli.main import app
from deployments.ingress.openai_wire import ChatChunk, Delta, DeltaChoice, ErrorBody, ErrorDetail, Progress, Report

REPORT = Report("general", "general#abc", "auto:default", drafted=4, accepted=3, queue_ms=1.5, cohort="on", why="ramp")
DONE = b"data: [DONE]\n\n"


class Scripted:
    """A gateway that answers every chat with the same bytes and remembers what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b""
        self.asked: list[dict[str, Any]] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                scripted.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(scripted.status)
                self.end_headers()
                self.wfile.write(scripted.body)

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def gateway() -> Iterator[Scripted]:
    scripted = Scripted()
    scripted.body = event("The answer", Progress(3, 2)) + event(" is 42.", Progress(1, 0)) + event("", REPORT) + DONE
    yield scripted
    scripted.close()


def event(text: str, extra: Progress | Report) -> bytes:
    choice = DeltaChoice(0, Delta(content=text), finish_reason=None)
    chunk = ChatChunk("chat-1", 1, "general", (choice,), switchyard=extra)
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def refusal(reason: str) -> bytes:
    return msgspec.json.encode(ErrorBody(ErrorDetail("full", "server_error", None, reason)))


def pieces(gateway: Scripted) -> list[Piece]:
    with Client(gateway.url) as client:
        return list(client.chat("auto", [Turn("user", "What?")]))


def test_pieces_carry_text_drafts_and_at_last_the_report(gateway: Scripted) -> None:
    assert pieces(gateway) == [Piece("The answer", 3, 2), Piece(" is 42.", 1, 0), Piece("", report=REPORT)]
    assert gateway.asked[0]["switchyard"] == {"report": True}


def test_text_from_accepted_drafts_is_coloured_and_other_text_is_not() -> None:
    assert coloured(Piece("a", tokens=3, accepted=1)).style == DRAFTED
    assert coloured(Piece("a", tokens=1, accepted=0)).style == ""


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (429, refusal("queue_full"), QueueFull),
        (429, refusal("a reason from the future"), SwitchyardError),
        (502, b"<html>", Unavailable),
        (200, event("The", Progress(1, 0)) + b"data: " + refusal("replica_lost") + b"\n\n", ReplicaLost),
        (200, event("The", Progress(1, 0)), ProtocolError),
        (200, b"", ProtocolError),
    ],
)
def test_every_failure_becomes_its_typed_error(
    gateway: Scripted, status: int, body: bytes, error: type[Exception]
) -> None:
    gateway.status, gateway.body = status, body
    with pytest.raises(error):
        pieces(gateway)


def test_an_unreachable_gateway_is_unavailable() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        client.status()


def test_one_question_prints_the_answer_and_where_it_came_from(gateway: Scripted) -> None:
    result = CliRunner().invoke(app, ["chat", "--url", gateway.url, "--prompt", "What?"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.stderr
    assert "The answer is 42." in result.stdout
    assert "3 of 4 drafts accepted" in result.stdout
    assert "general#abc" in result.stdout


def test_a_refused_question_ends_with_status_1_and_the_reason(gateway: Scripted) -> None:
    gateway.status, gateway.body = 429, refusal(Overloaded.reason)
    result = CliRunner().invoke(app, ["chat", "--url", gateway.url, "--prompt", "What?"])
    assert result.exit_code == 1
    assert "overloaded: full" in result.stderr


@pytest.fixture
def talk(gateway: Scripted, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """A conversation in which the operator types the given lines."""
    with Client(gateway.url) as client:

        def typed(*lines: str) -> str:
            monkeypatch.setattr("sys.stdin", StringIO("\n".join(lines) + "\n"))
            screen = StringIO()
            Conversation(client, Console(file=screen, width=200), "auto").repl()
            return screen.getvalue()

        yield typed


def test_a_conversation_remembers_its_turns_until_a_new_one(talk: Callable[..., str], gateway: Scripted) -> None:
    talk("one", "two", "/new", "/model code", "three", "/quit", "never asked")
    assert [len(body["messages"]) for body in gateway.asked] == [1, 3, 1]
    assert gateway.asked[1]["messages"][1] == {"role": "assistant", "content": "The answer is 42."}
    assert [body["model"] for body in gateway.asked] == ["auto", "auto", "code"]


def test_a_failed_answer_is_shown_and_leaves_no_trace_in_the_history(
    talk: Callable[..., str], gateway: Scripted
) -> None:
    gateway.status, gateway.body = 429, refusal("queue_full")
    assert "queue_full: full" in talk("one", "two")
    assert [len(body["messages"]) for body in gateway.asked] == [1, 1]
