"""Feature flags: who gets a feature, decided per request by pure functions, and how two versions of a flag compare.

A flag that is off is off for everybody. Otherwise the tenant's override decides, else the route's, else the ramp: a
hash of the request's key places it at a point of the line from 0 to 100, and it is on below the percentage. So the
answer is the same when a request is tried again, and a higher percentage only ever adds requests.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Annotated, Literal

import msgspec
from pydantic import Field

from cluster.config import Section
from cluster.errors import NotFound

SPECULATION = "speculation"

Cohort = Literal["on", "off"]
Why = Literal["disabled", "tenant", "route", "ramp"]

NAME = r"^[A-Za-z0-9._:-]{1,64}$"
"""What a tenant or a route may be called."""

MOST = 256
"""Overrides of one kind in one flag: everybody is told all of them, twice a second."""

Name = Annotated[str, Field(pattern=NAME)]
Overrides = Annotated[dict[Name, bool], Field(max_length=MOST)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Salt = Annotated[str, Field(max_length=64)]


class FlagConfig(Section):
    """A flag as the cluster starts with it. What is changed at run time lasts until the whole cluster is stopped."""

    enabled: bool = Field(default=True, description="false: off for everybody, whatever the rest says")
    percent: Percent = Field(default=100.0, description="share of the requests that no override decides")
    tenants: Overrides = Field(default_factory=dict, description="tenants that always, or never, get it")
    routes: Overrides = Field(default_factory=dict, description="rules or pools that always, or never, get it")
    salt: Salt = Field(default="", description="another salt draws other requests; empty: the flag's name")


class FlagsConfig(Section):
    """All flags there are."""

    speculation: FlagConfig = FlagConfig()


class Flag(msgspec.Struct, frozen=True):
    """A flag in force. ``version`` grows by one with every change at run time; ``epoch`` is the life of the router that
    made the last one, 0 for what the configuration said."""

    name: str
    epoch: int
    version: int
    enabled: bool
    percent: float
    tenants: dict[str, bool]
    routes: dict[str, bool]
    salt: str

    @property
    def rank(self) -> tuple[int, int]:
        """Orders the versions of one flag in time."""
        return (self.epoch, self.version)


class Flags(msgspec.Struct, frozen=True):
    """Every flag of a cluster, by name."""

    all: tuple[Flag, ...]

    def get(self, name: str) -> Flag:
        """Raises NotFound, listing what exists."""
        for each in self.all:
            if each.name == name:
                return each
        raise NotFound(f"no flag {name!r}; there are {', '.join(each.name for each in self.all)}")

    def newest(self, told: Iterable[Flag]) -> "Flags":
        """These, or what was told where that is newer. Flags that are unknown here are ignored."""
        theirs = {each.name: each for each in told}
        return Flags(tuple(max(each, theirs.get(each.name, each), key=lambda flag: flag.rank) for each in self.all))


class FlagList(msgspec.Struct, frozen=True):
    """Every flag in force, as clients are shown it."""

    flags: tuple[Flag, ...]


class Decision(msgspec.Struct, frozen=True):
    """Whether one request gets the feature, by which flag, and what decided."""

    flag: Flag
    on: bool
    why: Why

    @property
    def cohort(self) -> Cohort:
        return "on" if self.on else "off"


def configured(config: FlagsConfig) -> Flags:
    """The flags as the configuration has them."""
    sections: dict[str, FlagConfig] = {SPECULATION: config.speculation}
    return Flags(
        tuple(
            Flag(name, 0, 0, each.enabled, each.percent, each.tenants, each.routes, each.salt or name)
            for name, each in sections.items()
        )
    )


def decide(flag: Flag, key: str, *, tenant: str, routes: Iterable[str]) -> Decision:
    """``key`` is what a request keeps when it is tried again; ``routes`` are the names its route goes by, of which the
    first that is overridden counts."""
    if not flag.enabled:
        return Decision(flag, on=False, why="disabled")
    if tenant in flag.tenants:
        return Decision(flag, on=flag.tenants[tenant], why="tenant")
    for route in routes:
        if route in flag.routes:
            return Decision(flag, on=flag.routes[route], why="route")
    return Decision(flag, on=point(flag.salt, key) < flag.percent / 100, why="ramp")


def point(salt: str, key: str) -> float:
    """Where a key falls in [0, 1): uniform over keys, and unrelated for another salt."""
    digest = blake2b(f"{salt}\0{key}".encode(errors="surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53
