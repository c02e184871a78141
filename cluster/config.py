"""The base of every configuration section: frozen, strict, explained."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the configuration. Unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)
