"""The groups of an optimizer, made from the roles of parameters: what has the same rate, decay and epsilon."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from trainer.config.optim import OptimConfig
from trainer.models.interface import LanguageModel
from trainer.models.roles import role_of
from trainer.models.transfer import Factors, factors

# Parameters with the same settings, as torch's optimizers take them: `params`, `lr_scale`, by which a step's rate is
# multiplied, `decay`, which is weight decay's peak, `weight_decay` and `eps`.
Group = dict[str, Any]


def parameter_groups(model: LanguageModel, optim: OptimConfig) -> list[Group]:
    """Return what AdamW updates: what decays, then what does not, each in the order of `named_parameters`.

    With parametrization standard these are two groups; else there is one for each set of factors.
    """
    found = list(model.named_parameters())
    return grouped(model, optim, (name for name, p in found if p.requires_grad))


def grouped(model: LanguageModel, optim: OptimConfig, names: Iterable[str]) -> list[Group]:
    """Return the groups of the named parameters of AdamW."""
    parameters = dict(model.named_parameters())
    by_settings: dict[tuple[bool, Factors], list[nn.Parameter]] = {}
    for name in names:
        role = role_of(model.roles, name)
        key = (not role.decay, factors(model.config, name, role))
        by_settings.setdefault(key, []).append(parameters[name])
    groups: list[Group] = []
    for (free, scale), members in sorted(by_settings.items(), key=lambda item: item[0][0]):
        decay = 0.0 if free else optim.weight_decay * scale.weight_decay
        groups.append(make_group(members, scale, decay, optim.eps))
    return groups


def make_group(members: list[nn.Parameter], scale: Factors, decay: float, eps: float) -> Group:
    """Return the group of some parameters."""
    return {
        "params": members, "lr_scale": scale.lr, "decay": decay, "weight_decay": decay, "eps": eps * scale.eps,
    }  # fmt: skip


def set_rates(groups: Iterable[dict[str, float]], lr: float, *, decay_share: float = 1.0) -> None:
    """Set the learning rate of a step in all groups, and weight decay times a share of its own.

    Optimizers multiply weight decay by the rate. A share of peak / rate makes decay what it is at the peak, which is
    weight decay that does not follow the schedule (Loshchilov and Hutter 2019, arXiv 1711.05101).
    """
    for group in groups:
        group["lr"] = lr * group["lr_scale"]
        if group["decay"]:
            group["weight_decay"] = group["decay"] * decay_share
