//! The frozen network whose soft labels the subnets learn from.

use slimtau_kernels::loss::softmax;
use slimtau_supernet::{Plan, Session, SupernetError, Weights};

/// A frozen network in eval mode, run once per batch, whatever the number of students.
pub struct Teacher {
    plan: Plan,
    weights: Weights,
    temperature: f32,
    session: Session,
    probabilities: Vec<f32>,
}

impl Teacher {
    /// A teacher; `temperature` divides its logits (1 in the paper).
    pub fn new(plan: Plan, weights: Weights, temperature: f32) -> Self {
        let (session, probabilities) = (Session::new(), Vec::new());
        Self { plan, weights, temperature, session, probabilities }
    }

    /// softmax(logits / temperature) [N, classes] of images [N, H, W, C].
    ///
    /// # Errors
    /// When `images` is not a whole number of images.
    pub fn soft_labels(&mut self, images: &[f32]) -> Result<&[f32], SupernetError> {
        let Self { plan, weights, temperature, session, probabilities } = self;
        let logits = session.infer(plan, &weights.params, &weights.buffers, images)?;
        probabilities.resize(logits.len(), 0.0);
        softmax(plan.network().classes, *temperature, logits, probabilities);
        Ok(probabilities)
    }
}
