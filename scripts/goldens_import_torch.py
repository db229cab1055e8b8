"""Makes crates/supernet/tests/goldens/*.pth and PyTorch's safetensors beside them.

    python scripts/goldens_import_torch.py    # needs torch, numpy, safetensors

The weights (import_network.py) go through a PyTorch network of these layers by `load_state_dict`, whose logits are
stored; its state dict is the truth, written by the safetensors package. `torch.save` writes it as

- plain: the state dict as it is, with batch counters
- wrapped: torchvision's names under `module.`, in a training program's dictionary, as parameters where they
  are; conv weights channels-last (strided), the classifier a view into a larger storage
- shared: every tensor a view of one storage, as flattened parameters are
- mixed: conv weights float16, BN float64, the classifier bfloat16 (also as safetensors)
- old: how the format before PyTorch 1.6 begins (further on it holds memory addresses, never the same)
"""

import io

import torch
from import_network import CLASSES, FOLDER, STAGES, STEM, blocks, images, torchvision_name, weights
from safetensors.torch import load_file, save_file
from torch import nn


class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        conv = lambda i, o, k, s: nn.Conv2d(i, o, k, s, k // 2, bias=False)
        self.conv1, self.bn1 = conv(i, o, 3, stride), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = conv(o, o, 3, 1), nn.BatchNorm2d(o)
        self.downsample = None
        if stride != 1 or i != o:
            self.downsample = nn.Sequential(conv(i, o, 1, stride), nn.BatchNorm2d(o))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Stem(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, STEM, 3, 1, 1, bias=False), nn.BatchNorm2d(STEM)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(STAGES[-1][0], CLASSES)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        middle = [Block(i, o, stride) for _, _, i, o, stride in blocks()]
        self.blocks = nn.Sequential(Stem(), *middle, Head())

    def forward(self, x):
        return self.blocks(x)


def strided(name, value):
    """The same values with other strides."""
    if value.ndim == 4:
        return value.to(memory_format=torch.channels_last)
    if "fc" in name and value.ndim == 2:
        larger = torch.full((value.shape[0] + 2, value.shape[1] + 3), 7.0)
        larger[1:-1, 2:-1] = value
        return larger[1:-1, 2:-1]
    return value


def shared(state):
    """The same tensors, the parts of one storage (batch counters apart: integers)."""
    floats = {k: v for k, v in state.items() if v.is_floating_point()}
    flat, at, out = torch.cat([v.flatten() for v in floats.values()]), 0, dict(state)
    for k, v in floats.items():
        out[k] = flat[at : at + v.numel()].view(v.shape)
        at += v.numel()
    return out


def narrowed(name, value):
    if "num_batches" in name:
        return value
    return value.to(torch.bfloat16 if "fc" in name else torch.float16 if value.ndim == 4 else torch.float64)


def main():
    network = Network().eval()
    given = {k: torch.from_numpy(v) for k, v in weights().items()}
    missing, unexpected = network.load_state_dict(given, strict=False)
    assert not unexpected and all("num_batches" in k for k in missing), (missing, unexpected)
    state = network.state_dict()
    with torch.no_grad():
        logits = network(torch.from_numpy(images()))

    save_file(state, FOLDER / "plain.safetensors")
    torch.save(state, FOLDER / "plain.pth")
    parameters = {k for k, _ in network.named_parameters()}
    wrapped = {}
    for k, v in state.items():
        v = strided(k, v)
        # A parameter of a view would be saved like it, and loses nothing by it.
        wrapped["module." + torchvision_name(k)] = nn.Parameter(v) if k in parameters else v
    everything = {"epoch": 3, "best": 0.5, "optimizer": {"state": {0: [1, (2, None)]}}, "state_dict": wrapped}
    torch.save(everything, FOLDER / "wrapped.pth")
    torch.save(shared(state), FOLDER / "shared.pth")
    mixed = {k: narrowed(k, v) for k, v in state.items()}
    torch.save(mixed, FOLDER / "mixed.pth")
    save_file(mixed, FOLDER / "mixed.safetensors")
    old = io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    (FOLDER / "old.pth").write_bytes(old.getvalue()[:64])
    save_file({"images": torch.from_numpy(images()), "logits": logits}, FOLDER / "torch_logits.safetensors")
    # PyTorch itself reads back what it wrote.
    again = Network()
    again.load_state_dict(load_file(FOLDER / "plain.safetensors"))
    assert all(torch.equal(v, state[k]) for k, v in again.state_dict().items())


main()
