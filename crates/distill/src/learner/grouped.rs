//! The step of methods that treat subnets or images unequally: learning rates and momentum by subnet,
//! weights by image, and the gradient norms of both.

use super::{Learner, LearnerConfig, StepReport, mean_losses};
use slimtau_kernels::loss::{Target, cross_entropy};
use slimtau_supernet::{Plan, SupernetError};
use slimtau_train::{Sgd, drain_into};

/// One subnet of a step.
#[derive(Clone, Copy)]
pub struct SubnetTask<'a> {
    /// The subnet.
    pub plan: &'a Plan,
    /// Its learning rate.
    pub lr: f64,
    /// The momentum buffer that it shares, below [`Learner::momentum_groups`].
    pub group: usize,
}

/// The images of a step.
#[derive(Clone, Copy)]
pub struct LabelledBatch<'a> {
    /// [N, H, W, C].
    pub images: &'a [f32],
    /// `[N]`, below the number of classes.
    pub labels: &'a [u32],
    /// The teacher's [N, classes].
    pub soft_labels: Option<&'a [f32]>,
    /// `[N]`: what each image's loss is multiplied by before the mean over N is taken; all 1 for `None`.
    pub weights: Option<&'a [f32]>,
}

/// L2 norms of the gradients of one step; memory is kept from step to step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GradientNorms {
    /// By subnet: of its weighted mean loss over the batch at all parameters, without weight decay.
    pub subnets: Vec<f64>,
    /// By image: of its own loss (both parts, before its weight) at the logits, as the mean over the
    /// subnets. It is exact: with labels alone, |softmax(logits) - one-hot label|.
    pub images: Vec<f32>,
}

