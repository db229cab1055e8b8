//! candle's side of a comparison: tensors in its order of dimensions, and its autograd.

use candle_core::{Device, Result, Tensor, Var};

/// `[N, H, W, C]` as candle wants it: `[N, C, H, W]`.
pub fn activation([n, h, w, c]: [usize; 4], values: &[f32]) -> Result<Tensor> {
    Tensor::from_slice(values, (n, h, w, c), &Device::Cpu)?.permute((0, 3, 1, 2))?.contiguous()
}

/// The values of `[N, C, H, W]` in the order `[N, H, W, C]`.
pub fn values(x: &Tensor) -> Result<Vec<f32>> {
    x.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1()
}

/// The leading block of an HWIO weight as OIHW. A slimmed layer in candle would have to copy this
/// block out in every step; here that is not counted.
pub fn weight(
    [k, ci, co]: [usize; 3],
    [full_in, full_out]: [usize; 2],
    values: &[f32],
) -> Result<Tensor> {
    let full = Tensor::from_slice(values, (k, k, full_in, full_out), &Device::Cpu)?;
    full.narrow(2, 0, ci)?.narrow(3, 0, co)?.permute((3, 2, 0, 1))?.contiguous()
}

/// `sum(y * grad)`, whose gradient with respect to `y` is `grad`.
pub fn with_gradient(y: &Tensor, grad: &Tensor) -> Result<Tensor> {
    (y * grad)?.sum_all()
}

/// The gradient of `x` that autograd finds from `loss`.
pub fn gradient(loss: &Tensor, x: &Var) -> Result<Tensor> {
    let gradients = loss.backward()?;
    gradients.get(x).cloned().ok_or_else(|| candle_core::Error::Msg("no gradient".into()))
}
