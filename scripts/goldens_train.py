"""Writes crates/train/tests/goldens.json: what PyTorch's SGD, schedulers, clipping and averaging do.

Run from the repository's root with PyTorch installed: python3 scripts/goldens_train.py
A gradient that is null is one that the tensor did not get in that step (zero_grad sets it to None):
PyTorch then skips the tensor, weight decay and momentum included.
"""

import json
import pathlib

import torch
from torch.optim import SGD
from torch.optim import lr_scheduler as schedulers

SHAPES = [[5], [2, 3], [1]]
N_STEPS = 6


def values(generator, shape):
    """Normal values rounded to 1/1024: exact in f32 and short in JSON."""
    return torch.round(torch.randn(shape, generator=generator) * 1024) / 1024


def flat(tensors):
    return [x for t in tensors for x in t.detach().reshape(-1).tolist()]


def sgd_case(seed, momentum, weight_decay, nesterov, skipped, no_decay):
    """`skipped` holds (step, tensor) pairs without a gradient, `no_decay` tensors without decay."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.nn.Parameter(values(generator, shape)) for shape in SHAPES]
    start = flat(tensors)
    groups = [
        {"params": [t], "weight_decay": 0.0 if i in no_decay else weight_decay}
        for i, t in enumerate(tensors)
    ]
    optimizer = SGD(groups, lr=1.0, momentum=momentum, nesterov=nesterov)
    steps = []
    for step in range(N_STEPS):
        lr = 0.1 / (step + 1)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        for i, t in enumerate(tensors):
            if (step, i) not in skipped:
                t.grad = values(generator, t.shape)
        grads = [None if t.grad is None else flat([t.grad]) for t in tensors]
        optimizer.step()
        steps.append({"lr": lr, "grads": grads, "params": flat(tensors)})
    return {
        "momentum": momentum,
        "weight_decay": weight_decay,
        "nesterov": nesterov,
        "no_decay": no_decay,
        "sizes": [t.numel() for t in tensors],
        "start": start,
        "steps": steps,
    }


def schedule_case(kind, base_lr, warmup, total, final_lr, every=1, factor=1.0):
    """The rates of all steps, and what follows the last."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=base_lr)
    if kind == "cosine":
        after = schedulers.CosineAnnealingLR(optimizer, T_max=total - warmup, eta_min=final_lr)
    elif kind == "step":
        after = schedulers.StepLR(optimizer, step_size=every, gamma=factor)
    else:
        after = schedulers.LambdaLR(optimizer, lambda _: 1.0)
    scheduler = after
    if warmup > 0:
        rise = schedulers.LinearLR(optimizer, 1 / (warmup + 1), 1.0, total_iters=warmup)
        scheduler = schedulers.SequentialLR(optimizer, [rise, after], milestones=[warmup])
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rates.append(optimizer.param_groups[0]["lr"])
    return {
        "kind": kind, "base_lr": base_lr, "warmup": warmup, "total": total,
        "final_lr": final_lr, "every": every, "factor": factor, "rates": rates,
    }


def clip_case(seed, max_norm):
    generator = torch.Generator().manual_seed(seed)
    parameter = torch.nn.Parameter(torch.zeros(7))
    parameter.grad = values(generator, [7])
    before = flat([parameter.grad])
    norm = torch.nn.utils.clip_grad_norm_([parameter], max_norm).item()
    return {"max_norm": max_norm, "before": before, "norm": norm, "after": flat([parameter.grad])}


def average_case(seed, decay):
    """MoCo's key encoder: k = m k + (1 - m) q."""
    generator = torch.Generator().manual_seed(seed)
    average = values(generator, [5])
    start, currents = flat([average]), []
    for _ in range(4):
        current = values(generator, [5])
        average = average * decay + current * (1.0 - decay)
        currents.append(flat([current]))
    return {"decay": decay, "start": start, "currents": currents, "average": flat([average])}


def main():
    goldens = {
        "made_by": f"scripts/goldens_train.py, PyTorch {torch.__version__.split('+')[0]}",
        "sgd": [
            sgd_case(1, 0.0, 0.0, False, [], []),
            sgd_case(2, 0.9, 0.0, False, [], []),
            sgd_case(3, 0.9, 0.05, False, [], []),
            sgd_case(4, 0.9, 0.05, True, [], []),
            # The first step, one in the middle, and two in a row; tensor 2 never takes part.
            sgd_case(5, 0.9, 0.05, False, [(0, 0), (2, 1), (3, 1)] + [(s, 2) for s in range(6)], []),
            sgd_case(6, 0.9, 0.05, True, [(1, 0), (4, 0), (4, 1), (4, 2)], [1]),
            sgd_case(7, 0.5, 0.2, False, [], [0, 2]),
        ],
        "schedules": [
            schedule_case("cosine", 0.1, 0, 12, 0.0),
            schedule_case("cosine", 8e-4, 5, 20, 1e-5),
            schedule_case("step", 0.1, 0, 10, 0.0, every=3, factor=0.1),
            schedule_case("step", 0.1, 2, 10, 0.0, every=4, factor=0.5),
            schedule_case("constant", 0.02, 3, 6, 0.0),
        ],
        "clipping": [clip_case(1, 0.5), clip_case(2, 100.0)],
        "averages": [average_case(1, 0.999), average_case(2, 0.9)],
    }
    path = pathlib.Path(__file__).parents[1] / "crates/train/tests/goldens.json"
    path.write_text(json.dumps(goldens) + "\n")


if __name__ == "__main__":
    main()
