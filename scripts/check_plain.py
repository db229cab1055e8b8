"""Checks `slimtau export` against PyTorch: random weights there, subnets out of slimtau, back into plain models.

    python scripts/check_plain.py --space tests/goldens/basic.toml     # needs torch, safetensors; slimtau built

PyTorch makes the largest network of a space file with random weights and running statistics and writes it as the
supernet's checkpoint. For that code and `-n` drawn ones, slimtau exports the subnet, and PyTorch's plain model of the
code takes the file with `load_state_dict` (strict). Its tensors have to be the supernet's leading blocks bit for bit,
its logits those of `slimtau forward`. `--save FILE` keeps the checkpoint, for scripts/check_onnx.py.
"""
import argparse
import pathlib
import subprocess
import tempfile
import tomllib

import torch
from safetensors.torch import load_file, save_file
from torch import nn

TOLERANCE = 1e-4  # of the largest logit


def width(base, ratio, divisor):
    v = base * ratio
    w = max(divisor, int(v + divisor / 2) // divisor * divisor)
    return w + divisor if w < 0.9 * v else w


class Stem(nn.Module):
    def __init__(self, space, out):
        super().__init__()
        s = space["stem"]
        self.conv = nn.Conv2d(space["channels"], out, s["kernel"], s["stride"], s["kernel"] // 2, bias=False)
        self.bn = nn.BatchNorm2d(out)
        self.pool = nn.MaxPool2d(3, 2, 1) if s["max_pool"] else nn.Identity()

    def forward(self, x):
        return self.pool(torch.relu(self.bn(self.conv(x))))


class Block(nn.Module):
    """Basic or bottleneck; the module names are the checkpoint's."""

    def __init__(self, kind, inputs, mid, out, stride, project):
        super().__init__()
        if kind == "basic":
            layers = [(inputs, mid, 3, stride), (mid, out, 3, 1)]
        else:
            layers = [(inputs, mid, 1, 1), (mid, mid, 3, stride), (mid, out, 1, 1)]
        self.n = len(layers)
        for j, (i, o, k, s) in enumerate(layers, 1):
            setattr(self, f"conv{j}", nn.Conv2d(i, o, k, s, k // 2, bias=False))
            setattr(self, f"bn{j}", nn.BatchNorm2d(o))
        if project:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for j in range(1, self.n + 1):
            y = getattr(self, f"bn{j}")(getattr(self, f"conv{j}")(y))
            y = torch.relu(y) if j < self.n else y
        return torch.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class Head(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))


class Net(nn.Module):
    """The plain model of a code: an ordinary ResNet at fixed widths."""

    def __init__(self, space, code):
        super().__init__()
        stages = space["stage"]
        expansion = 4 if space["block"] == "bottleneck" else 1
        w = lambda base, digit: width(base, space["ratios"][int(digit) - 1], space["divisor"])
        at = len(stages) + 1
        inputs, blocks = w(space["stem"]["width"], code[at - 1]), []
        blocks.append(Stem(space, inputs))
        full = space["stem"]["width"]
        for stage, depth in zip(stages, code):
            base = stage["width"] * expansion
            for b in range(int(depth)):
                stride = stage["stride"] if b == 0 else 1
                mid, out = w(stage["width"], code[at + 2 * b]), w(base, code[at + 2 * b + 1])
                project = (b == 0 and (stride != 1 or full != base)) or inputs != out
                blocks.append(Block(space["block"], inputs, mid, out, stride, project))
                inputs = out
            full, at = base, at + 2 * stage["depth"][1]
        self.blocks = nn.Sequential(*blocks, Head(inputs, space["classes"]))

    def forward(self, x):
        return self.blocks(x)


def largest(space):
    depths = [stage["depth"][1] for stage in space["stage"]]
    return "".join(map(str, depths)) + "1" * (1 + 2 * sum(depths))


def supernet(space, generator):
    """The largest network with norms that are not those of a fresh one."""
    net = Net(space, largest(space))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                values.data.add_(0.3 * torch.randn(values.shape, generator=generator))
            module.running_var.mul_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return {k: v.contiguous() for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", required=True, type=pathlib.Path)
    parser.add_argument("--slimtau", default="target/release/slimtau")
    parser.add_argument("-n", type=int, default=5, help="codes drawn besides the largest")
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--save", type=pathlib.Path)
    args = parser.parse_args()
    space = tomllib.loads(args.space.read_text())
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    folder = pathlib.Path(tempfile.mkdtemp())
    checkpoint = args.save or folder / "w.safetensors"
    whole = supernet(space, generator)
    save_file(whole, checkpoint)
    side = space["image_size"]
    images = torch.randn(args.images, space["channels"], side, side, generator=generator)
    save_file({"images": images}, folder / "x.safetensors")
    slimtau = lambda *words: subprocess.run([args.slimtau, *map(str, words)], check=True, capture_output=True, text=True).stdout
    drawn = slimtau("space", "sample", "--space", args.space, "-n", args.n, "--seed", 3).split()
    for code in [largest(space), *drawn]:
        common = ["--space", args.space, "--checkpoint", checkpoint, "--arch", code]
        slimtau("export", *common, "--output", folder / "net.safetensors")
        state = load_file(folder / "net.safetensors")
        net = Net(space, code)
        net.load_state_dict(state)
        net.eval()
        if code == largest(space):
            assert state.keys() == whole.keys()
            assert all(torch.equal(state[k], whole[k]) for k in whole)
        # Blocks keep their place in a stage, not their number, where stages are shallower.
        name = "blocks.0.conv.weight"
        assert torch.equal(state[name], whole[name][: state[name].shape[0]])
        slimtau("forward", *common, "--input", folder / "x.safetensors", "--output", folder / "y.safetensors")
        want = load_file(folder / "y.safetensors")["logits"]
        with torch.no_grad():
            got = net(images)
        scale = want.abs().max().item()
        worst = (got - want).abs().max().item() / scale
        params = sum(p.numel() for p in net.parameters())
        print(f"{code}: {params} parameters, largest logit {scale:.3g}, worst difference {worst:.1e} of it")
        assert worst <= TOLERANCE, code


main()
