"""Makes crates/data/tests/goldens: small pictures of every kind, and what Pillow and torchvision make of them.

    python scripts/goldens_images.py            # needs pillow, numpy, torch and torchvision; rewrites the files

`<name>.<kind>` is a picture; `decoded` in goldens.json names `Image.open(...).convert("RGB")` of it, which is what
torchvision's ImageFolder loads (pictures that decode to the same share one); `<name>.eval.png` is Resize(SHORTER) and CenterCrop(SIZE) of it, `<name>.boxes.png`
the boxes of BOXES, each resized to SIZE (resized_crop, antialiased bilinear), one below another. goldens.json has
the sizes, the boxes, normalised values (ToTensor, Normalize), and quantiles of RandomResizedCrop.get_params.
"""

import json
import pathlib

import numpy
import torch
import torchvision
from PIL import Image, ImageDraw
from torchvision.transforms import v2 as transforms
from torchvision.transforms import RandomResizedCrop, functional

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "crates" / "data" / "tests" / "goldens"
SIZE, SHORTER = 28, 32
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# top, left, height, width in pictures of 48 x 64: shrinking, as it is, growing, at the borders, one axis only.
BOXES = [(0, 0, 48, 64), (3, 17, 41, 39), (20, 30, 28, 28), (30, 2, 12, 15), (47, 63, 1, 1), (5, 0, 30, 60)]
# height, width for the crop boxes' distribution: usual, square, and shapes that few boxes fit.
SHAPES = [(375, 500), (224, 224), (100, 400), (400, 120), (7, 5)]
QUANTILES = [0.05, 0.25, 0.5, 0.75, 0.95]
DRAWS = 40_000


