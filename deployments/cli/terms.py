"""What the commands share: where they write, how they fail, and the options that say which cluster is meant."""

import contextlib
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from cluster.errors import SwitchyardError
from deployments.cli import launcher
from deployments.cli.client import gateway_url

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Name = Annotated[str | None, typer.Option(help="Which cluster, if several run on this machine.")]
Url = Annotated[str | None, typer.Option(help="A gateway elsewhere, such as http://127.0.0.1:8000.")]
AsJson = Annotated[bool, typer.Option("--json", help="As the gateway answers it.")]


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """An expected failure is one red message with its reason, and exit status 1."""
    try:
        yield
    except SwitchyardError as error:
        err.print(Text(f"{error.reason}: {error.message}", "red"), soft_wrap=True)
        raise typer.Exit(1) from error


def url_of(name: str | None, url: str | None) -> str:
    """Where the cluster that is meant answers."""
    return url or gateway_url(launcher.the_cluster(name).config().gateway)
