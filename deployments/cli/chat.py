"""``switchyard chat``: a conversation in the terminal that shows which text had been drafted."""

from rich.console import Console
from rich.text import Text

from cluster.errors import SwitchyardError
from deployments.cli.client import Client, Piece, Turn
from deployments.ingress.openai_wire import Report

DRAFTED = "green"
HELP = "/new starts over, /model NAME changes the model, /quit or Ctrl-D ends; Ctrl-C stops an answer"


class Conversation:
    """Turns so far with one model."""

    def __init__(self, client: Client, console: Console, model: str) -> None:
        self._client = client
        self._console = console
        self._model = model
        self._history: list[Turn] = []

    def say(self, prompt: str) -> None:
        """Send one message and show the answer while it comes. Raises what the gateway answered with.

        A failed or interrupted answer leaves the history as it was.
        """
        asked = [*self._history, Turn("user", prompt)]
        pieces = []
        for piece in self._client.chat(self._model, asked):
            self._console.print(coloured(piece), end="", soft_wrap=True)
            pieces.append(piece)
        self._console.print()
        self._history = [*asked, Turn("assistant", "".join(piece.text for piece in pieces))]
        for piece in pieces:
            if piece.report is not None:
                self._console.print(summary(piece.report))

    def repl(self) -> None:
        """Read and answer until the input ends."""
        self._console.print(Text.assemble("Text that came from accepted drafts is ", ("green", DRAFTED), f". {HELP}"))
        while True:
            try:
                line = self._console.input("[bold]> [/bold]").strip()
            except (EOFError, KeyboardInterrupt):
                self._console.print()
                return
            if line == "/quit":
                return
            if line:
                self._answer(line)

    def _answer(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command == "/new":
            self._history = []
        elif command == "/model" and rest:
            self._model = rest.strip()
        elif command.startswith("/"):
            self._console.print(HELP)
        else:
            self._try(line)

    def _try(self, line: str) -> None:
        try:
            self.say(line)
        except KeyboardInterrupt:
            self._console.print("\n[dim]stopped[/dim]")
        except SwitchyardError as error:
            self._console.print(Text(f"{error.reason}: {error.message}", "red"))


def coloured(piece: Piece) -> Text:
    """A chunk is what one verify step gave: if drafts were accepted in it, they are what it begins with."""
    return Text(piece.text, DRAFTED if piece.accepted else "")


def summary(report: Report) -> Text:
    """Where the answer came from and what speculation did for it."""
    drafts = f", {report.accepted} of {report.drafted} drafts accepted" if report.drafted else ""
    return Text(f"{report.route} -> {report.pool} ({report.replica}), queued {report.queue_ms:.0f} ms{drafts}", "dim")