impl Learner {
    /// One step over subnets with learning rates and momentum groups of their own, as dynamic supernet
    /// training (Jeon et al., CVPR 2025) needs it, and over images with weights of their own; the
    /// gradient norms are measured into `norms` where asked for (PA&DA, Lu et al., CVPR 2023).
    ///
    /// Each group that has subnets in the step makes one update, in the order of its first subnet;
    /// later groups see the weights that earlier ones left, and groups without a subnet rest, as in
    /// the authors' code, where each subnet steps the optimiser of its group. With g_k the gradient of
    /// subnet k, lr the mean of the learning rates of the n subnets of this group, and K all subnets:
    ///
    /// v = momentum v + sum_k (lr_k / lr) g_k + (n / K) weight_decay w;  w = w - lr v
    ///
    /// over the tensors that the group's subnets use. A group of one subnet is thus stepped at that
    /// subnet's rate, gradients sum as in [`Learner::step`], and a step decays weights once, however
    /// many groups it has. With one group and equal rates, no weights and no norms this is
    /// [`Learner::step`], to the bit; with norms, for which each subnet has passes of its own, but for
    /// rounding. The report is the (weighted) mean over the subnets.
    ///
    /// # Errors
    /// When `images` is not a whole number of images. The groups before have then been stepped.
    ///
    /// # Panics
    /// As [`Learner::step`]; when a group has no buffer, or there is not one weight per label.
    pub fn step_grouped(
        &mut self,
        subnets: &[SubnetTask<'_>],
        batch: &LabelledBatch<'_>,
        mut norms: Option<&mut GradientNorms>,
    ) -> Result<StepReport, SupernetError> {
        if let Some(weights) = batch.weights {
            assert_eq!(weights.len(), batch.labels.len(), "one weight per image");
        }
        if let Some(norms) = &mut norms {
            norms.subnets.clear();
            norms.subnets.resize(subnets.len(), 0.0);
            norms.images.clear();
            norms.images.resize(batch.labels.len(), 0.0);
            self.total.resize(self.grads.len(), 0.0);
        }
        let mut report = StepReport::default();
        for (first, &SubnetTask { group, .. }) in subnets.iter().enumerate() {
            if subnets[..first].iter().any(|s| s.group == group) {
                continue; // stepped with its first subnet
            }
            let members = || subnets.iter().enumerate().filter(move |(_, s)| s.group == group);
            let (n, lr) = common_rate(members().map(|(_, s)| s.lr));
            let scale = |own: f64| if own == lr { 1.0 } else { (own / lr) as f32 };
            self.active.clear();
            members().for_each(|(_, s)| s.plan.add_active_ranges(true, &mut self.active));
            // Together where only the sum of their gradients is wanted.
            let (runs, of_run) = if norms.is_some() { (n, 1) } else { (1, n) };
            for run in 0..runs {
                let members = || members().skip(run).take(of_run);
                let plans = members().map(|(_, s)| s.plan);
                let mut passes = self.passes(plans, batch.images, batch.labels)?;
                for (_, subnet) in members() {
                    let scale = scale(subnet.lr);
                    let share = 1.0 / subnets.len() as f32;
                    let images = norms.as_deref_mut().map(|n| (&mut n.images[..], share));
                    report.add(passes.add(subnet.plan, |config, classes, logits, grad| {
                        losses(config, classes, logits, batch, scale, images, grad)
                    })?);
                }
                passes.finish()?;
                if let (Some(norms), Some((k, subnet))) = (&mut norms, members().next()) {
                    let scaled = drain_into(&mut self.total, &mut self.grads);
                    norms.subnets[k] = scaled / f64::from(scale(subnet.lr));
                }
            }
            slimtau_supernet::merge_ranges(&mut self.active);
            let share = n as f32 / subnets.len() as f32;
            let sgd = self.config.sgd;
            let sgd = Sgd { weight_decay: share * sgd.weight_decay, ..sgd };
            let Self { weights, grads, total, velocities, active, .. } = self;
            let grads = if norms.is_some() { total } else { grads };
            sgd.step(lr, &mut weights.params, grads, &mut velocities[group], active);
        }
        report.divide(f64::max(subnets.len() as f64, 1.0));
        Ok(report)
    }
}

/// The number of rates and their mean, which is exactly the rate where all are equal.
fn common_rate(rates: impl Iterator<Item = f64> + Clone) -> (usize, f64) {
    let (n, sum) = rates.clone().fold((0, 0.0), |(n, sum), rate| (n + 1, sum + rate));
    let first = rates.clone().next().unwrap_or(0.0);
    let equal = rates.into_iter().all(|rate| rate == first);
    (n, if equal { first } else { sum / n as f64 })
}

/// Both losses of a batch as weighted means; adds `scale` times their gradients. Where asked, adds
/// `share` times the norm of each image's own gradient.
fn losses(
    config: &LearnerConfig,
    classes: usize,
    logits: &[f32],
    batch: &LabelledBatch<'_>,
    scale: f32,
    mut norms: Option<(&mut [f32], f32)>,
    grad: &mut [f32],
) -> (f64, f64) {
    let LabelledBatch { labels, soft_labels, weights, .. } = *batch;
    if weights.is_none() && norms.is_none() {
        let losses = mean_losses(config, classes, logits, labels, soft_labels, grad);
        if scale != 1.0 {
            grad.iter_mut().for_each(|g| *g *= scale);
        }
        return losses;
    }
    // Row by row: a batch's loss knows one scale and one sum, and the rows of a batch are few.
    let n = labels.len();
    let of_mean = |weight: f32| (f64::from(weight) / n as f64) as f32;
    let (label, teacher) = (of_mean(config.label_weight), of_mean(config.teacher_weight));
    let (mut label_loss, mut teacher_loss) = (0.0, 0.0);
    for (i, (x, g)) in logits.chunks(classes).zip(grad.chunks_mut(classes)).enumerate() {
        let weight = weights.map_or(1.0, |w| w[i]);
        let loss = cross_entropy(classes, x, Target::Hard(&labels[i..=i]), label, g);
        label_loss += f64::from(weight) * loss;
        if let Some(soft) = soft_labels {
            let target = Target::Soft(&soft[i * classes..(i + 1) * classes]);
            teacher_loss += f64::from(weight) * cross_entropy(classes, x, target, teacher, g);
        }
        if let Some((norms, share)) = &mut norms {
            let squares: f64 = g.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
            norms[i] += *share * (n as f64 * squares.sqrt()) as f32;
        }
        let factor = weight * scale;
        if factor != 1.0 {
            g.iter_mut().for_each(|g| *g *= factor);
        }
    }
    (label_loss / n as f64, teacher_loss / n as f64)
}
