"""An engine in a process of its own, in a closed loop: ``python -m loadtests.speculation.verifier``.

The engine is ``Core``, vLLM's synchronous engine as a replica runs it, without a replica around it: what is measured is
speculation and not a server. With layout ``off`` it is plain vLLM.
"""

import json
import os
import sys
import time
from collections.abc import Callable

import msgspec
import psutil

from experts.api import Sampling, SpeculationState
from experts.config import PoolConfig
from experts.engines.vllm_load import prepare
from experts.engines.vllm_options import plan
from loadtests.speculation.children import die_with_parent
from loadtests.speculation.loop import ClosedLoop, Slices, Window, Work
from loadtests.speculation.messages import (
    Answer,
    Broken,
    Command,
    Done,
    Fix,
    Load,
    Measured,
    Quit,
    Rate,
    Run,
    Turn,
    Use,
)
from loadtests.speculation.parts import Parts


class Talk:
    """The pipe to the benchmark. Whatever else writes to standard output goes to standard error instead."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(Command).decode

    def say(self, answer: Answer) -> None:
        self._out.write(self._encode(answer) + b"\n")
        self._out.flush()

    def hear(self) -> Command:
        """The next command; quit when the pipe is closed."""
        line = sys.stdin.buffer.readline()
        return self._decode(line) if line else Quit()

    def yield_turn(self) -> None:
        """Let others run until it is this engine's turn again. Raises TypeError if something else is wanted of it."""
        self.say(Turn())
        if not isinstance(command := self.hear(), Turn):
            raise TypeError(f"in the middle of a window comes no {type(command).__name__}")


class Verifier:
    """Loads the engine and measures windows. Raises SwitchyardError if it cannot load. ``yield_turn`` lets others run
    in the middle of a window."""

    def __init__(self, load: Load, yield_turn: Callable[[], None]) -> None:
        pool = PoolConfig.model_validate_json(json.dumps(load.pool))
        chosen = plan(load.name, pool)
        prepare(chosen)
        from experts.engines.vllm_core import Core  # after what it reads at import has been set
        from loadtests.speculation import hooks

        if load.vanilla:
            chosen = hooks.vanilla(chosen)
        if load.synthetic:
            chosen = hooks.pretend(chosen)
        self._load, self._hooks, self._yield_turn = load, hooks, yield_turn
        self._core = Core(chosen)
        self._runs = 0

    def act(self, command: Command) -> Answer:
        match command:
            case Use(peer):
                self._core.use_drafts(msgspec.msgpack.encode((peer,)))
            case Fix(depth):
                self._hooks.fix(self._core, depth)
            case Rate(acceptance):
                self._hooks.rate(self._core, acceptance)
            case Run():
                return self._run(command)
            case _:
                raise TypeError(f"an engine takes no {type(command).__name__} here")
        return done()

    def _run(self, command: Run) -> Measured:
        self._runs += 1
        sampling = Sampling(max_tokens=self._load.max_tokens, temperature=0.0, ignore_eos=self._load.ignore_eos)
        work = Work(str(self._runs), [self._load.prompts[index] for index in command.order], sampling)
        slices = Slices(command.slice, self._yield_turn) if command.slice else None
        loop = ClosedLoop(self._core, work, command.batch, slices=slices)
        loop.settle(command.settle)
        parts = Parts(self._hooks.places(self._core) if command.timed else ())
        before, cpu = self._hooks.speculation(self._core), time.process_time()
        with parts:
            window = loop.window(command.seconds)
        cpu = time.process_time() - cpu
        after = self._hooks.speculation(self._core)
        loop.drain()
        return measured(window, cpu, parts.seconds(), grown(before, after))


def measured(window: Window, cpu: float, parts: dict[str, float], state: SpeculationState | None) -> Measured:
    decode, prefill = window.decode, window.prefill
    return Measured(
        seconds=window.seconds,
        tokens=decode.tokens + prefill.tokens,
        steps=decode.steps + prefill.steps,
        decode_seconds=decode.seconds,
        decode_tokens=decode.tokens,
        decode_steps=decode.steps,
        rows=decode.rows,
        drafted=decode.drafted + prefill.drafted,
        accepted=decode.accepted + prefill.accepted,
        finished=window.finished,
        cpu=cpu,
        parts=parts,
        speculation=state,
    )


def grown(before: SpeculationState | None, after: SpeculationState | None) -> SpeculationState | None:
    """What the counters gained between two readings; what is no counter is as it was last."""
    if before is None or after is None:
        return after
    gains: dict[str, object] = {}
    for name in SpeculationState.__struct_fields__:
        old, new = getattr(before, name), getattr(after, name)
        if name == "depth" or isinstance(new, str):
            continue
        if isinstance(new, tuple):
            gains[name] = tuple(value - (old[i] if i < len(old) else 0) for i, value in enumerate(new))
        elif isinstance(new, dict):
            gains[name] = {key: value - old.get(key, 0) for key, value in new.items() if value != old.get(key, 0)}
        else:
            gains[name] = new - old
    return msgspec.structs.replace(after, **gains)


def done() -> Done:
    times = time.process_time()
    return Done(psutil.Process().memory_info().rss, times)


def serve(talk: Talk) -> None:
    """Load, then act on commands until quit."""
    load = talk.hear()
    if not isinstance(load, Load):
        raise TypeError(f"first comes Load, not {type(load).__name__}")
    verifier = Verifier(load, talk.yield_turn)
    talk.say(done())
    while not isinstance(command := talk.hear(), Quit):
        talk.say(verifier.act(command))


def main() -> None:
    die_with_parent()
    talk = Talk()
    try:
        serve(talk)
    except Exception as error:
        talk.say(Broken(f"{type(error).__name__}: {error}"))
        raise
    finally:
        # vLLM's threads and atexit hooks may take their time; there is nothing to save.
        sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
