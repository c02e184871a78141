"""The ``switchyard`` command."""

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from cluster.errors import ConfigError, SwitchyardError
from deployments.cli import launcher, view
from deployments.cli.chat import Conversation
from deployments.cli.client import Client, gateway_url
from deployments.cli.runtime import Launch, Runtime, list_clusters
from deployments.config import Config, load, profiles

app = typer.Typer(
    help="Run and talk to a Switchyard cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
DEFAULT_PROFILE = "local"
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Profile = Annotated[str | None, typer.Option(help=f"A profile that ships with Switchyard: {', '.join(profiles())}.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A configuration file (YAML), instead of a profile.")]
Name = Annotated[str | None, typer.Option(help="Which cluster, if several run on this machine.")]
Url = Annotated[str | None, typer.Option(help="A gateway elsewhere, such as http://127.0.0.1:8000.")]


@app.command()
def up(
    profile: Profile = None,
    config: ConfigFile = None,
    *,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once it is ready; `down` stops it.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until it must be ready.")] = 600.0,
    builder: Annotated[str, typer.Option("--app", hidden=True)] = "deployments.app:build",
) -> None:
    """Start a cluster on this machine and stay with it; Ctrl-C stops it."""
    with _explained(), _signals_interrupt():
        runtime, mine = launcher.up(_chosen(profile, config), Launch(app=builder, timeout=timeout))
        if not mine:
            out.print(f"{runtime.name} is running already")
        try:
            _follow(runtime)
            if mine and not detach:
                out.print(Text("Ctrl-C stops it", "dim"))
                launcher.attend(runtime)
        except KeyboardInterrupt:
            if mine:
                _end(runtime)
        except SwitchyardError:
            err.print(f"logs, until the next up or down: {runtime.directory}", soft_wrap=True)
            raise


@app.command()
def down(name: Name = None) -> None:
    """Stop a cluster of this machine and remove everything it left, whatever state it is in."""
    with _explained():
        if name is None and not list_clusters():
            out.print("nothing is running")
        else:
            _end(launcher.the_cluster(name))


@app.command()
def status(
    name: Name = None,
    url: Url = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As the gateway answers it.")] = False,
) -> None:
    """Show pools, replicas, queues and acceptance."""
    with _explained(), Client(_url(name, url)) as client:
        found = client.status()
        if as_json:
            typer.echo(msgspec.json.encode(found).decode())
        else:
            out.print(view.status_table(found))


@app.command()
def chat(
    name: Name = None,
    url: Url = None,
    model: Annotated[str, typer.Option(help="A pool, pool/adapter, or auto.")] = "auto",
    prompt: Annotated[str | None, typer.Option(help="Ask this one thing instead of opening a conversation.")] = None,
) -> None:
    """Talk to a model; accepted drafts show in colour."""
    with _explained(), Client(_url(name, url)) as client:
        conversation = Conversation(client, out, model)
        if prompt is None:
            conversation.repl()
        else:
            conversation.say(prompt)


@app.command()
def check(file: Annotated[str, typer.Argument(help="A configuration file, or a profile's name.")]) -> None:
    """Validate a configuration; print it in short, or everything that is wrong with it."""
    with _explained():
        out.print(view.config_table(load(file)))


@app.command()
def schema() -> None:
    """Print the JSON schema of the configuration."""
    typer.echo(json.dumps(Config.model_json_schema(), indent=2))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """An expected failure is one red message with its reason, and exit status 1."""
    try:
        yield
    except SwitchyardError as error:
        err.print(Text(f"{error.reason}: {error.message}", "red"), soft_wrap=True)
        raise typer.Exit(1) from error


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """A closed terminal or a polite kill is the same wish as Ctrl-C."""
    kinds = (signal.SIGTERM, signal.SIGHUP)
    before = {kind: signal.signal(kind, signal.default_int_handler) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _chosen(profile: str | None, file: Path | None) -> Config:
    if profile is not None and file is not None:
        raise ConfigError("give --profile or --config, not both")
    if profile is not None and profile not in profiles():
        raise ConfigError(f"no profile {profile!r}; there are {', '.join(profiles())}")
    return load(profile or str(file or DEFAULT_PROFILE))


def _url(name: str | None, url: str | None) -> str:
    return url or gateway_url(launcher.the_cluster(name).config().gateway)


def _follow(runtime: Runtime) -> None:
    """Show the start until the cluster is ready, then where it is."""
    seconds = 0.0
    with view.Stage(out) as stage:
        for progress in launcher.follow(runtime):
            stage.show(progress)
            seconds = progress.seconds
    out.print(view.welcome(runtime.config(), seconds), soft_wrap=True)


def _end(runtime: Runtime) -> None:
    with out.status("stopping") if out.is_terminal else contextlib.nullcontext():
        found = launcher.down(runtime)
    out.print(f"{runtime.name} is stopped" if found else f"{runtime.name} is not running")
