"""A small image folder of real photographs, in ImageNet's layout, to try the full-size run on.

    python scripts/photographs.py FOLDER     # needs scikit-image, scikit-learn, pillow

Ten classes, one for each of ten photographs that scikit-image and scikit-learn ship. Images are JPEG files of random
crops of them, of sizes as ImageNet has them: 30 of each in train/, in val/ 2 in folders. Crops of one photograph look
alike, so accuracies say nothing; it is about every step from files to the submission.
"""
import argparse
import pathlib
import random

import skimage
import sklearn
from PIL import Image

HERE = {
    "skimage": pathlib.Path(skimage.__file__).parent / "data",
    "sklearn": pathlib.Path(sklearn.__file__).parent / "datasets" / "images",
}
PHOTOGRAPHS = [
    ("skimage", "astronaut.png"),
    ("skimage", "chelsea.png"),
    ("skimage", "coffee.png"),
    ("skimage", "hubble_deep_field.jpg"),
    ("skimage", "ihc.png"),
    ("skimage", "motorcycle_left.png"),
    ("skimage", "retina.jpg"),
    ("skimage", "rocket.jpg"),
    ("sklearn", "china.jpg"),
    ("sklearn", "flower.jpg"),
]


def crop(photograph, rng):
    """A box of 60 % to 100 % of each side, at a shorter side of 256 to 400 pixels."""
    sides = [round(side * rng.uniform(0.6, 1.0)) for side in photograph.size]
    left, top = (rng.randrange(whole - side + 1) for whole, side in zip(photograph.size, sides))
    box = photograph.crop((left, top, left + sides[0], top + sides[1]))
    scale = rng.uniform(256, 400) / min(box.size)
    return box.resize([round(side * scale) for side in box.size], Image.Resampling.LANCZOS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--train", type=int, default=30, help="images per class")
    parser.add_argument("--val", type=int, default=2, help="images per class")
    args = parser.parse_args()
    rng = random.Random(0)
    for package, name in PHOTOGRAPHS:
        photograph = Image.open(HERE[package] / name).convert("RGB")
        for part, count in [("train", args.train), ("val", args.val)]:
            folder = args.folder / part / pathlib.Path(name).stem
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                crop(photograph, rng).save(folder / f"{i:04}.JPEG", quality=rng.randint(80, 95))


if __name__ == "__main__":
    main()
