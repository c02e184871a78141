"""The commands around feature flags: ``switchyard flags``, ``switchyard flags set`` and ``switchyard experiment``."""

from typing import Annotated

import msgspec
import typer
from rich.console import Console

from cluster.errors import BadRequest, NotFound
from deployments.cli import rollout_view as view
from deployments.cli.client import Client
from deployments.cli.terms import AsJson, Name, Url, explained, out, url_of

app = typer.Typer(help="Show the feature flags, or change one while the cluster runs.", invoke_without_command=True)

_STATES = {"on": True, "off": False}

FlagName = Annotated[str, typer.Argument(help="The flag, such as speculation.")]
Percent = Annotated[float | None, typer.Option(min=0, max=100, help="Share of the requests that no override decides.")]
Enabled = Annotated[bool | None, typer.Option("--on/--off", help="--off: off for everybody, whatever the rest says.")]
Tenants = Annotated[list[str] | None, typer.Option("--tenant", metavar="NAME=on|off", help="Override for a tenant.")]
Routes = Annotated[
    list[str] | None, typer.Option("--route", metavar="NAME=on|off", help="Override for a rule or pool.")
]
NoTenants = Annotated[list[str] | None, typer.Option("--clear-tenant", metavar="NAME", help="Drop an override.")]
NoRoutes = Annotated[list[str] | None, typer.Option("--clear-route", metavar="NAME", help="Drop an override.")]


@app.callback()
def flags(context: typer.Context, name: Name = None, url: Url = None, *, as_json: AsJson = False) -> None:
    """Show the feature flags, or change one while the cluster runs."""
    if context.invoked_subcommand is not None:
        return
    with explained(), Client(url_of(name, url)) as client:
        found = client.flags()
        if as_json:
            typer.echo(msgspec.json.encode(found).decode())
        else:
            out.print(view.flags_table(found.flags))


@app.command("set")
def change(  # noqa: PLR0913  # a command: each parameter is an option of the command line
    flag: FlagName,
    percent: Percent = None,
    *,
    enabled: Enabled = None,
    tenant: Tenants = None,
    route: Routes = None,
    clear_tenant: NoTenants = None,
    clear_route: NoRoutes = None,
    name: Name = None,
    url: Url = None,
) -> None:
    """Change a flag at once, on every gateway; what is not named stays."""
    with explained(), Client(url_of(name, url)) as client:
        known = client.flag(flag)
        wanted = msgspec.structs.replace(
            known,
            percent=known.percent if percent is None else percent,
            enabled=known.enabled if enabled is None else enabled,
            tenants=_overridden(known.tenants, tenant or [], clear_tenant or []),
            routes=_overridden(known.routes, route or [], clear_route or []),
        )
        if wanted == known:
            raise BadRequest("nothing to change: give --percent, --on, --off, --tenant, --route or one of --clear-...")
        out.print(view.flags_table([client.set_flag(wanted)]))


def experiment(
    flag: FlagName,
    pool: Annotated[str | None, typer.Option(help="This pool only.")] = None,
    *,
    name: Name = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Compare what the requests with a flag and those without it were served."""
    with explained(), Client(url_of(name, url)) as client:
        found = client.experiment(flag)
        if pool is not None:
            found = msgspec.structs.replace(found, pools=tuple(each for each in found.pools if each.pool == pool))
            if not found.pools:
                raise NotFound(f"nothing was counted on a pool {pool!r} since the flag was last changed")
        if as_json:
            typer.echo(msgspec.json.encode(found).decode())
        else:
            Console(highlight=False, width=max(out.width, view.WIDTH)).print(view.experiment_table(found))


def _overridden(known: dict[str, bool], given: list[str], dropped: list[str]) -> dict[str, bool]:
    """Raises BadRequest for what is no override, or is none to drop."""
    absent = [name for name in dropped if name not in known]
    if absent:
        raise BadRequest(f"there is no override for {absent[0]!r}")
    kept = {name: state for name, state in known.items() if name not in dropped}
    return kept | dict(_override(each) for each in given)


def _override(text: str) -> tuple[str, bool]:
    name, _, state = text.rpartition("=")
    if not name or state not in _STATES:
        raise BadRequest(f"{text!r} is no override: write NAME=on or NAME=off")
    return name, _STATES[state]
