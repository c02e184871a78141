"""What training minimises: the loss of answers, uneven expert load, and for a draft the distance from its verifier."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from experts.zoo.stream import Batch

Objective = Callable[[PreTrainedModel, Batch], tuple[Tensor, Tensor]]  # (what to minimise, cross-entropy to report)

BALANCE = 0.002
TEACHING = 0.9  # share of the verifier's distribution in the draft's loss, the rest is the reference text


def answer_loss(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the weighted cross-entropy plus, for a mixture, a little of the balance loss."""
    ids, _ = batch
    sparse = hasattr(model.config, "num_experts")
    options = {"output_router_logits": True} if sparse else {}
    output = model.model(input_ids=ids[:, :-1], use_cache=False, **options)
    logits, targets, weights = _weighted(model, output.last_hidden_state, batch)
    loss = _mean(functional.cross_entropy(logits, targets, reduction="none"), weights)
    if not sparse:
        return loss, loss.detach()
    return loss + BALANCE * balance_loss(output.router_logits, model.config.num_experts_per_tok), loss.detach()


def distillation(teacher: PreTrainedModel) -> Objective:
    """Return the objective of a draft: the divergence from the teacher where answers are (Hinton et al., 2015)."""

    def objective(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
        ids, _ = batch
        with torch.no_grad():
            taught = teacher.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
            wanted, _, _ = _weighted(teacher, taught, batch)
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        logits, targets, weights = _weighted(model, hidden, batch)
        apart = functional.kl_div(
            logits.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="none"
        ).sum(-1)
        truth = _mean(functional.cross_entropy(logits, targets, reduction="none"), weights)
        return TEACHING * _mean(apart, weights) + (1 - TEACHING) * truth, truth.detach()

    return objective


def balance_loss(router_logits: tuple[Tensor, ...], picks: int) -> Tensor:
    """Return the mean over layers of the load-balance loss of the Switch Transformer (Fedus et al., 2021).

    ``router_logits`` holds [tokens, experts] per layer; an even load gives 1.
    """
    losses = []
    for logits in router_logits:
        chances = logits.float().softmax(-1)
        chosen = torch.zeros_like(chances).scatter_(1, chances.topk(picks, -1).indices, 1.0 / picks)
        losses.append(chances.size(-1) * (chosen.mean(0) * chances.mean(0)).sum())
    return torch.stack(losses).mean()


def _weighted(model: PreTrainedModel, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits [n, vocabulary], targets [n] and weights [n] at the positions that carry weight, and only there."""
    ids, weights = batch
    counted = weights[:, 1:] > 0
    logits = model.lm_head(hidden[counted]).float()
    return logits, ids[:, 1:][counted], weights[:, 1:][counted]


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum()
