//! One subnet as an ONNX model: a file that other programs run without this one.
//!
//! IR version 7 with operator set 13, that is ONNX 1.8 of 2020: every operator used here has stood in it unchanged since,
//! and the older a file, the more runtimes take it.

mod graph;
mod messages;

use crate::{Layout, Plan, SupernetError, Weights};
use messages::{Entry, Model, OperatorSet};
use prost::Message;
use slimtau_base::write_atomic;
use std::collections::BTreeMap;
use std::path::Path;

const IR_VERSION: i64 = 7;
const OPERATOR_SET: i64 = 13;
/// Protobuf messages are shorter than 2 GiB.
const MAX_BYTES: usize = i32::MAX as usize;

/// What becomes of batch norm in an ONNX model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnnxNorms {
    /// It becomes part of the convolution before it, as evaluation here has it: fewer operators, the same function.
    #[default]
    Folded,
    /// It stays an operator of its own, and every tensor is the checkpoint's to the last bit.
    Kept,
}

impl Weights {
    /// One subnet in evaluation as an ONNX model: `images` [N, C, H, W] f32 in, `logits` [N, classes] f32 out, for any
    /// number N of images. Batch norm uses the running statistics that stand in these weights; after
    /// [`crate::recalibrate`] they are the subnet's own. Tensors have the names of the checkpoint of the subnet as a
    /// network of its own ([`Layout::standalone`]); a norm folded into `conv1.weight` becomes `conv1.bias` besides.
    ///
    /// The plan may be of a subnet or of a whole network; the weights are those of its layout. `metadata` goes into the
    /// model's properties.
    ///
    /// # Errors
    /// [`SupernetError::OnnxTooLarge`] from 2 GiB on.
    pub fn to_onnx(
        &self,
        plan: &Plan,
        norms: OnnxNorms,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Vec<u8>, SupernetError> {
        let own = Layout::standalone(plan.network());
        let weights = self.extract(plan, &own);
        let entry =
            |(key, value): (&String, &String)| Entry { key: key.clone(), value: value.clone() };
        let model = Model {
            ir_version: IR_VERSION,
            producer_name: "slimtau".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            graph: Some(graph::of(plan.network(), &own, &weights, norms)),
            opset_import: vec![OperatorSet { domain: Some(String::new()), version: OPERATOR_SET }],
            metadata_props: metadata.iter().map(entry).collect(),
        };
        let bytes = model.encoded_len();
        if bytes > MAX_BYTES {
            return Err(SupernetError::OnnxTooLarge { bytes });
        }
        Ok(model.encode_to_vec())
    }

    /// Writes what [`Weights::to_onnx`] makes.
    ///
    /// # Errors
    /// Its own, and when the file cannot be written; an old one then still stands.
    pub fn save_onnx(
        &self,
        plan: &Plan,
        norms: OnnxNorms,
        metadata: &BTreeMap<String, String>,
        path: &Path,
    ) -> Result<(), SupernetError> {
        let bytes = self.to_onnx(plan, norms, metadata)?;
        Ok(write_atomic(path, |file| file.write_all(&bytes))?)
    }
}

#[cfg(test)]
mod tests {
    use super::messages::{FLOAT, Graph, Tensor};
    use super::*;
    use slimtau_space::SearchSpace;
    use std::collections::BTreeSet;

    /// A pooled stem and, in stage 2, projections.
    const SPACE: &str = r#"
        name = "pooled"
        image_size = 13
        channels = 3
        classes = 4
        ratios = [1.0, 0.5]
        divisor = 2
        block = "basic"
        stem = { width = 8, kernel = 7, stride = 2, max_pool = true, codes = 2 }
        stage = [
            { width = 8, depth = [1, 2], stride = 1, codes = 2 },
            { width = 12, depth = [1, 2], stride = 2, codes = 2 },
        ]
    "#;

    /// A subnet's model, and its weights as a network of its own.
    fn model(norms: OnnxNorms) -> (Model, Weights, std::sync::Arc<Layout>) {
        let space = SearchSpace::from_toml(SPACE, "test").unwrap();
        let layout = Layout::supernet(&space).unwrap();
        let mut weights = Weights::init(&layout, 4);
        for (i, value) in weights.buffers.iter_mut().enumerate() {
            *value += 0.05 * (i % 11) as f32;
        }
        let arch = space.parse("21222122100").unwrap();
        let plan = Plan::subnet(&space, &layout, &arch).unwrap();
        let metadata = BTreeMap::from([("space".to_owned(), "pooled".to_owned())]);
        let bytes = weights.to_onnx(&plan, norms, &metadata).unwrap();
        let own = Layout::standalone(plan.network());
        (Model::decode(&bytes[..]).unwrap(), weights.extract(&plan, &own), own)
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        assert_eq!(tensor.data_type, FLOAT);
        let chunks = tensor.raw_data.chunks_exact(4);
        let values: Vec<f32> =
            chunks.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(values.len() as i64, tensor.dims.iter().product::<i64>(), "{}", tensor.name);
        values
    }

