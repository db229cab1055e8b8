//! The ONNX graph of a network: its layers as nodes, its tensors under their checkpoint names.

use super::OnnxNorms;
use super::messages::{
    Attribute, Dimension, FLOAT, Graph, KIND_FLOAT, KIND_INT, KIND_INTS, Node, Shape, Tensor,
    TensorType, Type, ValueInfo,
};
use crate::checkpoint::permute;
use crate::layout::{ConvSlot, Layout, TensorSlot};
use crate::weights::Weights;
use slimtau_kernels::norm::{EPSILON, Norm, fold};
use slimtau_space::Network;
use std::ops::Range;

/// The graph of a network by itself (layout: [`Layout::standalone`] of it).
pub fn of(network: &Network, layout: &Layout, weights: &Weights, norms: OnnxNorms) -> Graph {
    let mut builder = Builder { layout, weights, norms, nodes: Vec::new(), tensors: Vec::new() };
    let mut x = builder.conv(&layout.stem, IMAGES);
    x = builder.node("Relu", "blocks.0.relu", &[&x], Vec::new());
    if network.max_pool {
        let window = vec![
            ints("kernel_shape", &[3, 3]),
            ints("strides", &[2, 2]),
            ints("pads", &[1, 1, 1, 1]),
        ];
        x = builder.node("MaxPool", "blocks.0.pool", &[&x], window);
    }
    for (i, block) in layout.blocks.iter().enumerate() {
        let name = format!("blocks.{}", i + 1);
        let mut branch = x.clone();
        for (j, conv) in block.convs.iter().enumerate() {
            if j > 0 {
                branch = builder.node("Relu", &format!("{name}.relu{j}"), &[&branch], Vec::new());
            }
            branch = builder.conv(conv, &branch);
        }
        let shortcut = match &block.projection {
            Some(conv) => builder.conv(conv, &x),
            None => x,
        };
        let sum = builder.node("Add", &format!("{name}.add"), &[&branch, &shortcut], Vec::new());
        x = builder.node("Relu", &format!("{name}.relu"), &[&sum], Vec::new());
    }
    builder.classifier(&x);
    let Builder { nodes, tensors, .. } = builder;
    let side = Some(network.image_size);
    Graph {
        node: nodes,
        name: "slimtau".into(),
        initializer: tensors,
        input: vec![value_info(IMAGES, &[None, Some(network.channels), side, side])],
        output: vec![value_info(LOGITS, &[None, Some(network.classes)])],
    }
}

const IMAGES: &str = "images";
const LOGITS: &str = "logits";

struct Builder<'a> {
    layout: &'a Layout,
    weights: &'a Weights,
    norms: OnnxNorms,
    nodes: Vec<Node>,
    tensors: Vec<Tensor>,
}

