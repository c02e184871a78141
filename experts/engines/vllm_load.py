"""What both ways of running vLLM do around loading. Nothing here imports torch before the caller asks for it."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError, EngineFailed, SwitchyardError
from experts.api import EngineLimits
from experts.engines.vllm_options import Plan, environment

LOAD_LIMIT = 1800.0  # seconds until a load counts as failed
MESSAGE_BOUND = 500


def prepare(plan: Plan) -> None:
    """Set what vLLM and torch read at import, and pin the calling thread with all it will start."""
    for name, value in environment(plan).items():
        os.environ.setdefault(name, value)
    if not plan.cores:
        return
    os.sched_setaffinity(0, fitting(plan.cores, os.sched_getaffinity(0)))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(len(plan.cores))


def fitting(cores: tuple[int, ...], available: set[int]) -> set[int]:
    """The configured cores on a machine that has others, or fewer: counted round those available."""
    ordered = sorted(available)
    return {ordered[core % len(ordered)] for core in cores}


def engine_arguments(kind: Any, plan: Plan) -> Any:
    """An instance of vLLM's arguments class. Raises ConfigError naming every unknown option."""
    known = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(plan.arguments.keys() - known)
    if unknown:
        raise ConfigError(f"engine.options: vLLM has no option {', '.join(unknown)}")
    for name, directory in plan.adapters.items():
        if not (Path(directory) / "adapter_config.json").is_file():
            raise ConfigError(f"engine.adapters: {name!r} is no LoRA adapter directory")
    with loading():
        return kind(**plan.arguments)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Turn what goes wrong inside into ConfigError (vLLM refuses the settings) or EngineFailed (anything else)."""
    try:
        yield
    except SwitchyardError:
        raise
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        raise ConfigError(f"vLLM refuses the configuration: {_words(error)}") from error
    except Exception as error:  # whatever a runtime raises, the replica answers for it in our terms
        raise EngineFailed(f"vLLM did not start: {_words(error)}") from error


def limits_of(vllm_config: Any) -> EngineLimits:
    return EngineLimits(
        max_context=vllm_config.model_config.max_model_len,
        max_running=vllm_config.scheduler_config.max_num_seqs,
        vocabulary=vllm_config.model_config.get_vocab_size(),
    )


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:MESSAGE_BOUND]
