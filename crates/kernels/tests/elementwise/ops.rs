//! The candle operations against candle's own, for values and gradients: on the CPU, and in builds with the feature `cuda`
//! also on the GPU whose number is in `SLIMTAU_TEST_GPU`.

use crate::noise;
use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::ops::log_softmax;
use slimtau_kernels::ops;
use std::sync::LazyLock;

/// Where the operations are tested. Candle takes every opening of a GPU for another device.
static DEVICES: LazyLock<Vec<Device>> = LazyLock::new(|| {
    let number = std::env::var("SLIMTAU_TEST_GPU").ok().filter(|_| cfg!(feature = "cuda"));
    let gpu = number.map(|n| Device::new_cuda(n.parse().expect("a GPU's number")).expect("a GPU"));
    [Device::Cpu].into_iter().chain(gpu).collect()
});

fn var(device: &Device, seed: u64, dims: &[usize]) -> Var {
    let data = noise(seed, dims.iter().product());
    Var::from_vec(data, dims, device).unwrap()
}

/// `ours` and `candles` agree in value, and so do the gradients of `sum(value * noise)`.
#[track_caller]
fn check(what: &str, vars: &[&Var], ours: &Tensor, candles: &Tensor) {
    check_within(2e-5, what, vars, ours, candles);
}

/// The same to a share of the largest value.
#[track_caller]
fn check_within(tolerance: f32, what: &str, vars: &[&Var], ours: &Tensor, candles: &Tensor) {
    let near = |what: &str, a: &Tensor, b: &Tensor| {
        assert_eq!(a.dims(), b.dims(), "{what}: shapes");
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (a, b) = (values(a), values(b));
        let largest = b.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        for (i, (a, b)) in a.iter().zip(&b).enumerate() {
            assert!((a - b).abs() <= tolerance * largest, "{what}[{i}] = {a}, expected {b}");
        }
    };
    near(what, ours, candles);
    let weights = var(ours.device(), 99, ours.dims());
    let gradients = |y: &Tensor| (y * weights.as_tensor()).unwrap().sum_all().unwrap().backward();
    let (a, b) = (gradients(ours).unwrap(), gradients(candles).unwrap());
    for (i, v) in vars.iter().enumerate() {
        let name = format!("{what}: gradient of argument {i}");
        near(&name, a.get(v).expect("a gradient"), b.get(v).expect("a gradient"));
    }
}

#[test]
fn conv2d() -> Result<()> {
    for device in DEVICES.iter() {
        for (kernel, stride, size, used, of) in [
            (3, 1, 8, (8, 8), (8, 8)),
            (3, 2, 9, (8, 16), (16, 24)),
            (1, 2, 8, (16, 8), (24, 8)),
            (7, 2, 14, (3, 8), (3, 16)),
            (3, 1, 5, (5, 6), (7, 9)),
        ] {
            // Candle's gradient of a strided convolution wants height and width of equal parity.
            let x = var(device, 1, &[2, size, size + 2, used.0]);
            let weight = var(device, 2, &[kernel, kernel, of.0, of.1]);
            let ours = ops::slim_conv2d(&x, &weight, used.1, stride)?;
            let leading = weight.narrow(2, 0, used.0)?.narrow(3, 0, used.1)?;
            let candles = x
                .permute((0, 3, 1, 2))?
                .contiguous()?
                .conv2d(&leading.permute((3, 2, 0, 1))?.contiguous()?, kernel / 2, stride, 1, 1)?
                .permute((0, 2, 3, 1))?;
            check(&format!("{kernel}x{kernel} / {stride}"), &[&x, &weight], &ours, &candles);
        }
    }
    Ok(())
}

#[test]
fn batch_norm() -> Result<()> {
    for device in DEVICES.iter() {
        for (dims, full, relu) in
            [(vec![2, 3, 4, 10], 10, true), (vec![9, 6], 8, false), (vec![3, 5, 7, 24], 32, true)]
        {
            let channels = *dims.last().unwrap();
            let (x, gamma, beta) =
                (var(device, 1, &dims), var(device, 2, &[full]), var(device, 3, &[full]));
            let ours = ops::slim_batch_norm(&x, &gamma, &beta, relu)?;
            let rows = x.reshape(((), channels))?;
            let centred = rows.broadcast_sub(&rows.mean_keepdim(0)?)?;
            let var = centred.sqr()?.mean_keepdim(0)?;
            let y = centred
                .broadcast_div(&(&var + 1e-5)?.sqrt()?)?
                .broadcast_mul(&gamma.narrow(0, 0, channels)?)?
                .broadcast_add(&beta.narrow(0, 0, channels)?)?;
            let y = if relu { y.relu()? } else { y };
            check("batch norm", &[&x, &gamma, &beta], &ours.y, &y.reshape(dims)?);
            let mean = rows.mean(0)?;
            assert!((ours.mean - mean)?.abs()?.max(0)?.to_scalar::<f32>()? < 1e-6);
            assert!((ours.var - var.squeeze(0)?)?.abs()?.max(0)?.to_scalar::<f32>()? < 1e-6);
        }
    }
    Ok(())
}

