"""One request's output that cannot be read, in vLLM's own processing of a step: it is that request's end alone."""

from types import SimpleNamespace

import pytest

from experts.api import Chunk, GenerateRequest, Sampling

pytestmark = pytest.mark.engine  # importing the translation imports the runtime


def ask(name: str) -> GenerateRequest:
    return GenerateRequest(name, (1, 2, 3), Sampling(max_tokens=8), timeout=10.0)


class Steps:
    """vLLM's output processor with two requests, ``bad`` and ``good``, that get a token each in every step."""

    def __init__(self) -> None:
        from vllm.v1.engine.output_processor import OutputProcessor

        self.processor = OutputProcessor(None, log_stats=False)
        self.chunks: list[Chunk] = []
        for name in ("bad", "good"):
            self._enter(ask(name))

    def take(self) -> list[str]:
        """One step; the requests that vLLM's scheduler is told to end."""
        from vllm.v1.engine import EngineCoreOutput

        self.chunks.clear()
        outputs = [EngineCoreOutput(request_id=name, new_token_ids=[5]) for name in ("bad", "good")]
        return self.processor.process_outputs(outputs).reqs_to_abort

    def _enter(self, request: GenerateRequest) -> None:
        from vllm.v1.engine import EngineCoreRequest

        from experts.engines.vllm_requests import Stream, params_of

        fields = dict.fromkeys(EngineCoreRequest.__struct_fields__) | {
            "request_id": request.id,
            "external_req_id": request.id,
            "prompt_token_ids": list(request.prompt),
            "sampling_params": params_of(request, speculates=False),
            "arrival_time": 0.0,
        }
        self.processor.add_request(EngineCoreRequest(**fields), None)
        state = self.processor.request_states[request.id]
        state.queue = Stream(request, self.chunks.append, state=state)


def malformed(*_: object, **__: object) -> SimpleNamespace:
    return SimpleNamespace(outputs=[SimpleNamespace(token_ids=[5])], num_cached_tokens=0)


def test_an_output_that_cannot_be_read_ends_its_request_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    steps = Steps()
    assert steps.take() == []
    assert [(chunk.id, chunk.tokens) for chunk in steps.chunks] == [("bad", (5,)), ("good", (5,))]

    bad = steps.processor.request_states["bad"]
    bad.make_request_output = malformed
    assert steps.take() == []
    assert [(chunk.id, chunk.finish) for chunk in steps.chunks] == [("bad", "error"), ("good", None)]
    failure = steps.chunks[0].error
    assert failure is not None
    assert failure.reason == "engine_failed"
    assert "AttributeError" in failure.message
    assert "request bad" in caplog.text

    del bad.make_request_output
    assert steps.take() == ["bad"]
    assert [chunk.id for chunk in steps.chunks] == ["good"]
    assert list(steps.processor.request_states) == ["good"]


def test_a_request_that_vllm_has_dropped_can_break_too() -> None:
    from experts.engines.vllm_requests import Stream

    chunks: list[Chunk] = []
    stream = Stream(ask("a"), chunks.append, state=None)
    stream.put(object())
    stream.put(object())
    assert [chunk.finish for chunk in chunks] == ["error"]
