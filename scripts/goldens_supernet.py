"""Makes tests/goldens/*.safetensors: what PyTorch computes for small supernets.

    python scripts/goldens_supernet.py          # needs torch, numpy, safetensors; rewrites the files

For each space file in tests/goldens and several codes of it: logits in training and eval mode, the
loss CE(student, label) + soft CE(student, softmax(teacher)), the gradient of every tensor, BN running
statistics after the pass; then the weights after two SGD steps whose gradients accumulate over all the
codes; and InfoNCE with a queue. Convolutions are written with torch.nn.functional on leading slices of
shared weights, so autograd itself says what "the gradient lands in the leading block" means.
Everything is computed in float64 and stored in float32: the tests' tolerances are ours alone.
"""
import pathlib
import tomllib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "goldens"
CODES = {
    "basic": ["22" + "1" + "1111" + "1111", "12" + "2" + "1200" + "3323", "21" + "3" + "2333" + "2100"],
    "stem7": ["21" + "1" + "1111" + "11", "11" + "2" + "3200" + "21", "21" + "3" + "1323" + "32"],
    "bottleneck": ["22" + "1" + "1111" + "1111", "12" + "2" + "3200" + "2313", "21" + "3" + "2313" + "1100"],
}


def width(base, ratio, d):
    v = base * ratio
    w = max(d, int(v + d / 2) // d * d)
    return w + d if w < 0.9 * v else w


class Net:
    """Shared tensors by checkpoint name, and a functional forward pass at a code's widths."""

    def __init__(self, space, generator):
        self.s = space
        self.t, self.run = {}, {}
        st, stages = space["stem"], space["stage"]
        self.expansion = 4 if space["block"] == "bottleneck" else 1

        def conv(name, norm, o, i, k):
            w = torch.randn(o, i, k, k, generator=generator, dtype=torch.float64)
            self.t[name] = w * (2 / (i * k * k)) ** 0.5
            self.t[norm + ".weight"] = 1 + 0.3 * torch.randn(o, generator=generator, dtype=torch.float64)
            self.t[norm + ".bias"] = 0.2 * torch.randn(o, generator=generator, dtype=torch.float64)
            self.run[norm + ".running_mean"] = 0.2 * torch.randn(o, generator=generator, dtype=torch.float64)
            self.run[norm + ".running_var"] = 0.5 + torch.rand(o, generator=generator, dtype=torch.float64)

        conv("blocks.0.conv.weight", "blocks.0.bn", st["width"], space["channels"], st["kernel"])
        n, cin, self.blocks = 1, st["width"], []
        for g in stages:
            mid, out, row = g["width"], g["width"] * self.expansion, []
            for b in range(g["depth"][1]):
                p, stride = f"blocks.{n}", g["stride"] if b == 0 else 1
                if self.expansion == 1:
                    shapes = [(mid, cin, 3, stride), (out, mid, 3, 1)]
                else:
                    shapes = [(mid, cin, 1, 1), (mid, mid, 3, stride), (out, mid, 1, 1)]
                for j, (o, i, k, _) in enumerate(shapes):
                    conv(f"{p}.conv{j + 1}.weight", f"{p}.bn{j + 1}", o, i, k)
                project = b == 0 and (stride != 1 or cin != out)
                if project:
                    conv(f"{p}.downsample.0.weight", f"{p}.downsample.1", out, cin, 1)
                row.append((p, [x[3] for x in shapes], project, stride))
                cin, n = out, n + 1
            self.blocks.append(row)
        self.fc = f"blocks.{n}.fc"
        self.t[self.fc + ".weight"] = torch.randn(space["classes"], cin, generator=generator, dtype=torch.float64) * 0.3
        self.t[self.fc + ".bias"] = torch.randn(space["classes"], generator=generator, dtype=torch.float64) * 0.1
        # Weights are exact float32 values, so that both sides start from the same numbers.
        for group in (self.t, self.run):
            for k in group:
                group[k] = group[k].float().double()
        for k in self.t:
            self.t[k].requires_grad_()

    def decode(self, code):
        stages, at = self.s["stage"], len(self.s["stage"]) + 1
        w = lambda base, digit: width(base, self.s["ratios"][int(digit) - 1], self.s["divisor"])
        depths = [int(c) for c in code[: len(stages)]]
        stem, rows = w(self.s["stem"]["width"], code[at - 1]), []
        for g, d in zip(stages, depths):
            digits, at = code[at : at + 2 * g["depth"][1]], at + 2 * g["depth"][1]
            rows.append([(w(g["width"], digits[2 * b]), w(g["width"] * self.expansion, digits[2 * b + 1])) for b in range(d)])
        return stem, rows

    def forward(self, x, code, train, update=None):
        stem, rows = self.decode(code)

        def cbn(x, conv, norm, o, k_stride):
            weight = self.t[conv][:o, : x.shape[1]]
            y = F.conv2d(x, weight, stride=k_stride, padding=weight.shape[2] // 2)
            mean, var = (self.run[f"{norm}.running_{n}"] for n in ("mean", "var"))
            m, v = mean[:o].clone(), var[:o].clone()
            y = F.batch_norm(y, m, v, self.t[norm + ".weight"][:o], self.t[norm + ".bias"][:o], train, 0.1, 1e-5)
            if update is not None:
                update[norm + ".running_mean"], update[norm + ".running_var"] = m, v
            return y

        x = F.relu(cbn(x, "blocks.0.conv.weight", "blocks.0.bn", stem, self.s["stem"]["stride"]))
        if self.s["stem"]["max_pool"]:
            x = F.max_pool2d(x, 3, 2, 1)
        for row, widths in zip(self.blocks, rows):
            for (p, strides, project, stride), (mid, out) in zip(row, widths):
                outs = [mid] * (len(strides) - 1) + [out]
                y = x
                for j, (o, s) in enumerate(zip(outs, strides)):
                    y = cbn(y, f"{p}.conv{j + 1}.weight", f"{p}.bn{j + 1}", o, s)
                    if j + 1 < len(outs):
                        y = F.relu(y)
                short = cbn(x, f"{p}.downsample.0.weight", f"{p}.downsample.1", out, stride) if project else x
                x = F.relu(y + short)
        f = x.mean((2, 3))
        return F.linear(f, self.t[self.fc + ".weight"][:, : f.shape[1]], self.t[self.fc + ".bias"])


def make(name, space, generator):
    out, net = {}, Net(space, generator)
    for k, v in {**net.t, **net.run}.items():
        out["weights/" + k] = v.detach().clone()
    n, size, largest = 4, space["image_size"], CODES[name][0]
    x = torch.randn(n, space["channels"], size, size, generator=generator, dtype=torch.float64).float().double()
    y = torch.randint(0, space["classes"], (n,), generator=generator)
    out["images"], out["labels"] = x, y.double()
    with torch.no_grad():
        teacher = net.forward(x, largest, False)
    out["teacher_logits"] = teacher
    soft = F.softmax(teacher, 1)
    params = list(net.t.values())
    optimizer = torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=1e-2)

    def loss_of(code, update=None):
        logits = net.forward(x, code, True, update)
        hard, softer = F.cross_entropy(logits, y), F.cross_entropy(logits, soft)
        return logits, hard, softer

    for code in CODES[name]:
        update = {}
        with torch.no_grad():
            out[f"{code}/eval_logits"] = net.forward(x, code, False)
        logits, hard, softer = loss_of(code, update)
        grads = torch.autograd.grad(hard + softer, params, allow_unused=True)
        out[f"{code}/logits"], out[f"{code}/losses"] = logits, torch.stack([hard, softer])
        for k, g in zip(net.t, grads):
            if g is not None:
                out[f"{code}/grad/{k}"] = g
        for k, v in update.items():
            out[f"{code}/running/{k}"] = v
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        for code in CODES[name][1:]:  # the largest is left out, so that some tensors get no gradient
            _, hard, softer = loss_of(code)
            (hard + softer).backward()
        optimizer.step()
    for k, v in net.t.items():
        out["stepped/" + k] = v.detach().clone()
    return out


def info_nce(generator):
    rows, dim, length, temperature = 6, 16, 40, 0.1
    draw = lambda *s: F.normalize(torch.randn(*s, generator=generator, dtype=torch.float64), dim=1).float().double()
    q, k, queue = draw(rows, dim).requires_grad_(), draw(rows, dim), draw(length, dim)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / temperature
    loss = F.cross_entropy(logits, torch.zeros(rows, dtype=torch.long))
    loss.backward()
    share = (logits.argmax(1) == 0).double().mean()
    return dict(q=q, k=k, queue=queue, grad_q=q.grad, loss=torch.stack([loss, share, torch.tensor(temperature)]))


def write(name, tensors):
    save_file({k: v.detach().float().contiguous() for k, v in tensors.items()}, FOLDER / f"{name}.safetensors")


def main():
    generator = torch.Generator().manual_seed(2022)
    for name in CODES:
        space = tomllib.loads((FOLDER / f"{name}.toml").read_text())
        write(name, make(name, space, generator))
    write("info_nce", info_nce(generator))


main()
