"""Compares this loader with torchvision's DataLoader on the same files, one worker each, in one run.

    cargo build --release -p slimtau-data --example epochs
    python scripts/compare_loader.py            # needs pillow, numpy, torch and torchvision

Makes 300 photograph-like JPEGs of 500 x 375 (quality 90, 4:2:0) in a temporary folder, then goes through them with both,
alternately, --rounds times. What is compared is images per second of CPU time, which other programs on the machine disturb
little: of torchvision its worker process alone (decoding, transforms, collation), of this loader the whole program.
Wall-clock figures are printed beside it.
"""

import argparse
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, SIZE, BATCH = 500, 375, 224, 50


def make(folder, count):
    """Noise of several scales and hard-edged discs: files of the size that photographs have."""
    y, x = numpy.mgrid[0:HEIGHT, 0:WIDTH]
    for i in range(count):
        rng = numpy.random.default_rng(i)
        image = numpy.full((HEIGHT, WIDTH, 3), 128.0)
        for cells, strength in ((5, 60), (20, 25), (80, 14), (200, 12)):
            coarse = rng.normal(size=(cells, cells, 3)).astype("float32")
            for c in range(3):
                plane = Image.fromarray(coarse[..., c]).resize((WIDTH, HEIGHT), Image.BICUBIC)
                image[..., c] += strength * numpy.asarray(plane)
        for _ in range(6):
            inside = (y - rng.integers(HEIGHT)) ** 2 + (x - rng.integers(WIDTH)) ** 2 < rng.integers(10, 80) ** 2
            image[inside] = rng.integers(0, 255, 3)
        image += rng.normal(size=image.shape) * 4
        target = folder / f"class{i % 10}"
        target.mkdir(parents=True, exist_ok=True)
        array = image.clip(0, 255).astype("uint8")
        Image.fromarray(array).save(target / f"{i:05}.JPEG", quality=90)


def torchvision_epochs(folder, kind, epochs):
    """Runs in a process of its own; prints images, seconds and the workers' CPU seconds."""
    import torch
    from torchvision import datasets, transforms

    torch.set_num_threads(1)
    if kind == "train":
        first = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    else:
        first = [transforms.Resize(256), transforms.CenterCrop(SIZE)]
    last = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    dataset = datasets.ImageFolder(folder, transforms.Compose(first + last))
    shuffle = kind == "train"
    loader = torch.utils.data.DataLoader(dataset, BATCH, shuffle=shuffle, num_workers=1, persistent_workers=True)
    images, start = 0, time.perf_counter()
    for _ in range(epochs):
        for batch, _ in loader:
            images += len(batch)
    wall = time.perf_counter() - start
    del loader  # ends the worker, whose time counts only then
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{images} images in {wall:.3f} s, cpu {used.ru_utime + used.ru_stime:.3f}")


def measure(command):
    """(images per CPU second, images per second) of a program that prints `N images in S s`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    images, wall = re.search(r"(\d+) images in ([\d.]+) s", out).groups()
    own = re.search(r"cpu ([\d.]+)", out)
    cpu = float(own[1]) if own else after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return int(images) / cpu, int(images) / float(wall)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    ours = ROOT / "target" / "release" / "examples" / "epochs"
    with tempfile.TemporaryDirectory() as root:
        train = pathlib.Path(root) / "train"
        make(train, arguments.images)
        (pathlib.Path(root) / "val").symlink_to(train)
        n_bytes = sum(path.stat().st_size for path in train.rglob("*.JPEG"))
        print(f"{arguments.images} JPEGs of {WIDTH} x {HEIGHT}, {n_bytes / arguments.images / 1024:.0f} KiB each")
        for kind in ("train", "eval"):
            epochs = str(arguments.epochs)
            commands = {
                "slimtau": [ours, root, kind, epochs],
                "torchvision": [sys.executable, __file__, "--torchvision", train, kind, epochs],
            }
            found = {name: [] for name in commands}
            for _ in range(arguments.rounds):
                for name, command in commands.items():
                    found[name].append(measure(command))
            medians = {name: [statistics.median(v) for v in zip(*values)] for name, values in found.items()}
            for name, (cpu, wall) in medians.items():
                print(f"{kind:>5} {name:>11}: {cpu:7.1f} images per CPU second, {wall:7.1f} images/s")
            ratios = [a[0] / b[0] for a, b in zip(found["slimtau"], found["torchvision"])]
            print(f"{kind:>5} ratio of CPU times: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--torchvision"]:
        torchvision_epochs(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
