"""The ``switchyard`` command."""

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from cluster.errors import ConfigError, SwitchyardError
from deployments.cli import launcher, rollout, view
from deployments.cli.chat import Conversation
from deployments.cli.client import Client
from deployments.cli.runtime import Launch, Runtime, list_clusters
from deployments.cli.terms import AsJson, Name, Url, err, explained, out, url_of
from deployments.config import Config, load, profiles

app = typer.Typer(
    help="Run and talk to a Switchyard cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(rollout.app, name="flags")
app.command()(rollout.experiment)
DEFAULT_PROFILE = "local"
Profile = Annotated[str | None, typer.Option(help=f"A profile that ships with Switchyard: {', '.join(profiles())}.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A configuration file (YAML), instead of a profile.")]


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
    with explained(), _signals_interrupt():
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
    with explained():
        if name is None and not list_clusters():
            out.print("nothing is running")
        else:
            _end(launcher.the_cluster(name))


@app.command()
def status(
    name: Name = None,
    url: Url = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show pools, replicas, queues, acceptance, and how drafts do."""
    with explained(), Client(url_of(name, url)) as client:
        found = client.status()
        if as_json:
            typer.echo(msgspec.json.encode(found).decode())
        else:
            out.print(view.status_view(found))


@app.command()
def chat(
    name: Name = None,
    url: Url = None,
    model: Annotated[str, typer.Option(help="A pool, pool/adapter, or auto.")] = "auto",
    prompt: Annotated[str | None, typer.Option(help="Ask this one thing instead of opening a conversation.")] = None,
) -> None:
    """Talk to a model; accepted drafts show in colour."""
    with explained(), Client(url_of(name, url)) as client:
        conversation = Conversation(client, out, model)
        if prompt is None:
            conversation.repl()
        else:
            conversation.say(prompt)


@app.command()
def check(file: Annotated[str, typer.Argument(help="A configuration file, or a profile's name.")]) -> None:
    """Validate a configuration; print it in short, or everything that is wrong with it."""
    with explained():
        out.print(view.config_table(load(file)))


@app.command()
def schema() -> None:
    """Print the JSON schema of the configuration."""
    typer.echo(json.dumps(Config.model_json_schema(), indent=2))


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
