"""What can be said of a request before any work: shared by all engines, so that they refuse alike."""

import math

from cluster.errors import BadRequest, TooLong
from experts.api import EngineLimits, GenerateRequest, Sampling

SEED_BITS = 63
BIAS_LIMIT = 100.0


def check(request: GenerateRequest, limits: EngineLimits) -> None:
    """Raises TooLong or BadRequest with the offending field."""
    _check_prompt(request, limits)
    _check_sampling(request.sampling, limits)


def _check_prompt(request: GenerateRequest, limits: EngineLimits) -> None:
    prompt, wanted = request.prompt, request.sampling.max_tokens
    if not prompt:
        raise BadRequest("the prompt is empty", param="prompt")
    if wanted < 1:
        raise BadRequest("max_tokens must be at least 1", param="max_tokens")
    if len(prompt) + wanted > limits.max_context:
        raise TooLong(
            f"the prompt has {len(prompt)} tokens and {wanted} are to be generated, "
            f"but the model holds {limits.max_context} in all",
            param="max_tokens",
        )
    if min(prompt) < 0 or max(prompt) >= limits.vocabulary:
        raise BadRequest(f"token ids must be in [0, {limits.vocabulary})", param="prompt")


def _check_sampling(sampling: Sampling, limits: EngineLimits) -> None:
    if sampling.seed is not None and not -(1 << SEED_BITS) <= sampling.seed < 1 << SEED_BITS:
        raise BadRequest("seed must fit a signed 64-bit integer", param="seed")
    for token, bias in sampling.logit_bias.items():
        if not 0 <= token < limits.vocabulary:
            raise BadRequest(f"logit_bias: token ids must be in [0, {limits.vocabulary})", param="logit_bias")
        if not math.isfinite(bias) or abs(bias) > BIAS_LIMIT:
            raise BadRequest(f"logit_bias: values must be in [-{BIAS_LIMIT:g}, {BIAS_LIMIT:g}]", param="logit_bias")
    if sampling.min_tokens > sampling.max_tokens:
        raise BadRequest("min_tokens is above max_tokens", param="min_tokens")
