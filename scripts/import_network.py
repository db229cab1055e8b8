"""The network of crates/supernet/tests/goldens: its shapes, and the weights that both frameworks are given.

Used by goldens_import_paddle.py and goldens_import_torch.py, so that their files hold the same weights.
"""

import pathlib

import numpy

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "crates" / "supernet" / "tests" / "goldens"

# As in four-stages.toml: (width, blocks, stride of the first) by stage.
STEM, STAGES, CLASSES, SIZE = 4, [(4, 1, 1), (4, 2, 2), (8, 1, 2), (8, 1, 1)], 5, 12


def blocks():
    """(name here, torchvision's name, in, out, stride) of every block."""
    n, width = 1, STEM
    for stage, (out, depth, first) in enumerate(STAGES):
        for i in range(depth):
            yield f"blocks.{n}", f"layer{stage + 1}.{i}", width, out, first if i == 0 else 1
            n, width = n + 1, out


def weights():
    """Every tensor by its name here, in PyTorch's order of dimensions, float32."""
    draw = numpy.random.default_rng(48)
    out = {}

    def conv(name, norm, o, i, k):
        scale = (2 / (i * k * k)) ** 0.5
        out[name + ".weight"] = draw.normal(size=(o, i, k, k)) * scale
        out[norm + ".weight"] = 1 + 0.3 * draw.normal(size=o)
        out[norm + ".bias"] = 0.2 * draw.normal(size=o)
        out[norm + ".running_mean"] = 0.2 * draw.normal(size=o)
        out[norm + ".running_var"] = 0.5 + draw.random(size=o)

    conv("blocks.0.conv", "blocks.0.bn", STEM, 3, 3)
    for name, _, i, o, stride in blocks():
        conv(f"{name}.conv1", f"{name}.bn1", o, i, 3)
        conv(f"{name}.conv2", f"{name}.bn2", o, o, 3)
        if stride != 1 or i != o:
            conv(f"{name}.downsample.0", f"{name}.downsample.1", o, i, 1)
    last = len(list(blocks())) + 1
    out[f"blocks.{last}.fc.weight"] = 0.3 * draw.normal(size=(CLASSES, STAGES[-1][0]))
    out[f"blocks.{last}.fc.bias"] = 0.1 * draw.normal(size=CLASSES)
    return {k: v.astype(numpy.float32) for k, v in out.items()}


def images():
    """[N, C, H, W]"""
    return numpy.random.default_rng(224).normal(size=(3, 3, SIZE, SIZE)).astype(numpy.float32)


def torchvision_name(name):
    """What torchvision's ResNet calls a tensor."""
    names = {f"blocks.{len(list(blocks())) + 1}.fc": "fc", "blocks.0.conv": "conv1", "blocks.0.bn": "bn1"}
    names |= {ours: theirs for ours, theirs, *_ in blocks()}
    for ours, theirs in names.items():
        if name.startswith(ours + "."):
            return theirs + name[len(ours) :]
    raise KeyError(name)