def picture(height, width):
    """Gradients with shapes on them, RGB."""
    y, x = numpy.mgrid[0:height, 0:width]
    red = 255 * x / (width - 1)
    green = 255 * y / (height - 1)
    blue = 255 - (red + green) / 2
    image = Image.fromarray(numpy.stack([red, green, blue], -1).round().astype("uint8"))
    draw = ImageDraw.Draw(image)
    draw.ellipse([width // 8, height // 6, width // 2, height // 2], fill=(230, 40, 60))
    draw.rectangle([width // 2, height // 2, width - 6, height - 9], fill=(20, 60, 200))
    draw.line([0, height - 1, width - 1, 0], fill=(255, 255, 255), width=2)
    return image


def save_pictures():
    """Writes the pictures and returns their names."""
    image = picture(48, 64)
    odd = picture(37, 51)  # no multiple of a block's 8 or 16
    grey = image.convert("L")
    array = numpy.asarray(image).astype("uint16")

    def jpeg(name, image, **settings):
        image.save(FOLDER / f"{name}.jpg", quality=settings.pop("quality", 90), **settings)

    jpeg("baseline444", image, subsampling=0)
    jpeg("baseline422", image, subsampling=1)
    jpeg("baseline420", image, subsampling=2)
    jpeg("odd420", odd, subsampling=2)
    jpeg("odd444", odd, subsampling=0)
    jpeg("progressive420", image, subsampling=2, progressive=True)
    jpeg("restarts", image, subsampling=2, restart_marker_blocks=3)
    jpeg("grey", grey)
    jpeg("rgb", image, keep_rgb=True)  # no YCbCr: stored as it is
    jpeg("cmyk", image.convert("CMYK"))
    jpeg("ycck", ycck_channels(image), quality=80)
    say_ycck(FOLDER / "ycck.jpg")
    jpeg("progressive_grey", odd.convert("L"), progressive=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, which the loaders do not
    jpeg("turned", odd, subsampling=0, exif=exif)
    jpeg("portrait", picture(64, 40), subsampling=2, quality=80)
    jpeg("large", picture(150, 230), subsampling=2, quality=60)

    image.quantize(24).save(FOLDER / "palette.png")
    clear = image.quantize(16)
    clear.save(FOLDER / "palette_transparent.png", transparency=3)
    alpha = image.copy()
    alpha.putalpha(Image.fromarray((numpy.mgrid[0:48, 0:64][1] * 4).astype("uint8")))
    alpha.save(FOLDER / "alpha.png")
    Image.merge("LA", [grey, alpha.getchannel("A")]).save(FOLDER / "grey_alpha.png")
    grey.point(lambda v: 255 * (v > 120)).convert("1").save(FOLDER / "bilevel.png")
    wide = array[::2, ::2] * 257 + numpy.mgrid[0:24, 0:32][1][..., None].astype("uint16") * 7
    write_png16(FOLDER / "wide.png", wide)
    return sorted(p.stem for p in FOLDER.iterdir() if p.suffix in (".jpg", ".png"))


def ycck_channels(image):
    """Channels of which Pillow makes those of a YCCK file, which it reads but does not write: it stores their inverse.

    Decoders give C = 255 - R and so on, of the file's YCbCr, and K as it is; Pillow takes all four as inverse once more.
    """
    cmy = 255 - numpy.asarray(image).astype("int32")
    black = cmy.min(-1, keepdims=True) // 2
    cmy = 255 * (cmy - black) // (255 - black)
    ycbcr = numpy.asarray(Image.fromarray(cmy.astype("uint8")).convert("YCbCr"))
    return Image.fromarray(numpy.dstack([255 - ycbcr, black]).astype("uint8"), "CMYK")


def say_ycck(path):
    """Changes the colour transform in the Adobe marker from none, as Pillow has it, to YCCK."""
    data = bytearray(path.read_bytes())
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    data[transform] = 2
    path.write_bytes(data)


def write_png16(path, array):
    """A 16-bit RGB PNG, which Pillow reads but does not write."""
    import struct
    import zlib

    height, width, _ = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in numpy.minimum(array, 65535))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def save(image, name):
    image.save(FOLDER / f"{name}.png", optimize=True)


def box_quantiles(height, width):
    """Of area / whole, log(width / height), and the place of the top left corner in what room there is."""
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    boxes = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(DRAWS)]
    top, left, h, w = numpy.array(boxes, dtype="float64").T
    values = {
        "area": h * w / (height * width),
        "log_ratio": numpy.log(w / h),
        "top": top / height,
        "left": left / width,
    }
    return {name: numpy.quantile(v, QUANTILES).tolist() for name, v in values.items()}


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    names = save_pictures()
    # Geometry does not depend on how a picture was stored; these have all shapes.
    resized = ["baseline444", "odd444", "portrait", "large", "palette"]
    evaluate = transforms.Compose([transforms.Resize(SHORTER), transforms.CenterCrop(SIZE)])
    normalise = transforms.Compose([transforms.PILToTensor(), transforms.ToDtype(torch.float32, scale=True),
                                    transforms.Normalize(MEAN, STD)])
    decoded = {}  # picture: the file of its pixels
    by_pixels = {}
    for name in names:
        path = next(p for p in (FOLDER / f"{name}.jpg", FOLDER / f"{name}.png") if p.exists())
        with Image.open(path) as file:
            image = file.convert("RGB")
        if name != "large":
            decoded[name] = by_pixels.setdefault((image.size, image.tobytes()), f"{name}.decoded")
            if decoded[name] == f"{name}.decoded":
                save(image, decoded[name])
        if name in resized:
            save(evaluate(image), f"{name}.eval")
        if name == "baseline444":
            crops = [functional.resized_crop(image, *box, [SIZE, SIZE], antialias=True) for box in BOXES]
            stacked = Image.new("RGB", (SIZE, SIZE * len(crops)))
            for i, crop in enumerate(crops):
                stacked.paste(crop, (0, SIZE * i))
            save(stacked, f"{name}.boxes")
            normalised = normalise(evaluate(image)).permute(1, 2, 0)  # [SIZE, SIZE, 3]
    golden = {
        "versions": {"torchvision": torchvision.__version__, "pillow": Image.__version__},
        "size": SIZE,
        "shorter": SHORTER,
        "decoded": decoded,
        "resized": resized,
        "boxes": BOXES,
        "normalised_row": [round(v, 6) for v in normalised[SIZE // 2].flatten().tolist()],
        "quantiles": QUANTILES,
        "distributions": [{"height": h, "width": w, **box_quantiles(h, w)} for h, w in SHAPES],
    }
    (FOLDER / "goldens.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
