"""Images per second of a list of subnets: slimtau's prefix tree against PyTorch, which evaluates them one by one.

    cargo build --release -p slimtau-driver && cargo build --release -p slimtau-supernet --example prefix_tree
    python scripts/compare_list.py --yardstick torch_supernet.py --codes archs.txt    # needs torch, numpy

The yardstick is an independent PyTorch implementation of the supernet (`Supernet(**PRESETS[NAME])`, called with images and
the widths of a subnet; `width`, `RATIOS`, `macs`). Its mini network has a pool behind the stem, which slimtau's has not:
it is taken out here. Before anything is timed, three subnets are shown to be the same networks: the yardstick's weights
go through `slimtau forward`, and the logits have to agree.

In each round the tree evaluates the first N codes on one batch, in a process of its own without a warm-up, and then PyTorch
a random part of them in its better memory layout, which is found beforehand. Each subnet goes through PyTorch once before it is
timed: what is prepared for new shapes is prepared once for all batches of a validation set, of which this is one. PyTorch's
seconds for the whole list are extended by multiply-accumulates, so that a part of large subnets does not count against it. A
subnet-image is one image through one subnet.
"""

import argparse
import json
import os
import random
import statistics
import struct
import subprocess
import tempfile
import time
import types
from pathlib import Path

import torch

# Largest difference of logits as a share of the largest: both compute in float32, in other orders.
TOLERANCE = 1e-3


def options():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--yardstick", type=Path, required=True, help="torch_supernet.py")
    a.add_argument("--codes", type=Path, required=True, help="codes separated by commas or white space")
    a.add_argument("-n", type=int, default=2000, help="how many of them, from the first")
    a.add_argument("--part", type=int, default=100, help="of those, how many PyTorch evaluates in a round")
    a.add_argument("--space", choices=["mini", "cvpr2022"], default="mini")
    a.add_argument("--images", type=int, default=64, help="images in the batch")
    a.add_argument("--rounds", type=int, default=2)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--seed", type=int, default=0, help="which parts are drawn")
    a.add_argument("--programs", type=Path, default=Path("target/release"), help="where slimtau was built")
    return a.parse_args()


def load(path):
    """The yardstick's definitions, without its measurements, which begin in the last line."""
    text, found, _ = path.read_text().rpartition("\nmain()")
    if not found:
        raise SystemExit(f"error: {path}: does not end with a call of main()")
    module = types.ModuleType("yardstick")
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module


def decode(y, base, code, space):
    """A code's widths, as the yardstick takes them: four depths, the stem, two digits per block up to each stage's
    largest depth; the longer form has the image size first."""
    most = [high for _, high in y.DEPTH]
    digits = [int(d) for d in code]
    if len(digits) == 6 + 2 * sum(most):
        digits = digits[1:]
    if len(digits) != 5 + 2 * sum(most):
        raise SystemExit(f"error: {code}: not a code of {space}")
    depth, stem, rest, mid, out = digits[:4], digits[4], digits[5:], [], []
    for d, m, c in zip(depth, most, base[1:]):
        blocks, rest = rest[: 2 * m], rest[2 * m :]
        mid.append([y.width(c, y.RATIOS[blocks[2 * b] - 1]) for b in range(d)])
        out.append(y.width(c, y.RATIOS[blocks[1] - 1]))
    return dict(stem=y.width(base[0], y.RATIOS[stem - 1]), depth=depth, mid=mid, out=out)


def names(net):
    """The yardstick's tensors under slimtau's names."""
    norm = lambda to, bn: {
        f"{to}.weight": bn.weight,
        f"{to}.bias": bn.bias,
        f"{to}.running_mean": bn.mean,
        f"{to}.running_var": bn.var,
    }
    out = {"blocks.0.conv.weight": net.stem.weight, **norm("blocks.0.bn", net.bn)}
    blocks = [block for stage in net.stages for block in stage]
    for i, block in enumerate(blocks, 1):
        at = f"blocks.{i}"
        out |= {f"{at}.conv1.weight": block.conv1.weight, f"{at}.conv2.weight": block.conv2.weight}
        out |= norm(f"{at}.bn1", block.bn1) | norm(f"{at}.bn2", block.bn2)
        if block.project:
            out |= {f"{at}.downsample.0.weight": block.down.weight} | norm(f"{at}.downsample.1", block.bnd)
    last = f"blocks.{len(blocks) + 1}.fc"
    return out | {f"{last}.weight": net.fc.weight, f"{last}.bias": net.fc.bias}


