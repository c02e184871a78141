"""Engine processes under the benchmark: started, asked by lines of JSON, and gone with it whatever happens."""

import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO, TypeVar

import msgspec
import psutil

from loadtests.speculation.messages import Answer, Broken, Command, Done, Measured, Quit, Run, Turn

START_LIMIT = 180.0  # seconds to import vLLM and load a model on a busy machine
STOP_LIMIT = 20.0
TAIL = 2000  # bytes of a broken child's last words
PR_SET_PDEATHSIG = 1
QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Answer).decode


class ChildFailed(RuntimeError):
    """A child broke, died or missed its deadline; the message carries its last words."""


def die_with_parent() -> None:
    """In a child: be killed when the parent ends, however it ends. Raises OSError where the kernel refuses."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL):
        raise OSError(ctypes.get_errno(), "prctl")


class Child:
    """One process of a module with a ``main`` that reads commands and writes answers. ``words``: its arguments;
    ``preload``: libraries it loads before all others."""

    def __init__(self, module: str, words: Sequence[str] = (), *, preload: Sequence[str] = ()) -> None:
        self.name = " ".join((module.rpartition(".")[2], *words))
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        variables = QUIET | ({"LD_PRELOAD": ":".join(preload)} if preload else {})
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | variables,
            start_new_session=True,
        )
        self._buffer = b""
        self._resting = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: Command) -> None:
        """Raises ChildFailed if it is gone."""
        assert self._process.stdin is not None
        if self._resting:
            self._process.send_signal(signal.SIGCONT)
            self._resting = False
        try:
            self._process.stdin.write(_encode(command) + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ChildFailed(f"{self.name} is gone: {self._words()}") from error

    def take(self, kind: type[T], seconds: float) -> T:
        """Its next answer. Raises ChildFailed if that is of another kind, or does not come in time."""
        answer = self._answer(seconds)
        if not isinstance(answer, kind):
            raise ChildFailed(f"{self.name} answered {type(answer).__name__}, not {kind.__name__}")
        return answer

    def ask(self, command: Command, kind: type[T], seconds: float) -> T:
        self.send(command)
        return self.take(kind, seconds)

    def slice(self, command: Run | Turn, seconds: float) -> Measured | None:
        """Begin a window, or go on with it; None: it is not over, but it is another's turn."""
        self.send(command)
        answer = self._answer(seconds)
        if not isinstance(answer, Measured | Turn):
            raise ChildFailed(f"{self.name} answered {type(answer).__name__} in the middle of a window")
        return answer if isinstance(answer, Measured) else None

    def obey(self, command: Command, seconds: float = START_LIMIT) -> Done:
        return self.ask(command, Done, seconds)

    def rest(self) -> None:
        """Stand still until something is sent: an engine's threads wake a hundred times a second even when it is idle.
        Not for one with connections, which would be taken for dead."""
        self._process.send_signal(signal.SIGSTOP)
        self._resting = True

    def seconds(self) -> float:
        """Processor seconds it has used. Raises ChildFailed if it is gone."""
        try:
            times = psutil.Process(self.pid).cpu_times()
        except psutil.NoSuchProcess as error:
            raise ChildFailed(f"{self.name} is gone: {self._words()}") from error
        return float(times.user + times.system)

    def stop(self) -> None:
        """End it; may be called more than once."""
        if self._process.poll() is None:
            try:
                self.send(Quit())
                self._process.wait(STOP_LIMIT)
            except (ChildFailed, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait(STOP_LIMIT)
        self._log.close()

    def _answer(self, seconds: float) -> Answer:
        answer: Answer = _decode(self._line(time.monotonic() + seconds))
        if isinstance(answer, Broken):
            raise ChildFailed(f"{self.name}: {answer.why}\n{self._words()}")
        return answer

    def _line(self, due: float) -> bytes:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = due - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise ChildFailed(f"{self.name} did not answer in time: {self._words()}")
            read = os.read(pipe, 1 << 16)
            if not read:
                raise ChildFailed(f"{self.name} ended: {self._words()}")
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _words(self) -> str:
        if self._log.closed:
            return ""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - TAIL))
        return self._log.read().decode(errors="replace")
