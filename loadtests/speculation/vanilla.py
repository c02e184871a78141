"""vLLM's worker for CPUs with nothing laid over its model runner: what our engines are compared with."""

from vllm.v1.worker.cpu_worker import CPUWorker


class Worker(CPUWorker):  # type: ignore[misc]  # vLLM is untyped here
    """Answers what ``Core`` asks of every worker, and is vLLM's otherwise."""

    def speculation(self) -> None:
        """Nothing of ours speculates here."""
