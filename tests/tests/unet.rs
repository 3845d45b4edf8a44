//! UNets against diffusers, on every backend, with passes and without.
//!
//! Expected values: `golden/tiny_unet.py`.

use std::path::{Path, PathBuf};

use limbeck::{BackendKind, Forward, Model, SessionOptions, TensorData, TensorValues, TensorView};
use limbeck_compiler::{Options, Quant, compile};
use limbeck_tests::{Compiled, Npz, golden, relative_error};
use serde_json::{Value, json};

const NAMES: &[&str] = &["attention", "patches", "plain"];
const BACKENDS: &[BackendKind] = &[BackendKind::Fake, BackendKind::Cpu];

fn source(name: &str) -> PathBuf {
    golden().join("unet").join(name)
}

/// A call and its result.
struct Call {
    sample: (Vec<usize>, Vec<f32>),
    timestep: Vec<f32>,
    classes: Option<Vec<i64>>,
    out: Vec<f32>,
}

impl Call {
    fn of(name: &str) -> Call {
        let mut npz = Npz::open(&source(name).join("expected.npz"));
        let classes = npz.names().iter().any(|name| name == "class_labels");
        Call {
            sample: npz.floats("sample"),
            timestep: npz.floats("timestep").1,
            classes: classes.then(|| npz.integers("class_labels").1),
            out: npz.floats("out_sample").1,
        }
    }

    fn run(&self, model: &Model) -> Result<Vec<f32>, String> {
        let view = |name, shape, data| TensorView { name, shape, data };
        let batch = [self.timestep.len()];
        let mut inputs = vec![
            view("sample", &self.sample.0, TensorData::F32(&self.sample.1)),
            view("timestep", &batch, TensorData::F32(&self.timestep)),
        ];
        if let Some(classes) = &self.classes {
            inputs.push(view("class_labels", &batch, TensorData::I64(classes)));
        }
        let mut forward = Forward::new(model, SessionOptions::default()).expect("a runner");
        let (found, _) = forward.run(&inputs).map_err(|e| e.to_string())?;
        let [out] = &found[..] else { panic!("{} outputs", found.len()) };
        let TensorValues::F32(values) = &out.values else { panic!("integers") };
        assert_eq!((&*out.name, &out.shape), ("out_sample", &self.sample.0));
        Ok(values.clone())
    }
}

#[test]
fn networks_give_the_samples_of_diffusers() {
    for name in NAMES {
        let call = Call::of(name);
        for passes in [false, true] {
            let plan = Compiled::new(&source(name), Quant::F32, passes);
            for &backend in BACKENDS {
                let found = call.run(&plan.open(backend, 2)).unwrap_or_else(|e| panic!("{e}"));
                let error = relative_error(&found, &call.out);
                let case = format!("{name}, passes {passes}, {backend:?}");
                println!("{case}: relative error {error:.2e}");
                assert!(error <= 1e-5, "{case}: relative error {error:.2e}");
            }
        }
    }
}

#[test]
fn heads_of_no_size_have_that_of_diffusers() {
    let (call, folder) = (Call::of("plain"), tempfile::tempdir().expect("a temporary folder"));
    let weights = "diffusion_pytorch_model.safetensors";
    std::fs::copy(source("plain").join(weights), folder.path().join(weights)).expect("a copy");
    let bytes = std::fs::read(source("plain").join("config.json")).expect("a file");
    let mut config: Value = serde_json::from_slice(&bytes).expect("JSON");
    let error = |config: &Value| {
        write(folder.path(), config);
        let plan = Compiled::new(folder.path(), Quant::F32, true);
        relative_error(&call.run(&plan.open(BackendKind::Cpu, 1)).expect("a run"), &call.out)
    };
    config["attention_head_dim"] = Value::Null;
    assert!(error(&config) > 1e-4, "one head is another network");
    config.as_object_mut().expect("an object").remove("attention_head_dim");
    assert!(error(&config) <= 1e-5);
}

#[test]
fn a_class_that_does_not_exist_is_refused() {
    let call = Call { classes: Some(vec![0, 5]), ..Call::of("plain") };
    let plan = Compiled::new(&source("plain"), Quant::F32, true);
    let e = call.run(&plan.open(BackendKind::Cpu, 1)).expect_err("refused");
    assert!(e.contains("class_embedding"), "{e}");
}

/// A golden with another configuration.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Result<PathBuf, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let weights = "diffusion_pytorch_model.safetensors";
    std::fs::copy(source(name).join(weights), folder.path().join(weights)).expect("a copy");
    let bytes = std::fs::read(source(name).join("config.json")).expect("a file");
    let mut config = serde_json::from_slice(&bytes).expect("JSON");
    change(&mut config);
    write(folder.path(), &config);
    let output = folder.path().join("student.lbk");
    compile(&Options::new(folder.path(), &output, Quant::F32), &mut |_, _, _| {})
        .map(|_| output)
        .map_err(|e| e.to_string())
}

fn write(folder: &Path, config: &Value) {
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a written file");
}

#[test]
fn configurations_that_do_not_fit_are_refused_by_key() {
    for (key, value, words) in [
        ("_class_name", json!("UNet3DModel"), "UNet3DModel"),
        ("time_embedding_type", json!("fourier"), "fourier"),
        ("resnet_time_scale_shift", json!("scale_shift"), "resnet_time_scale_shift"),
        ("downsample_type", json!("resnet"), "downsample_type"),
        ("mid_block_scale_factor", json!(2.0), "mid_block_scale_factor"),
        ("center_input_sample", json!(true), "center_input_sample"),
        ("sample_size", json!(null), "sample_size"),
        ("sample_size", json!([8, 0]), "sample_size"),
        ("sample_size", json!(u64::MAX), "sample_size"),
        ("sample_size", json!([7, 8]), "up_blocks.1.resnets.0.concat"),
        ("patch_size", json!(2), "patch_size"),
        ("patch_size", json!(1 << 27), "patch_size"),
        ("block_out_channels", json!([]), "block_out_channels"),
        ("block_out_channels", json!([8, u64::MAX]), "block_out_channels"),
        ("block_out_channels", json!([7, 16]), "block_out_channels"),
        ("block_out_channels", json!([8, 12]), "down_blocks.1"),
        ("down_block_types", json!(["DownBlock2D"]), "down_block_types"),
        ("up_block_types", json!(["UpBlock2D", "CrossAttnUpBlock2D"]), "CrossAttnUpBlock2D"),
        ("layers_per_block", json!(2), "down_blocks.0.resnets.1"),
        ("layers_per_block", json!(1 << 20), "layers_per_block"),
        ("attention_head_dim", json!(0), "mid_block.attentions.0"),
        ("attention_head_dim", json!(5), "mid_block.attentions.0"),
        ("attn_norm_num_groups", json!(4), "attn_norm_num_groups"),
        ("norm_num_groups", json!(3), "groups"),
        ("num_class_embeds", json!(6), "class_embedding"),
        ("num_class_embeds", json!(null), "class_embedding"),
        ("class_embed_type", json!("timestep"), "class_embed_type"),
        ("freq_shift", json!(4), "block_out_channels"),
        ("add_attention", json!(false), "mid_block.attentions.0"),
        ("act_fn", json!("mish"), "act_fn"),
        ("downsample_padding", json!(1u64 << 40), "downsamplers.0"),
        ("down_blocks", json!(3), "down_blocks"),
    ] {
        let message = changed("plain", |config| config[key] = value.clone());
        let message = message.err().unwrap_or_else(|| panic!("{key} {value} is taken"));
        assert!(message.contains(words), "{key} {value}: {message}");
    }
}
