"""Configuration of the router: bounds, deadlines and the rule table behind ``model: auto``."""

from typing import Annotated

from pydantic import Field, model_validator

from cluster.config import Section


class Rule(Section):
    """One line of the table: the first rule whose named features all hold decides the pool."""

    name: str
    when: tuple[str, ...] = Field(description="feature names that must hold: tools, code, structured")
    pool: str

    @model_validator(mode="after")
    def _features_exist(self) -> "Rule":
        unknown = set(self.when) - {"tools", "code", "structured"}
        if unknown:
            raise ValueError(f"unknown features {sorted(unknown)}; there are tools, code, structured")
        return self


class RouterConfig(Section):
    """``max_queue`` bounds the requests waiting per pool; times are in seconds."""

    max_queue: Annotated[int, Field(ge=0)] = 1024
    request_timeout: Annotated[float, Field(gt=0)] = Field(
        default=600.0, description="deadline of a request that brings none"
    )
    queue_timeout: Annotated[float, Field(gt=0)] = Field(default=60.0, description="longest wait for a replica")
    replica_timeout: Annotated[float, Field(gt=0)] = Field(
        default=3.0, description="a replica silent for so long takes no new work"
    )
    report_interval: Annotated[float, Field(gt=0)] = Field(
        default=0.02, description="shortest time between two reports of a busy replica"
    )
    idle_interval: Annotated[float, Field(gt=0)] = Field(default=0.5, description="time between reports when idle")
    overcommit: Annotated[int, Field(ge=0)] = Field(
        default=0, description="requests lent to a replica beyond the sequences it can run at once"
    )
    rules: tuple[Rule, ...] = ()
    default_pool: str = "general"
