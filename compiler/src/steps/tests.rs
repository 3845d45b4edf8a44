use std::collections::BTreeSet;

use limbeck_graph::Graph;
use limbeck_models::Student;
use limbeck_plan::{DType, Dim, Manifest, Map, MapStep, Op, Sampler, Site, SiteKind, Task};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Declaration, declare};
use crate::error::Result;

/// `tests/golden/steps.py`.
#[derive(Deserialize)]
struct Golden {
    noise: Vec<Vec<f64>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    declaration: Value,
    steps: usize,
    samples: Vec<Vec<f64>>,
}

/// A student of tensors: its inputs by name and rank, and an output of the first one's shape.
fn student(inputs: &[(&str, usize)]) -> Student {
    let mut graph = Graph::new();
    let sizes = [Dim::symbol("batch"), Dim::from(1usize), Dim::from(8usize), Dim::from(8usize)];
    let ids: Vec<usize> = inputs
        .iter()
        .map(|(name, rank)| graph.input(name, DType::F32, sizes[..*rank].to_vec()))
        .collect();
    let copy = Op::Map(Map { inputs: 1, steps: vec![MapStep::Input(0)] });
    let copied = graph.node("copy", copy, &ids[..1]).unwrap();
    graph.output("denoised", copied);
    Student {
        architecture: "onnx".into(),
        task: Task::Tensors,
        context_length: 1,
        vocab_size: 0,
        embedding_size: 0,
        entries: vec![(Manifest::TENSORS_ENTRY.into(), graph)],
        notes: Vec::new(),
    }
}

fn lay(declaration: &Value, student: &mut Student) -> Result<(Sampler, Site)> {
    Declaration::read(declaration, &BTreeSet::new())?.lay_on(student)
}

/// The golden's model.
fn model(x: &[f64], t: f64, r: f64) -> Vec<f64> {
    let wave = |index: usize| 0.1 * (0.01 * t + 0.02 * r + index as f64).cos();
    x.iter().enumerate().map(|(index, x)| 0.9 * (0.5 * x).tanh() + wave(index)).collect()
}

fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    let square = |v: f64| v * v;
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (error / expected.iter().map(|b| square(*b)).sum::<f64>()).sqrt()
}

#[test]
fn steps_make_what_the_schedulers_of_diffusers_make() {
    let golden: Golden =
        serde_json::from_str(include_str!("../../../tests/golden/steps.json")).unwrap();
    assert!(golden.cases.len() > 140);
    let mut worst = 0.0f64;
    for case in &golden.cases {
        let (sampler, _) = lay(&case.declaration, &mut student(&[("x", 4), ("t", 1)]))
            .unwrap_or_else(|e| panic!("{}: {e}", case.declaration));
        let table = sampler.table(case.steps).unwrap();
        let mut x: Vec<f64> = golden.noise[0].iter().map(|z| z * table.start).collect();
        for (at, row) in table.rows.iter().enumerate() {
            let given: Vec<f64> = x.iter().map(|x| x * row.input_scale).collect();
            let out = model(&given, row.t_model, row.r_model);
            for ((x, out), z) in x.iter_mut().zip(out).zip(&golden.noise[at + 1]) {
                let mean = row.a * *x + row.b * out;
                *x = row.clip.map_or(mean, |clip| mean.clamp(-clip, clip)) + row.c * z;
            }
            let error = relative_error(&x, &case.samples[at]);
            let declaration = &case.declaration;
            assert!(error <= 1e-5, "{declaration}, step {at}: relative error {error:.2e}");
            worst = worst.max(error);
        }
        assert_eq!(table.rows.len(), case.samples.len());
    }
    println!("{} cases, relative error at most {worst:.2e}", golden.cases.len());
}

