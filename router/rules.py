"""Which pool a request belongs to: features from its shape, then an explicit table. Pure functions."""

import re

import msgspec

from cluster.errors import UnknownModel
from router.api import Features
from router.config import RouterConfig
from router.jobs import Conversation, Job

AUTO = "auto"
DEFAULT = "default"
"""The route of a request that no rule wanted."""

_CODE_SHAPES = (
    r"```",
    r"\bdef \w+\(",
    r"\bclass \w+\s*[:(]",
    r"\b(python|javascript|typescript|rust|golang|java|sql|bash)\b",
    r"\b(function|method|class|script|program|snippet|unit test|regex)s? (that|to|which|called|named|for|with)\b",
    r"\b(write|implement|complete|fix|refactor|debug)\b.{0,40}\b(function|class|method|code|script|program|loop)\b",
)
_CODE = re.compile("|".join(_CODE_SHAPES), re.IGNORECASE)
_LOOKED_AT = 4096
"""Characters of the last user message that are examined: the question, not the attachment."""


class Choice(msgspec.Struct, frozen=True):
    """The pool a request goes to, the adapter on it, and the rule that said so."""

    pool: str
    rule: str
    adapter: str | None = None

    @property
    def routes(self) -> tuple[str, ...]:
        """The names the route goes by, the more particular first: the rule's, if one chose, and the pool's."""
        rule = self.rule.removeprefix(f"{AUTO}:")
        return (self.pool,) if rule == self.rule else (rule, self.pool)


def describe(job: Job) -> Features:
    """The features rules are written in. Looks at the last user message only: earlier turns are history."""
    text = _question(job)
    return Features(
        tools=isinstance(job.prompt, Conversation) and bool(job.prompt.tools),
        code=bool(_CODE.search(text[:_LOOKED_AT])),
        structured=job.grammar is not None,
    )


def choose(model: str, features: Features, config: RouterConfig, pools: frozenset[str]) -> Choice:
    """The pool for ``model``: a pool's name, ``pool/adapter``, or ``auto`` for the first rule that holds.

    Raises UnknownModel, listing what exists.
    """
    if model == AUTO:
        for rule in config.rules:
            if all(getattr(features, name) for name in rule.when):
                return Choice(rule.pool, f"{AUTO}:{rule.name}")
        return Choice(config.default_pool, f"{AUTO}:{DEFAULT}")
    pool, _, adapter = model.partition("/")
    if pool not in pools:
        raise UnknownModel(f"no model {model!r}; there are {', '.join([AUTO, *sorted(pools)])}", param="model")
    return Choice(pool, "named", adapter or None)


def domain(features: Features) -> str:
    """The kind of traffic, as far as it says what drafts are worth."""
    for name in ("tools", "code", "structured"):
        if getattr(features, name):
            return name
    return "text"


def _question(job: Job) -> str:
    if isinstance(job.prompt, str):
        return job.prompt
    if isinstance(job.prompt, Conversation):
        return next((each.content for each in reversed(job.prompt.messages) if each.role == "user"), "")
    return ""