def write_safetensors(path, tensors):
    """The format is eight bytes of length, a JSON header and the values: not worth a package."""
    header, at, parts = {}, 0, []
    for name, tensor in tensors.items():
        data = tensor.detach().contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def read_logits(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entry = json.loads(data[8 : 8 + length])["logits"]
    begin, end = entry["data_offsets"]
    values = torch.frombuffer(bytearray(data[8 + length + begin : 8 + length + end]), dtype=torch.float32)
    return values.view(entry["shape"])


def check(o, net, images, codes, archs, folder):
    """Refuses to compare networks that are not the same."""
    weights, x, y = folder / "w.safetensors", folder / "x.safetensors", folder / "y.safetensors"
    write_safetensors(weights, names(net))
    few = images[:4].contiguous()
    write_safetensors(x, {"images": few})
    for code, arch in zip(codes, archs):
        words = ["forward", "--space", o.space, "--checkpoint", weights, "--arch", code, "--input", x, "--output", y]
        subprocess.run([o.programs / "slimtau", *words], check=True)
        with torch.inference_mode():
            expected = net(few, arch)
        worst = float((read_logits(y) - expected).abs().max() / expected.abs().max())
        if not worst <= TOLERANCE:
            raise SystemExit(f"error: {code}: logits differ by {worst:.2e} of the largest: other networks")


def one_by_one(net, images, archs):
    """Seconds of PyTorch for one batch through each subnet, when it has met the subnet before."""
    seconds = 0.0
    with torch.inference_mode():
        for arch in archs:
            net(images, arch)
            begin = time.perf_counter()
            net(images, arch)
            seconds += time.perf_counter() - begin
    return seconds


def tree(o, codes):
    """Seconds of slimtau's prefix tree."""
    words = [o.programs / "examples" / "prefix_tree", o.space, codes, str(o.images), str(o.n), "tree"]
    env = {**os.environ, "RAYON_NUM_THREADS": str(o.threads)}
    out = subprocess.run(words, check=True, capture_output=True, text=True, env=env).stdout
    return float(out.split("tree")[1].split()[0])


def main():
    o = options()
    torch.set_num_threads(o.threads)
    torch.manual_seed(o.seed)
    y = load(o.yardstick)
    preset = dict(y.PRESETS["full" if o.space == "cvpr2022" else o.space])
    if o.space == "mini":
        preset["stem"] = (*preset["stem"][:2], False)
    codes = o.codes.read_text().replace(",", " ").split()[: o.n]
    if len(codes) < max(o.n, 3) or not 1 <= o.part <= o.n:
        raise SystemExit(f"error: {o.codes}: {len(codes)} codes, -n {o.n}, --part {o.part}")
    archs = [decode(y, preset["base"], code, o.space) for code in codes]
    macs = [y.macs(preset, arch) for arch in archs]

    net = y.Supernet(**preset).eval()
    for module in net.modules():
        if isinstance(module, y.SlimBN):
            # As after a training: a network whose norms do nothing would hide what is wrong with them.
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.normal_(module.bias, std=0.1)
            module.mean.normal_(std=0.1)
            module.var.uniform_(0.5, 2.0)
    images = torch.randn(o.images, preset["chans"], preset["size"], preset["size"])
    rng = random.Random(o.seed)
    with tempfile.TemporaryDirectory() as folder:
        some = rng.sample(range(o.n), 3)
        check(o, net, images, [codes[i] for i in some], [archs[i] for i in some], Path(folder))
        print("three subnets have the same logits in both", flush=True)
        layouts = {}
        for layout in (torch.contiguous_format, torch.channels_last):
            net, images = net.to(memory_format=layout), images.to(memory_format=layout)
            layouts[layout] = one_by_one(net, images, archs[:4])
        layout = min(layouts, key=layouts.get)
        net, images = net.to(memory_format=layout), images.to(memory_format=layout)

        ours, theirs = [], []
        for i in range(o.rounds):
            ours.append(o.n * o.images / tree(o, o.codes))
            part = rng.sample(range(o.n), o.part)
            seconds = one_by_one(net, images, [archs[k] for k in part])
            whole = seconds * sum(macs) / sum(macs[k] for k in part)
            theirs.append(o.n * o.images / whole)
            line = dict(round=i + 1, slimtau=round(ours[-1], 1), pytorch=round(theirs[-1], 1))
            print(json.dumps(line | {"ratio": round(ours[-1] / theirs[-1], 2)}), flush=True)
    ratios = [a / b for a, b in zip(ours, theirs)]
    print(
        json.dumps(
            dict(
                space=o.space,
                codes=o.n,
                images=o.images,
                pytorch_codes_per_round=o.part,
                pytorch_layout=str(layout).removeprefix("torch."),
                torch=torch.__version__,
                threads=o.threads,
                slimtau_subnet_images_per_s=round(statistics.median(ours), 1),
                pytorch_subnet_images_per_s=round(statistics.median(theirs), 1),
                ratio=round(statistics.median(ratios), 2),
                ratios=[round(r, 2) for r in ratios],
            )
        )
    )


main()