#[test]
fn names_are_found_in_the_graph() {
    let mut student = student(&[("noisy", 4), ("sigma", 1), ("difficulty", 1)]);
    let declaration = json!({
        "scheduler": {"rule": "consistency", "output": "denoised", "time": "sigma"},
        "conditions": {"difficulty": {"least": 0, "most": 1}},
    });
    let (sampler, site) = lay(&declaration, &mut student).unwrap();
    assert_eq!((student.task, student.entries[0].0.as_str()), (Task::Diffuse, "denoise"));
    assert_eq!((sampler.sample.as_str(), sampler.output.as_str()), ("noisy", "denoised"));
    assert_eq!(sampler.time.as_deref(), Some("sigma"));
    assert_eq!(sampler.conditions.len(), 1);
    assert_eq!((sampler.conditions[0].default, sampler.conditions[0].most), (None, Some(1.0)));
    assert_eq!(sampler.counts().collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(
        (site.kind, site.first, site.costs),
        (SiteKind::Steps, 1, vec![0.25, 0.5, 0.75, 1.0])
    );
    // The first level of all tables is the largest, and the student says x0 itself.
    for table in &sampler.tables {
        let row = &table.rows[0];
        assert!((table.start - 80.0).abs() < 1e-9 && (row.t_model - 80.0).abs() < 1e-9);
        assert_eq!((row.a, row.b, row.clip), (0.0, 1.0, Some(1.0)));
        assert_eq!(table.rows.last().unwrap().c, 0.0);
    }
    assert!(sampler.tables.is_sorted_by(|a, b| a.gain < b.gain));
}

#[test]
fn declared_steps_and_names_are_kept() {
    let declaration = json!({
        "scheduler": {"rule": "renoise", "timesteps": [[999, 749, 499, 249], [399]]},
        "sample": "x", "output": "denoised", "time": "when", "second_time": "until",
        "guidance": "w", "guidance_value": 2.5, "values": [0, 255], "gains": [0.5, 0.75],
    });
    let mut student = student(&[("x", 4), ("when", 1), ("until", 1), ("w", 1)]);
    let (sampler, _) = lay(&declaration, &mut student).unwrap();
    assert_eq!(sampler.counts().collect::<Vec<_>>(), [1, 4]);
    let times = |n: usize| -> Vec<f64> {
        sampler.table(n).unwrap().rows.iter().map(|row| row.t_model).collect()
    };
    assert_eq!((times(1), times(4)), (vec![399.0], vec![999.0, 749.0, 499.0, 249.0]));
    assert_eq!((sampler.tables[1].gain, sampler.tables[1].rows[0].guidance), (0.75, 2.5));
    assert_eq!((sampler.values, sampler.conditions.len()), ([0.0, 255.0], 0));
}

#[test]
fn what_is_declared_of_a_sampler_makes_it_again() {
    let sampled = [
        json!({
            "scheduler": {"rule": "renoise", "timesteps": [[999, 749, 499, 249], [399]]},
            "sample": "x", "time": "when", "second_time": "until", "guidance": "w",
            "guidance_value": 2.5, "values": [0, 255], "gains": [0.5, 0.75],
        }),
        json!({
            "scheduler": {"rule": "renoise", "clip_sample": true}, "steps": [1, 2, 5],
            "conditions": {"w": {"default": 0.1, "least": -1, "most": 1}, "until": {"least": 0}},
        }),
        json!({"scheduler": {"rule": "edm"}}),
    ];
    for declaration in sampled {
        let student = || student(&[("x", 4), ("t", 1), ("when", 1), ("until", 1), ("w", 1)]);
        let (sampler, site) = lay(&declaration, &mut student()).unwrap();
        let declared = declare(&sampler).unwrap().to_string();
        let (again, same) = lay(&serde_json::from_str(&declared).unwrap(), &mut student()).unwrap();
        assert_eq!((&*again.rule, same), ("table", site));
        assert_eq!(Sampler { rule: sampler.rule.clone(), ..again }, sampler);
    }
    let declaration = json!({"scheduler": {"rule": "edm"}, "guidance": "w"});
    let (mut sampler, _) = lay(&declaration, &mut student(&[("x", 4), ("w", 1)])).unwrap();
    sampler.tables[1].rows[1].guidance = 1.0;
    assert!(declare(&sampler).unwrap_err().to_string().contains("differ in their guidance"));
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let cases = [
        (json!([]), "not a JSON object"),
        (json!({}), "no scheduler whose rule is one of"),
        (json!({"steps": [1]}), "no scheduler whose rule is one of"),
        (json!({"scheduler": {"rule": "dpm"}}), "rule \"dpm\""),
        (json!({"_class_name": "DDIMScheduler"}), "rule \"DDIMScheduler\""),
        (json!({"_class_name": "LCMScheduler", "warp": 9}), "\"scheduler.warp\"|\"warp\""),
        (json!({"_class_name": "LCMScheduler", "thresholding": true}), "thresholding"),
        (json!({"_class_name": "LCMScheduler", "trained_betas": [0.1]}), "trained_betas"),
        (json!({"_class_name": "LCMScheduler", "beta_schedule": "sigmoid"}), "sigmoid"),
        (json!({"_class_name": "LCMScheduler", "beta_end": 2}), "betas"),
        (json!({"_class_name": "LCMScheduler", "prediction_type": "flow"}), "prediction_type"),
        (
            json!({"_class_name": "LCMScheduler", "original_inference_steps": 0}),
            "original_inference",
        ),
        (json!({"_class_name": "TCDScheduler", "eta": 2}), "eta"),
        (json!({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": true}), "karras"),
        (
            json!({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true}),
            "use_dynamic_shifting",
        ),
        (json!({"scheduler": {"rule": "flow_match", "shift": -1}}), "shift"),
        (json!({"scheduler": {"rule": "flow_match", "sigmas": [0.5, 1.0]}}), "sigmas"),
        (json!({"scheduler": {"rule": "flow_match", "sigmas": [[1], [0.5]]}}), "sigmas"),
        (json!({"scheduler": {"rule": "flow_match"}, "steps": [2, 1]}), "rising"),
        (json!({"scheduler": {"rule": "flow_match"}, "steps": []}), "rising"),
        (json!({"scheduler": {"rule": "flow_match"}, "steps": [0]}), "1 to 1024"),
        (json!({"scheduler": {"rule": "flow_match"}, "gains": [1]}), "1 gains"),
        (json!({"scheduler": {"rule": "flow_match"}, "sampel": "x"}), "sampel"),
        (json!({"scheduler": {"rule": "flow_match"}, "sample": "z"}), "no input \"z\""),
        (json!({"scheduler": {"rule": "flow_match"}, "time": "z"}), "no input \"z\""),
        (json!({"scheduler": {"rule": "flow_match"}, "output": "z"}), "no output"),
        (json!({"scheduler": {"rule": "flow_match"}, "conditions": {"z": {}}}), "no input \"z\""),
        (json!({"scheduler": {"rule": "lcm"}, "steps": [51]}), "51 steps"),
        (json!({"scheduler": {"rule": "lcm", "timesteps": [1200]}}), "timestep 1200"),
        (json!({"scheduler": {"rule": "lcm", "timesteps": [9]}, "steps": [2]}), "schedule of 2"),
        (json!({"scheduler": {"rule": "consistency"}, "steps": [41]}), "41 steps"),
        (json!({"scheduler": {"rule": "consistency", "sigma_min": 100}}), "sigma_min"),
        (json!({"scheduler": {"rule": "trigflow", "timesteps": [3.0]}}), "pi/2"),
        (json!({"scheduler": {"rule": "table"}}), "no tables"),
        (json!({"scheduler": {"rule": "table", "tables": [{"start": 1}]}}), "tables"),
        (json!({"scheduler": {"rule": "table", "tables": [{"start": 1, "steps": []}]}}), "rising"),
        (
            json!({"scheduler": {"rule": "table", "tables": [
                {"start": 1, "steps": [{"t": 1, "a": 1, "b": 1}]},
            ]}, "steps": [2]}),
            "no table of 2 steps",
        ),
    ];
    for (declaration, words) in cases {
        let e = lay(&declaration, &mut student(&[("x", 4), ("t", 1)])).unwrap_err().to_string();
        assert!(words.split('|').any(|words| e.contains(words)), "{declaration}: {e}");
    }
}

#[test]
fn a_student_that_does_not_denoise_takes_no_sampler() {
    let declaration = json!({"scheduler": {"rule": "flow_match"}});
    let mut text = student(&[("x", 4)]);
    text.task = Task::Text;
    assert!(lay(&declaration, &mut text).is_err());
    let e = lay(&declaration, &mut student(&[("x", 1)])).unwrap_err().to_string();
    assert!(e.contains("shape of an input"), "{e}");
}