#[test]
fn pools() -> Result<()> {
    for device in DEVICES.iter() {
        for (height, width, channels) in [(7, 8, 10), (1, 1, 3), (12, 5, 24)] {
            let x = var(device, 1, &[2, height, width, channels]);
            // Nine shifted copies. A coordinate off the edge is clamped to one in the same window.
            let shifted = |size: usize, k: usize| {
                let at = (0..size.div_ceil(2)).map(|o| (2 * o + k).saturating_sub(1).min(size - 1));
                Tensor::from_iter(at.map(|i| i as u32), device)
            };
            let mut max: Option<Tensor> = None;
            for (ky, kx) in (0..9).map(|k| (k / 3, k % 3)) {
                let copy = x.index_select(&shifted(height, ky)?, 1)?;
                let copy = copy.index_select(&shifted(width, kx)?, 2)?;
                max = Some(match max {
                    Some(max) => max.maximum(&copy)?,
                    None => copy,
                });
            }
            check("max pool", &[&x], &ops::max_pool(&x)?, &max.unwrap());
            check("average pool", &[&x], &ops::global_average_pool(&x)?, &x.mean((1, 2))?);
        }
    }
    Ok(())
}

#[test]
fn linear() -> Result<()> {
    for device in DEVICES.iter() {
        for (rows, inputs, full, outputs) in [(3, 8, 8, 10), (5, 6, 16, 7)] {
            let (x, weight) = (var(device, 1, &[rows, inputs]), var(device, 2, &[outputs, full]));
            let bias = var(device, 3, &[outputs]);
            let candles =
                x.matmul(&weight.narrow(1, 0, inputs)?.t()?)?.broadcast_add(bias.as_tensor())?;
            let ours = ops::slim_linear(&x, &weight, &bias)?;
            check("linear", &[&x, &weight, &bias], &ours, &candles);
        }
    }
    Ok(())
}

#[test]
fn losses() -> Result<()> {
    for device in DEVICES.iter() {
        let logits = var(device, 1, &[6, 10]);
        let labels = Tensor::new(&[0u32, 9, 3, 3, 5, 1], device)?;
        let candles = candle_nn::loss::cross_entropy(&logits, &labels)?;
        check("hard", &[&logits], &ops::cross_entropy(&logits, &labels)?, &candles);

        let soft = candle_nn::ops::softmax(var(device, 2, &[6, 10]).as_tensor(), D::Minus1)?;
        let candles = ((log_softmax(&logits, D::Minus1)? * &soft)?.sum_all()? * (-1.0 / 6.0))?;
        check("soft", &[&logits], &ops::soft_cross_entropy(&logits, &soft)?, &candles);

        let (q, k, queue) =
            (var(device, 3, &[5, 12]), var(device, 4, &[5, 12]), var(device, 5, &[40, 12]));
        let positive = (q.as_tensor() * k.detach())?.sum_keepdim(1)?;
        let all = (Tensor::cat(&[positive, q.matmul(&queue.detach().t()?)?], 1)? / 0.2)?;
        let zeros = Tensor::zeros(5, DType::U32, device)?;
        let ours = ops::info_nce(&q, &k, &queue, 0.2)?;
        check("InfoNCE", &[&q], &ours.loss, &candle_nn::loss::cross_entropy(&all, &zeros)?);
        let first = all.argmax(1)?.eq(&zeros)?.to_dtype(DType::F32)?.mean(0)?.to_scalar::<f32>()?;
        assert!((ours.top1 - f64::from(first)).abs() < 1e-6);
    }
    Ok(())
}

