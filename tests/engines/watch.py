"""What an engine in this process verifies, as its scheduler hands it to the model."""

from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Verified:
    """The drafts of one request in one step, after what it had said by then."""

    session: str
    prompt: tuple[int, ...]
    said: tuple[int, ...]
    drafts: tuple[int, ...]

    @property
    def history(self) -> tuple[int, ...]:
        return self.prompt + self.said

    @property
    def name(self) -> str:
        """The request's own id; vLLM's ends in a dash and eight characters."""
        return self.session.rsplit("-", 1)[0]


def watch(monkeypatch: pytest.MonkeyPatch) -> list[Verified]:
    """A list that grows while engines run."""
    from experts.engines.vllm_scheduler import CountingScheduler

    seen: list[Verified] = []
    schedule = CountingScheduler.schedule

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = schedule(self, *args, **kwargs)
        for session, drafts in output.scheduled_spec_decode_tokens.items():
            request = self.requests[session]
            said = tuple(request.output_token_ids)
            seen.append(Verified(session, tuple(request.prompt_token_ids), said, tuple(drafts)))
        return output

    monkeypatch.setattr(CountingScheduler, "schedule", watched)
    return seen