    #[test]
    fn a_model_says_what_it_is() {
        let (model, ..) = model(OnnxNorms::Folded);
        assert_eq!((model.ir_version, model.opset_import[0].version), (7, 13));
        assert_eq!(model.producer_name, "slimtau");
        let [Entry { key, value }] = &model.metadata_props[..] else { panic!("one entry") };
        assert_eq!((key.as_str(), value.as_str()), ("space", "pooled"));
        let graph = model.graph.unwrap();
        let shape = |info: &messages::ValueInfo| {
            let tensor = info.kind.clone().unwrap().tensor.unwrap();
            assert_eq!(tensor.elem_type, FLOAT);
            let dims = tensor.shape.unwrap().dim.into_iter();
            let dims = dims.map(|d| d.symbol.unwrap_or_else(|| d.value.unwrap().to_string()));
            format!("{} {}", info.name, dims.collect::<Vec<_>>().join(" "))
        };
        assert_eq!(graph.input.iter().map(shape).collect::<Vec<_>>(), ["images N 3 13 13"]);
        assert_eq!(graph.output.iter().map(shape).collect::<Vec<_>>(), ["logits N 4"]);
    }

    /// Every input is the images, a tensor, or what an earlier node made; nothing is named twice or of no use.
    fn check_wiring(graph: &Graph) {
        let mut known: BTreeSet<&str> = BTreeSet::from(["images"]);
        for tensor in &graph.initializer {
            assert!(known.insert(&tensor.name), "{} twice", tensor.name);
        }
        let (mut used, mut names) = (BTreeSet::new(), BTreeSet::new());
        for node in &graph.node {
            assert!(names.insert(&node.name), "{} twice", node.name);
            for input in &node.input {
                assert!(known.contains(input.as_str()), "{}: no {input}", node.name);
                used.insert(input.as_str());
            }
            for output in &node.output {
                assert!(known.insert(output), "{output} twice");
            }
        }
        let unused: Vec<_> = known.difference(&used).collect();
        assert_eq!(unused, [&"logits"]);
    }

    #[test]
    fn kept_norms_leave_every_tensor_as_the_checkpoint_has_it() {
        let (model, weights, layout) = model(OnnxNorms::Kept);
        let graph = model.graph.unwrap();
        check_wiring(&graph);
        let file = weights.to_file(&layout);
        assert_eq!(graph.initializer.len(), file.tensors.len());
        for tensor in &graph.initializer {
            let expected = &file.tensors[&tensor.name];
            let dims: Vec<usize> = tensor.dims.iter().map(|d| *d as usize).collect();
            assert_eq!(dims, expected.shape, "{}", tensor.name);
            assert_eq!(values(tensor), expected.data, "{}", tensor.name);
        }
        let count = |op| graph.node.iter().filter(|n| n.op_type == op).count();
        // Stem, three blocks of two, one projection.
        assert_eq!((count("Conv"), count("BatchNormalization")), (8, 8));
        assert_eq!((count("MaxPool"), count("Add"), count("Relu")), (1, 3, 7));
    }

    #[test]
    fn a_folded_norm_is_the_same_function_of_the_convolution() {
        let (model, weights, layout) = model(OnnxNorms::Folded);
        let graph = model.graph.unwrap();
        check_wiring(&graph);
        assert!(graph.node.iter().all(|n| n.op_type != "BatchNormalization"));
        let find = |name: &str| values(graph.initializer.iter().find(|t| t.name == name).unwrap());
        let file = weights.to_file(&layout);
        for (conv, norm) in
            [("blocks.0.conv", "blocks.0.bn"), ("blocks.3.downsample.0", "blocks.3.downsample.1")]
        {
            let (weight, bias) = (find(&format!("{conv}.weight")), find(&format!("{conv}.bias")));
            let plain = &file.tensors[&format!("{conv}.weight")].data;
            let of = |what: &str| &file.tensors[&format!("{norm}.{what}")].data;
            let taps = plain.len() / bias.len();
            for (o, bias) in bias.iter().enumerate() {
                // bn(w x) at a pixel where x is 1 in one place and 0 elsewhere, and where it is 0 everywhere.
                let bn = |y: f64| {
                    let y = (y - f64::from(of("running_mean")[o]))
                        / (f64::from(of("running_var")[o]) + 1e-5).sqrt();
                    y * f64::from(of("weight")[o]) + f64::from(of("bias")[o])
                };
                let close = |got: f64, want: f64| {
                    assert!((got - want).abs() <= 1e-6 * (1.0 + want.abs()), "{got} for {want}");
                };
                close(f64::from(*bias), bn(0.0));
                for i in o * taps..(o + 1) * taps {
                    close(f64::from(weight[i]) + f64::from(*bias), bn(f64::from(plain[i])));
                }
            }
        }
    }
}
