"""TFLOP/s of cuDNN's convolutions, layer by layer as crates/kernels/examples/gpu_convolutions.rs measures ours.

Usage: python scripts/cudnn_convolutions.py [BATCH]
bf16, channels last, cuDNN choosing its fastest algorithm; one line of JSON per layer and width.
"""
import json
import sys
import time

import torch

LAYERS = [
    (224, 3, 64, 7, 2), (56, 64, 64, 3, 1), (56, 64, 128, 3, 2), (56, 64, 128, 1, 2), (28, 128, 128, 3, 1),
    (28, 128, 256, 3, 2), (28, 128, 256, 1, 2), (14, 256, 256, 3, 1), (14, 256, 512, 3, 2), (14, 256, 512, 1, 2),
    (7, 512, 512, 3, 1),
]


def width(full, ratio):
    return 3 if full == 3 else max(8, int(full * ratio + 4) // 8 * 8)


def seconds(call):
    """Of one call: the fastest of three rounds of about 30 ms each."""

    def round_of(calls):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - begin) / calls

    round_of(3)
    calls = int(min(max(0.03 / round_of(3), 3), 3000))
    return min(round_of(calls) for _ in range(3))


def main():
    batch = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    torch.backends.cudnn.benchmark = True
    print(torch.cuda.get_device_name(0), "batch", batch, file=sys.stderr)
    for size, full_in, full_out, kernel, stride in LAYERS:
        for ratio in (1.0, 0.9, 0.8, 0.7):
            c_in, c_out = width(full_in, ratio), width(full_out, ratio)
            make = lambda *shape: torch.randn(*shape, device="cuda", dtype=torch.bfloat16).to(
                memory_format=torch.channels_last)
            x, w = make(batch, c_in, size, size), make(c_out, c_in, kernel, kernel)
            pad = [kernel // 2] * 2
            y = torch.nn.functional.conv2d(x, w, stride=stride, padding=pad)
            g = torch.randn_like(y)
            backward = lambda mask: torch.ops.aten.convolution_backward(
                g, x, w, None, [stride] * 2, pad, [1, 1], False, [0, 0], 1, mask)
            flops = 2 * y.numel() * c_in * kernel * kernel
            rate = lambda call: round(flops / seconds(call) / 1e12, 1)
            print(json.dumps({
                "size": size, "in": c_in, "out": c_out, "kernel": kernel, "stride": stride,
                "forward_tflops": rate(lambda: torch.nn.functional.conv2d(x, w, stride=stride, padding=pad)),
                "input_tflops": rate(lambda: backward([True, False, False])),
                "weight_tflops": rate(lambda: backward([False, True, False])),
            }), flush=True)


if __name__ == "__main__":
    main()
