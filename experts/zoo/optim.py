"""Muon for matrices, AdamW for the rest.

Muon orthogonalises the momentum of each weight matrix before it is applied (Jordan et al., "Muon: an optimizer for
hidden layers in neural networks", 2024); here a stack of expert matrices is treated as many matrices at once.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic Newton-Schulz iteration of the Muon authors
_MOMENTUM = 0.95
_DECAY = 0.05


def orthogonalize(matrices: Tensor, *, rounds: int = 5) -> Tensor:
    """Push the singular values of matrices [n, rows, columns] towards one."""
    a, b, c = _COEFFICIENTS
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.bfloat16().mT if tall else matrices.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised per matrix; parameters of one shape are done together."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(list(parameters), {"lr": lr})

    @torch.no_grad()
    def step(self, _: None = None) -> None:  # type: ignore[override]
        """Apply one update to every parameter that has a gradient."""
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault((parameter.size(-2), parameter.size(-1)), []).append(parameter)
            for alike in shapes.values():
                self._update(alike, group["lr"])

    def _update(self, parameters: list[nn.Parameter], lr: float) -> None:
        rows, columns = parameters[0].shape[-2:]
        momenta = [self._momentum(parameter).reshape(-1, rows, columns) for parameter in parameters]
        updates = torch.split(orthogonalize(torch.cat(momenta)), [len(momentum) for momentum in momenta])
        scale = max(1.0, rows / columns) ** 0.5
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - lr * _DECAY).add_(update.view_as(parameter), alpha=-lr * scale)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        """Return the Nesterov momentum of one parameter and remember it."""
        state = self.state[parameter]
        if not state:
            state["buffer"] = torch.zeros_like(parameter)
        gradient, buffer = parameter.grad, state["buffer"]
        assert gradient is not None
        buffer.lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(buffer, _MOMENTUM)


def optimizers(model: nn.Module, *, lr: float, adam_lr: float) -> tuple[torch.optim.Optimizer, ...]:
    """Split a model's parameters: hidden matrices to Muon; embeddings, norms and router gates to AdamW."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        hidden = parameter.ndim >= 2 and not any(part in name for part in ("embed", "lm_head", "mlp.gate.weight"))
        (matrices if hidden else others).append(parameter)
    return Muon(matrices, lr), torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