#[test]
fn strided_arguments_are_read_in_their_own_order() -> Result<()> {
    for device in DEVICES.iter() {
        let x = var(device, 1, &[2, 6, 4, 4]);
        let nhwc = x.permute((0, 2, 3, 1))?;
        let gradient = ops::global_average_pool(&nhwc)?.sum_all()?.backward()?;
        let gradient = gradient.get(&x).expect("a gradient").flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(gradient, vec![1.0 / 16.0; 2 * 6 * 16]);
        let mean = ops::global_average_pool(&nhwc)?;
        let difference = (mean - x.mean((2, 3))?)?.abs()?.flatten_all()?.max(0)?;
        assert!(difference.to_scalar::<f32>()? < 1e-6);
    }
    Ok(())
}

/// What comes of bf16 is near what comes of the same values in f32, and of the right type.
#[test]
fn bf16_on_a_gpu() -> Result<()> {
    for device in DEVICES.iter().filter(|device| device.is_cuda()) {
        let (x, weight) = (var(device, 1, &[2, 9, 8, 16]), var(device, 2, &[3, 3, 24, 32]));
        let (gamma, beta) = (var(device, 3, &[24]), var(device, 4, &[24]));
        let check =
            |what: &str, vars: &[&Var], result: DType, op: &dyn Fn(&[Tensor]) -> Result<Tensor>| {
                let of = |dtype: DType| {
                    let rounded = |v: &&Var| v.to_dtype(DType::BF16)?.to_dtype(dtype);
                    op(&vars.iter().map(rounded).collect::<Result<Vec<_>>>()?)
                };
                let (bf16, f32) = (of(DType::BF16)?, of(DType::F32)?);
                assert_eq!(bf16.dtype(), result, "{what}");
                check_within(0.02, what, vars, &bf16.to_dtype(DType::F32)?, &f32);
                Result::Ok(())
            };
        check("convolution", &[&x, &weight], DType::BF16, &|v| {
            ops::slim_conv2d(&v[0], &v[1], 8, 2)
        })?;
        check("norm", &[&x], DType::BF16, &|v| {
            Ok(ops::slim_batch_norm(&v[0], &gamma, &beta, true)?.y)
        })?;
        check("max pool", &[&x], DType::BF16, &|v| ops::max_pool(&v[0]))?;
        check("average pool", &[&x], DType::F32, &|v| ops::global_average_pool(&v[0]))?;
    }
    Ok(())
}

#[test]
fn bad_arguments_are_errors() {
    let check = |result: Result<Tensor>, expect: &str| {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(expect), "{message}");
    };
    let var = |seed, dims: &[usize]| var(&Device::Cpu, seed, dims);
    let x = var(1, &[1, 4, 4, 8]);
    let (weight, narrow) = (var(2, &[3, 3, 8, 16]), var(2, &[3, 3, 6, 16]));
    check(
        ops::slim_conv2d(&x, &narrow, 8, 1),
        "slim_conv2d: expected the weight as [k, k, >= 8, O]",
    );
    check(ops::slim_conv2d(&x, &weight, 17, 1), "out_channels must be in 1..=16, got 17");
    check(ops::slim_conv2d(&x, &weight, 8, 0), "stride must be at least 1, got 0");
    check(ops::slim_conv2d(&weight.flatten_all().unwrap(), &weight, 8, 1), "shape [1152]");
    check(ops::max_pool(&weight.flatten_all().unwrap()), "max_pool: expected x as [N, H, W, C]");
    let five = var(3, &[5]);
    let norm = ops::slim_batch_norm(&x, &five, &five, false).map(|n| n.y);
    check(norm, "gamma as [>= 8], got a tensor of shape [5]");
    let double = x.to_dtype(DType::F64).unwrap();
    check(ops::max_pool(&double), "expected elements of type F32, got F64");
    let half = x.to_dtype(DType::BF16).unwrap();
    check(ops::max_pool(&half), "expected elements of type F32, got BF16");
    let logits = var(4, &[2, 3]);
    let labels = |v: &[u32]| Tensor::new(v, &Device::Cpu).unwrap();
    check(ops::cross_entropy(&logits, &labels(&[0, 3])), "label must be below 3");
    check(ops::cross_entropy(&logits, &labels(&[0])), "the labels as [2]");
    check(ops::soft_cross_entropy(&logits, &x), "the probabilities as [2, 3]");
    check(ops::slim_linear(&logits, &var(5, &[4, 2]), &five), "the weight as [O, >= 3]");
    let nce = |t| ops::info_nce(&logits, &logits, &logits, t).map(|n| n.loss);
    check(nce(0.0), "temperature must be positive, got 0");
    check(nce(f32::NAN), "temperature must be positive, got NaN");
}
