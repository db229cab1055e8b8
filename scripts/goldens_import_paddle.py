"""Makes crates/supernet/tests/goldens/*.pdparams and paddle_logits.safetensors with PaddlePaddle.

    python scripts/goldens_import_paddle.py   # needs paddlepaddle (the CPU package does), numpy, safetensors

The network is written with Paddle's layers; its weights (import_network.py) go in through Paddle's own
`set_state_dict`, and out through `paddle.save`:

- protocol2: the competition's names, with `_layers.` and `fn.` as its super-layers write them, protocol 2
- protocol4: the names of Paddle's own ResNet, which are torchvision's, protocol 4
- nested: {"epoch", "model"}, which Paddle writes as (name, array) pairs
- protocol5: NumPy's arrays in Python's own pickle of protocol 5, some in Fortran order
- split: as Paddle splits arrays too large for protocol 2, at 100 elements instead of 2^28
- bfloat16: as Paddle casts and stores it
"""

import math
import pickle

import numpy
import paddle
from import_network import CLASSES, FOLDER, STAGES, STEM, blocks, images, torchvision_name, weights
from paddle import nn
from safetensors.numpy import save_file


class Super(nn.Layer):
    """A layer that holds the real one as `fn`, as super-layers do."""

    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return self.fn(x)


class Block(nn.Layer):
    def __init__(self, i, o, stride, wrap):
        super().__init__()
        conv = lambda i, o, k, s: wrap(nn.Conv2D(i, o, k, s, k // 2, bias_attr=False))
        self.conv1, self.bn1 = conv(i, o, 3, stride), wrap(nn.BatchNorm2D(o))
        self.conv2, self.bn2 = conv(o, o, 3, 1), wrap(nn.BatchNorm2D(o))
        self.downsample = None
        if stride != 1 or i != o:
            self.downsample = nn.Sequential(conv(i, o, 1, stride), wrap(nn.BatchNorm2D(o)))

    def forward(self, x):
        y = nn.functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nn.functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class Stem(nn.Layer):
    def __init__(self, wrap):
        super().__init__()
        self.conv = wrap(nn.Conv2D(3, STEM, 3, 1, 1, bias_attr=False))
        self.bn = wrap(nn.BatchNorm2D(STEM))

    def forward(self, x):
        return nn.functional.relu(self.bn(self.conv(x)))


class Head(nn.Layer):
    def __init__(self, wrap):
        super().__init__()
        self.fc = wrap(nn.Linear(STAGES[-1][0], CLASSES))

    def forward(self, x):
        return self.fc(x.mean([2, 3]))


class Network(nn.Layer):
    def __init__(self, wrap):
        super().__init__()
        middle = [Block(i, o, stride, wrap) for _, _, i, o, stride in blocks()]
        self.blocks = nn.LayerList([Stem(wrap), *middle, Head(wrap)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Parallel(nn.Layer):
    """Names its network as Paddle's data parallel does."""

    def __init__(self, layers):
        super().__init__()
        self._layers = layers

    def forward(self, x):
        return self._layers(x)


def paddle_name(name, inner):
    stem, _, last = name.rpartition(".")
    last = {"running_mean": "_mean", "running_var": "_variance"}.get(last, last)
    return f"{stem}.fn.{last}" if inner else f"{stem}.{last}"


def paddle_weights(inner=False):
    """The same weights, named and laid out as Paddle has them."""
    out = {paddle_name(k, inner): v for k, v in weights().items()}
    return {k: v.T.copy() if "fc" in k and v.ndim == 2 else v for k, v in out.items()}


def logits(network, state):
    missing, unexpected = network.set_state_dict(state)
    assert not missing and not unexpected, (missing, unexpected)
    network.eval()
    with paddle.no_grad():
        return network(paddle.to_tensor(images())).numpy()


def split(state, limit):
    out, how = {}, {}
    for name, value in state.items():
        if value.size <= limit:
            out[name] = value
            continue
        parts = [f"{name}@@.{i}" for i in range(math.ceil(value.size / limit))]
        how[name] = {"OriginShape": value.shape, "slices": parts}
        for i, part in enumerate(parts):
            out[part] = value.flatten()[i * limit : (i + 1) * limit]
    return out | {"UnpackBigParamInfor@@": how}


def main():
    plain = Network(lambda layer: layer)
    expected = logits(plain, paddle_weights())
    wrapped = Parallel(Network(Super))
    state = {"_layers." + k: v for k, v in paddle_weights(inner=True).items()}
    assert numpy.array_equal(expected, logits(wrapped, state))

    save = lambda name, value, protocol: paddle.save(value, str(FOLDER / f"{name}.pdparams"), protocol=protocol)
    save("protocol2", wrapped.state_dict(), 2)
    save("protocol4", {torchvision_name(k): v for k, v in plain.state_dict().items()}, 4)
    save("nested", {"epoch": 3, "model": plain.state_dict()}, 4)
    save("bfloat16", {k: v.astype("bfloat16") for k, v in plain.state_dict().items()}, 4)
    fortran = {k: numpy.asfortranarray(v) for k, v in paddle_weights().items()}
    (FOLDER / "protocol5.pdparams").write_bytes(pickle.dumps(fortran, protocol=5))
    (FOLDER / "split.pdparams").write_bytes(pickle.dumps(split(paddle_weights(), 100), protocol=2))
    save_file({"images": images(), "logits": expected}, FOLDER / "paddle_logits.safetensors")


main()
