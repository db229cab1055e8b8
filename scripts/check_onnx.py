"""Checks `slimtau export` to ONNX in Microsoft's ONNX Runtime, with subnets of a space and a checkpoint.

    python scripts/check_onnx.py --space SPACE --checkpoint w.safetensors     # needs onnx, onnxruntime, safetensors

For `-n` drawn codes, with norms folded and kept: `onnx.checker` with full shape inference has to accept the file, and
the runtime's logits have to be those of `slimtau forward`, for every batch size. scripts/check_plain.py makes a
checkpoint with random weights; a trained one is the better test of scales.
"""
import argparse
import pathlib
import subprocess
import tempfile

import numpy
import onnx
import onnxruntime
from safetensors.numpy import load_file, save_file

TOLERANCE = 1e-4  # of the largest logit


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--slimtau", default="target/release/slimtau")
    parser.add_argument("-n", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 7])
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp())
    slimtau = lambda *words: subprocess.run([args.slimtau, *map(str, words)], check=True, capture_output=True, text=True).stdout
    generator = numpy.random.default_rng(1)
    for code in slimtau("space", "sample", "--space", args.space, "-n", args.n, "--seed", 4).split():
        common = ["--space", args.space, "--checkpoint", args.checkpoint, "--arch", code]
        for norms in ([], ["--keep-norms"]):
            path = str(folder / "net.onnx")
            slimtau("export", *common, "--output", path, *norms)
            onnx.checker.check_model(path, full_check=True)
            model = onnx.load(path)
            metadata = {entry.key: entry.value for entry in model.metadata_props}
            assert metadata["code"] == code and model.producer_name == "slimtau"
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            (info,) = session.get_inputs()
            assert info.name == "images" and info.shape[0] == "N", info
            worst = 0.0
            for n in args.batches:
                images = generator.standard_normal((n, *info.shape[1:]), dtype=numpy.float32)
                save_file({"images": images}, folder / "x.safetensors")
                slimtau("forward", *common, "--input", folder / "x.safetensors", "--output", folder / "y.safetensors")
                want = load_file(folder / "y.safetensors")["logits"]
                (got,) = session.run(["logits"], {"images": images})
                assert got.shape == want.shape, (got.shape, want.shape)
                worst = max(worst, float(abs(got - want).max() / abs(want).max()))
            shown = "kept" if norms else "folded"
            print(f"{code}, norms {shown}, {metadata['params']} parameters: worst difference {worst:.1e} of the largest logit")
            assert worst <= TOLERANCE, code


main()
