"""Muon: momentum made orthogonal by five Newton-Schulz steps (Jordan et al. 2024), the step size
matched to AdamW's root mean square (Liu et al. 2025). For matrices of hidden layers."""
from __future__ import annotations

import torch


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.03):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            by_shape: dict[tuple, list] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(tuple(p.shape), []).append(p)
            for shape, params in by_shape.items():  # equal shapes share one batched product
                grads = [p.grad for p in params]
                momenta = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in params]
                torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
                update = orthogonal(torch.stack(torch._foreach_lerp(grads, momenta, group["momentum"])))
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                torch._foreach_add_(params, list(update.to(params[0].dtype).unbind(0)), alpha=-rate)


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """[N, rows, columns] -> matrices with the same directions and singular values near 1."""
    tall = x.shape[1] > x.shape[2]
    u = x.mT if tall else x
    u = u.bfloat16() if x.is_cuda else u  # bf16 is exact enough, and fast where there is hardware for it
    u = u / (u.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        a = u @ u.mT
        u = torch.baddbmm(u, torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315), u, beta=3.4445)
    return u.mT if tall else u