impl Builder<'_> {
    /// Adds a node of one output and gives that output's name.
    fn node(&mut self, op: &str, name: &str, inputs: &[&str], attribute: Vec<Attribute>) -> String {
        // Some readers keep nodes and values in one namespace.
        let output = format!("{name}.out");
        self.nodes.push(node(op, name, inputs, &output, attribute));
        output
    }

    /// A convolution with its norm.
    fn conv(&mut self, slot: &ConvSlot, input: &str) -> String {
        let (side, taps) = (slot.kernel as i64, slot.kernel * slot.kernel);
        let (stride, pad) = (slot.stride as i64, side / 2);
        let attributes = vec![
            ints("kernel_shape", &[side, side]),
            ints("strides", &[stride, stride]),
            ints("pads", &[pad; 4]),
        ];
        let hwio = &self.weights.params[slot.weight.clone()];
        let mut weight = permute(hwio, [taps, slot.full_in, slot.full_out]);
        let weight_slot = self.slot(&slot.weight, false);
        let module = module(weight_slot).to_owned();
        match self.norms {
            OnnxNorms::Kept => {
                let weight = self.add(weight_slot, &weight);
                let x = self.node("Conv", &module, &[input, &weight], attributes);
                self.norm(slot, &x)
            }
            OnnxNorms::Folded => {
                let (scale, shift) = self.folded(slot);
                for (row, scale) in weight.chunks_exact_mut(taps * slot.full_in).zip(scale) {
                    row.iter_mut().for_each(|v| *v *= scale);
                }
                let bias = format!("{module}.bias");
                let weight = self.add(weight_slot, &weight);
                self.tensors.push(tensor(&bias, &[slot.full_out], &shift));
                self.node("Conv", &module, &[input, &weight, &bias], attributes)
            }
        }
    }

    /// A norm as an operator of its own.
    fn norm(&mut self, slot: &ConvSlot, x: &str) -> String {
        let [gamma, beta] = [&slot.gamma, &slot.beta].map(|range| self.slot(range, false));
        let [mean, var] = [&slot.mean, &slot.var].map(|range| self.slot(range, true));
        let epsilon = float("epsilon", EPSILON);
        let module = module(gamma).to_owned();
        let Weights { params, buffers } = self.weights;
        let vectors = [(gamma, params), (beta, params), (mean, buffers), (var, buffers)];
        let [gamma, beta, mean, var] =
            vectors.map(|(slot, values)| self.add(slot, &values[slot.range.clone()]));
        self.node("BatchNormalization", &module, &[x, &gamma, &beta, &mean, &var], vec![epsilon])
    }

    /// A norm as a factor of each output channel's weights and an addend: evaluation's own.
    fn folded(&self, slot: &ConvSlot) -> (Vec<f32>, Vec<f32>) {
        let Weights { params, buffers } = self.weights;
        let norm = Norm {
            channels: slot.full_out,
            mean: &buffers[slot.mean.clone()],
            var: &buffers[slot.var.clone()],
            gamma: &params[slot.gamma.clone()],
            beta: &params[slot.beta.clone()],
            relu: false, // an operator of its own
        };
        let (mut scale, mut shift) = (vec![0.0; slot.full_out], vec![0.0; slot.full_out]);
        fold(&norm, &mut scale, &mut shift);
        (scale, shift)
    }

    /// Pooling and the dense layer.
    fn classifier(&mut self, x: &str) {
        let weight = self.slot(&self.layout.fc_weight, false);
        let bias = self.slot(&self.layout.fc_bias, false);
        let module = module(weight).to_owned();
        let params = &self.weights.params;
        let inputs = [weight, bias].map(|slot| self.add(slot, &params[slot.range.clone()]));
        let x = self.node("GlobalAveragePool", "pool", &[x], Vec::new());
        let x = self.node("Flatten", "flatten", &[&x], vec![int("axis", 1)]);
        // The weight is [classes, C].
        let [weight, bias] = &inputs;
        let transposed = vec![int("transB", 1)];
        self.nodes.push(node("Gemm", &module, &[&x, weight, bias], LOGITS, transposed));
    }
}

impl<'a> Builder<'a> {
    /// The tensor that lies there.
    fn slot(&self, range: &Range<usize>, buffer: bool) -> &'a TensorSlot {
        let mut slots = self.layout.tensors().iter();
        slots
            .find(|slot| slot.buffer == buffer && slot.range == *range)
            .expect("a layout names every tensor of its slots")
    }

    /// Adds a tensor with these values and gives its name.
    fn add(&mut self, slot: &TensorSlot, values: &[f32]) -> String {
        self.tensors.push(tensor(&slot.name, &slot.shape, values));
        slot.name.clone()
    }
}

/// The name of what a weight belongs to.
fn module(weight: &TensorSlot) -> &str {
    weight.name.strip_suffix(".weight").unwrap_or(&weight.name)
}

fn node(op: &str, name: &str, inputs: &[&str], output: &str, attribute: Vec<Attribute>) -> Node {
    Node {
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        name: name.to_owned(),
        op_type: op.to_owned(),
        attribute,
    }
}

fn tensor(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    Tensor {
        dims: shape.iter().map(|&n| n as i64).collect(),
        data_type: FLOAT,
        name: name.to_owned(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// A tensor at the border; `None` is the number of images.
fn value_info(name: &str, dims: &[Option<usize>]) -> ValueInfo {
    let dim = dims.iter().map(|dim| match dim {
        Some(n) => Dimension { value: Some(*n as i64), symbol: None },
        None => Dimension { value: None, symbol: Some("N".into()) },
    });
    let shape = Some(Shape { dim: dim.collect() });
    let tensor = Some(TensorType { elem_type: FLOAT, shape });
    ValueInfo { name: name.to_owned(), kind: Some(Type { tensor }) }
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute { name: name.into(), kind: KIND_INT, i: Some(value), ..Attribute::default() }
}

fn float(name: &str, value: f32) -> Attribute {
    Attribute { name: name.into(), kind: KIND_FLOAT, f: Some(value), ..Attribute::default() }
}

fn ints(name: &str, values: &[i64]) -> Attribute {
    Attribute { name: name.into(), kind: KIND_INTS, ints: values.to_vec(), ..Attribute::default() }
}
