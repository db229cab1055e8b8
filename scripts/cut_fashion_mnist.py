#!/usr/bin/env python3
"""Cuts the class-balanced Fashion-MNIST subset that slimtau-data embeds.

Takes, in file order, the first N images of each class: training images from the training files,
validation images from the t10k files, so that no image changes sides. Standard library only. The
gzip headers carry no name and no time, so equal input and an equal zlib give equal bytes; with
another zlib the contents inside the gzip files are still the same, which --check verifies.

    scripts/cut_fashion_mnist.py [--source FOLDER] [--check]
"""

import argparse
import gzip
import io
import pathlib
import struct
import sys

SOURCE = pathlib.Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
TARGET = pathlib.Path(__file__).resolve().parent.parent / "crates" / "data" / "assets"
N_CLASSES = 10
# (prefix of the file names, images per class)
PARTS = [("train", 1200), ("t10k", 400)]


def names(prefix):
    return f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"


def read_idx(path, n_dimensions):
    data = gzip.decompress(path.read_bytes())
    magic, *shape = struct.unpack_from(f">{1 + n_dimensions}I", data)
    if magic != 0x800 + n_dimensions:
        sys.exit(f"{path}: magic number {magic:#010x}, expected {0x800 + n_dimensions:#010x}")
    body = data[4 * (1 + n_dimensions):]
    expected = 1
    for d in shape:
        expected *= d
    if len(body) != expected:
        sys.exit(f"{path}: {len(body)} bytes of values, its header announces {expected}")
    return shape, body


def write_idx(shape, body):
    return struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape) + body


def cut(folder, prefix, per_class):
    """The two IDX files, uncompressed, of the first `per_class` images of each class."""
    images_name, labels_name = names(prefix)
    (n, height, width), pixels = read_idx(folder / images_name, 3)
    (n_labels,), labels = read_idx(folder / labels_name, 1)
    if n != n_labels:
        sys.exit(f"{folder}: {n} {prefix} images but {n_labels} labels")
    taken, chosen = [0] * N_CLASSES, []
    for i, label in enumerate(labels):
        if taken[label] < per_class:
            taken[label] += 1
            chosen.append(i)
    if min(taken) < per_class:
        sys.exit(f"{folder}: only {min(taken)} {prefix} images of class {taken.index(min(taken))}")
    side = height * width
    images = b"".join(pixels[i * side:(i + 1) * side] for i in chosen)
    return {
        images_name: write_idx([len(chosen), height, width], images),
        labels_name: write_idx([len(chosen)], bytes(labels[i] for i in chosen)),
    }


def compress(data):
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=out, mtime=0) as f:
        f.write(data)
    return out.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", type=pathlib.Path, default=SOURCE, help="the whole set")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    total = 0
    for prefix, per_class in PARTS:
        for name, data in cut(arguments.source, prefix, per_class).items():
            target = TARGET / name
            if arguments.check:
                if gzip.decompress(target.read_bytes()) != data:
                    sys.exit(f"{target}: its contents are not the cut of {arguments.source}")
                print(f"{target.name}: as cut")
                continue
            packed = compress(data)
            target.write_bytes(packed)
            total += len(packed)
            print(f"{target.name}: {len(packed)} bytes")
    if total:
        print(f"total: {total} bytes")


if __name__ == "__main__":
    main()
