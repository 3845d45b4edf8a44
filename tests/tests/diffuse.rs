//! Students that denoise: samples against ONNX Runtime and numpy, budgets, and what a caller may do.
//!
//! Expected values: `golden/samples.py`.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use limbeck::plan::{Plan, SiteKind, Task};
use limbeck::{
    BackendKind, Budget, DiffuseOptions, Diffuser, Diffusion, ErrorKind, Forward, Limits,
    SessionOptions, TensorData, TensorView, Unmet,
};
use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, Npz, golden, relative_error, student};

const SEED: u64 = 7;
const STEPS: [usize; 3] = [1, 2, 4];
/// Every so many-th value of the real student's samples is kept.
const STRIDE: usize = 13;

fn denoiser() -> Compiled {
    Compiled::new(&golden().join("diffusion/denoiser.onnx"), Quant::F32, true)
}

fn diffuser(compiled: &Compiled, backend: BackendKind, threads: usize) -> Diffuser {
    Diffuser::new(&compiled.open(backend, threads)).unwrap_or_else(|e| panic!("{e}"))
}

fn make(diffuser: &mut Diffuser, options: &DiffuseOptions<'_>) -> Diffusion {
    diffuser.diffuse(options, |_| ControlFlow::Continue(())).unwrap_or_else(|e| panic!("{e}"))
}

fn options(steps: usize, samples: usize) -> DiffuseOptions<'static> {
    let numbers = &[("level", 0.25)];
    DiffuseOptions { samples, seed: SEED, steps: Some(steps), numbers, ..Default::default() }
}

#[test]
fn samples_are_those_of_onnx_runtime_in_any_number_of_steps() {
    let mut npz = Npz::open(&golden().join("diffusion/denoiser.npz"));
    let compiled = denoiser();
    for backend in [BackendKind::Cpu, BackendKind::Fake] {
        let mut diffuser = diffuser(&compiled, backend, 2);
        assert_eq!((diffuser.shape(), diffuser.counts()), (vec![1, 8, 8], STEPS.to_vec()));
        for steps in STEPS {
            let (shape, expected) = npz.floats(&steps.to_string());
            let found = make(&mut diffuser, &options(steps, 3));
            assert_eq!((found.shape, found.steps), (shape, steps));
            let error = relative_error(&found.values, &expected);
            println!("{backend:?}, {steps} steps: relative error {error:.2e}");
            assert!(error <= 1e-4, "{backend:?}, {steps} steps: relative error {error:.2e}");
        }
    }
}

#[test]
fn a_real_student_makes_what_it_makes_elsewhere() {
    let Some(source) = student("terrain/terrain_consistency_unet_difficulty100.onnx") else {
        return;
    };
    let mut npz = Npz::open(&golden().join("diffusion/terrain.npz"));
    let compiled = Compiled::new(&source, Quant::Keep, true);
    let mut diffuser = diffuser(&compiled, BackendKind::Cpu, 2);
    for difficulty in ["0.0", "0.5", "1.0"] {
        for steps in STEPS {
            let numbers = [("difficulty", difficulty.parse().expect("a number"))];
            let options = DiffuseOptions { numbers: &numbers, ..options(steps, 1) };
            let found = make(&mut diffuser, &options);
            let found: Vec<f32> = found.values.into_iter().step_by(STRIDE).collect();
            let error = relative_error(&found, &npz.floats(&format!("{difficulty}.{steps}")).1);
            println!("difficulty {difficulty}, {steps} steps: relative error {error:.2e}");
            assert!(error <= 1e-4, "{difficulty}, {steps} steps: relative error {error:.2e}");
        }
    }
}

#[test]
fn a_sample_is_the_same_alone_in_a_batch_and_on_any_number_of_threads() {
    let compiled = denoiser();
    let together = make(&mut diffuser(&compiled, BackendKind::Cpu, 1), &options(4, 3)).values;
    for threads in [1, 2, 3] {
        let mut diffuser = diffuser(&compiled, BackendKind::Cpu, threads);
        for (seed, expected) in (SEED..).zip(together.chunks(64)) {
            let found = make(&mut diffuser, &DiffuseOptions { seed, ..options(4, 1) }).values;
            assert_eq!(found, expected, "{threads} threads, seed {seed}");
        }
        assert_ne!(
            make(&mut diffuser, &DiffuseOptions { seed: 1, ..options(4, 1) }).values,
            together[..64]
        );
    }
}

#[test]
fn a_plan_says_its_sampler_and_runs_as_tensors_too() {
    let compiled = denoiser();
    let bytes = std::fs::read(compiled.path()).expect("the plan");
    let plan = Plan::parse(&bytes).expect("a plan");
    assert_eq!(plan.manifest().task, Task::Diffuse);
    let sampler = plan.program().sampler.as_ref().expect("a sampler");
    let site = &plan.program().sites[sampler.site];
    assert_eq!((site.kind, site.first, site.last()), (SiteKind::Steps, 1, 4));
    let mut forward = Forward::new(&compiled.open(BackendKind::Cpu, 1), SessionOptions::default())
        .expect("a task");
    assert_eq!(forward.interface().entry, "denoise");
    let (noisy, one) = (vec![0.25f32; 64], [0.5f32]);
    let view = |name, shape, data| TensorView { name, shape, data: TensorData::F32(data) };
    let inputs = [
        view("noisy", &[1, 1, 8, 8][..], &noisy[..]),
        view("sigma", &[1], &one),
        view("level", &[1], &one),
    ];
    let (outputs, _) = forward.run(&inputs).expect("a run");
    assert_eq!((outputs.len(), &*outputs[0].name), (1, "denoised"));
}

#[test]
fn budgets_choose_the_number_of_steps() {
    let compiled = denoiser();
    let long = Duration::from_secs(600);
    let short = Duration::from_nanos(1);
    let cases = [
        (Budget::Full, (0.0, 1.0), 4, None),
        (Budget::Full, (0.0, 0.5), 2, None),
        (Budget::Fraction(0.5), (0.0, 1.0), 2, None),
        (Budget::Fraction(0.1), (0.0, 1.0), 1, Some(Unmet::Reach)),
        (Budget::Price(1.0), (0.0, 1.0), 2, None),
        (Budget::Price(3.0), (0.0, 1.0), 1, None),
        (Budget::Deadline(long), (0.0, 1.0), 4, None),
        (Budget::Latency(long), (0.0, 0.5), 2, None),
        (Budget::Deadline(short), (0.0, 1.0), 1, Some(Unmet::Time)),
        (Budget::Deadline(short), (0.5, 1.0), 2, Some(Unmet::Time)),
    ];
    for (budget, (floor, ceiling), steps, unmet) in cases {
        let mut diffuser = diffuser(&compiled, BackendKind::Cpu, 1);
        let limits = Limits { floor, ceiling };
        diffuser.control().set_budget(budget, limits).expect("a budget");
        // The first call times its first step, later ones know.
        for call in 0..2 {
            let found = make(&mut diffuser, &DiffuseOptions { steps: None, ..options(1, 2) });
            assert_eq!((found.steps, found.usage.unmet), (steps, unmet), "{budget}, call {call}");
            let usage = found.usage;
            assert_eq!(usage.tokens, 2);
            assert!((usage.fraction - steps as f64 / 4.0).abs() < 1e-9, "{usage:?}");
            assert_eq!(usage.site_fraction, Some(usage.fraction));
            let mut histogram = vec![0; 5];
            histogram[steps] = 2;
            assert_eq!((&*usage.sites[0].name, &usage.sites[0].histogram), ("steps", &histogram));
            let status = diffuser.status();
            assert_eq!((status.unmet, status.target), (unmet, steps as f64 / 4.0), "{budget}");
        }
    }
}

/// Whichever number of steps a deadline leads to, it is that of the table.
#[test]
fn a_first_call_within_a_deadline_makes_the_sample_of_its_number_of_steps() {
    let compiled = denoiser();
    let mut timed = diffuser(&compiled, BackendKind::Cpu, 1);
    let budget = Budget::Deadline(Duration::from_secs(600));
    timed.control().set_budget(budget, Limits::default()).expect("a budget");
    let found = make(&mut timed, &DiffuseOptions { steps: None, ..options(1, 1) });
    let expected = make(&mut diffuser(&compiled, BackendKind::Cpu, 1), &options(4, 1));
    assert_eq!((found.steps, found.values), (4, expected.values));
}

#[test]
fn progress_is_told_after_each_step_and_may_end_the_call() {
    let mut diffuser = diffuser(&denoiser(), BackendKind::Cpu, 1);
    let mut told = Vec::new();
    let found = diffuser.diffuse(&options(4, 2), |p| {
        assert_eq!(p.samples.len(), 128);
        told.push((p.done, p.of));
        ControlFlow::Continue(())
    });
    assert_eq!((found.expect("samples").steps, told), (4, vec![(1, 4), (2, 4), (3, 4), (4, 4)]));
    let e = diffuser.diffuse(&options(4, 1), |p| match p.done {
        2 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    let e = e.expect_err("an end");
    assert_eq!(e.kind(), ErrorKind::Cancelled, "{e}");
    assert!(e.to_string().contains("2 of 4"), "{e}");

    let control = diffuser.control();
    let mut steps = 0;
    let e = diffuser.diffuse(&options(4, 1), |_| {
        steps += 1;
        control.cancel();
        ControlFlow::Continue(())
    });
    assert_eq!((e.expect_err("an end").kind(), steps), (ErrorKind::Cancelled, 1));
    control.reset();
    make(&mut diffuser, &options(1, 1));
}

#[test]
fn memory_is_counted_and_limited() {
    let compiled = denoiser();
    let model = compiled.open(BackendKind::Cpu, 1);
    let mut free = Diffuser::new(&model).expect("a diffuser");
    make(&mut free, &options(1, 4));
    let mut limited = Diffuser::with_limit(&model, 2048 + 256 * 4 * 2).expect("a diffuser");
    let e = limited.diffuse(&options(1, 64), |_| ControlFlow::Continue(())).expect_err("a limit");
    assert_eq!(e.kind(), ErrorKind::Memory, "{e}");
    assert!(free.memory_used() > 0);
}

#[test]
fn what_a_call_cannot_mean_is_refused_by_name() {
    let mut diffuser = diffuser(&denoiser(), BackendKind::Cpu, 1);
    let mut refuse = |options: DiffuseOptions<'_>, words: &[&str]| {
        let e = diffuser.diffuse(&options, |_| ControlFlow::Continue(())).expect_err("a refusal");
        assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}");
        words.iter().for_each(|w| assert!(e.to_string().contains(w), "{w}: {e}"));
    };
    refuse(DiffuseOptions { samples: 0, ..options(1, 1) }, &["0 samples"]);
    refuse(DiffuseOptions { samples: 1 << 20, ..options(1, 1) }, &["samples"]);
    refuse(options(3, 1), &["3 steps", "1, 2, 4"]);
    let with = |numbers| DiffuseOptions { numbers, ..options(1, 1) };
    refuse(with(&[("levle", 0.5)]), &["\"levle\"", "only level"]);
    refuse(with(&[("noisy", 0.5)]), &["\"noisy\""]);
    refuse(with(&[("level", 0.5), ("level", 0.5)]), &["given twice"]);
    for bad in [-0.1, 1.5, f64::NAN, f64::INFINITY] {
        refuse(
            DiffuseOptions { numbers: &[("level", bad)], ..options(1, 1) },
            &["level", "0 to 1"],
        );
    }
    let (shape, bad, short) = ([1], [2.0f32], []);
    let tensor = |shape, data| TensorView { name: "level", shape, data: TensorData::F32(data) };
    let none = DiffuseOptions { numbers: &[], ..options(1, 1) };
    refuse(DiffuseOptions { tensors: &[tensor(&shape, &bad)], ..none }, &["level", "0 to 1"]);
    refuse(DiffuseOptions { tensors: &[tensor(&shape, &short)], ..none }, &["level"]);
    let two = [0.25f32, 0.25];
    refuse(DiffuseOptions { tensors: &[tensor(&[2], &two)], ..none }, &["level"]);
    // As a tensor, a condition may differ from sample to sample; its default is 0.5.
    let levels = [0.25f32, 0.5];
    let options = DiffuseOptions { samples: 2, tensors: &[tensor(&[2], &levels)], ..none };
    let both = make(&mut diffuser, &options).values;
    let second = DiffuseOptions { seed: SEED + 1, ..none };
    assert_eq!(both[64..], make(&mut diffuser, &second).values);
}

#[test]
fn only_a_student_that_denoises_is_opened() {
    let compiled = Compiled::new(&golden().join("tiny/llama"), Quant::F32, true);
    let e = Diffuser::new(&compiled.open(BackendKind::Cpu, 1)).err().expect("a refusal");
    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
}

/// What lies beside a model is read before what stands in it.
#[test]
fn a_declaration_is_found_beside_the_model_or_given() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("small.onnx");
    std::fs::copy(golden().join("diffusion/denoiser.onnx"), &model).expect("a copy");
    let counts = |given: Option<&Path>| {
        let plan = folder.path().join("student.lbk");
        let sampler = given.map(Path::to_path_buf);
        let quant = Quant::F32;
        let options = limbeck_compiler::Options {
            sampler,
            ..limbeck_compiler::Options::new(&model, &plan, quant)
        };
        limbeck_compiler::compile(&options, &mut |_, _, _| {}).map_err(|e| e.to_string())?;
        let bytes = std::fs::read(&plan).expect("the plan");
        let plan = Plan::parse(&bytes).expect("a plan");
        let sampler = plan.program().sampler.clone().expect("a sampler");
        Ok::<_, String>((sampler.rule.clone(), sampler.counts().collect::<Vec<_>>()))
    };
    let found = |rule: &str, counts: &[usize]| Ok((rule.to_owned(), counts.to_vec()));
    assert_eq!(counts(None), found("consistency", &[1, 2, 4]));
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    write("scheduler_config.json", r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#);
    assert_eq!(counts(None), found("flow_match", &[1, 2, 4]));
    write("sampler.json", r#"{"scheduler": {"rule": "edm"}, "steps": [3]}"#);
    assert_eq!(counts(None), found("edm", &[3]));
    write("small.sampler.json", r#"{"scheduler": {"rule": "renoise", "timesteps": [9]}}"#);
    assert_eq!(counts(None), found("renoise", &[1]));
    let other = write("other.json", r#"{"scheduler": {"rule": "lcm"}, "steps": [2]}"#);
    assert_eq!(counts(Some(&other)), found("lcm", &[2]));
    let broken = write("broken.json", "{");
    assert!(counts(Some(&broken)).unwrap_err().contains("broken.json"));
    assert!(counts(Some(&folder.path().join("no.json"))).unwrap_err().contains("no.json"));
    let wrong = write("wrong.json", r#"{"scheduler": {"rule": "lcm"}, "time": "when"}"#);
    assert!(counts(Some(&wrong)).unwrap_err().contains("\"when\""));
}

/// A pipeline of diffusers has its scheduler in a folder of its own, which is named.
#[test]
fn a_declaration_out_of_the_models_folder_is_read_where_it_is_given_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let of = |name: &str| folder.path().join(name);
    for name in ["unet", "scheduler"] {
        std::fs::create_dir(of(name)).expect("a folder");
    }
    std::fs::copy(golden().join("diffusion/denoiser.onnx"), of("unet/model.onnx")).expect("a copy");
    let declared = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#;
    let scheduler = of("scheduler/scheduler_config.json");
    std::fs::write(&scheduler, declared).expect("a file");
    let rule = |given: Option<&Path>| {
        let mut options =
            limbeck_compiler::Options::new(of("unet/model.onnx"), of("plan.lbk"), Quant::F32);
        options.sampler = given.map(Path::to_path_buf);
        limbeck_compiler::compile(&options, &mut |_, _, _| {}).map_err(|e| e.to_string())?;
        let bytes = std::fs::read(of("plan.lbk")).expect("the plan");
        let plan = Plan::parse(&bytes).expect("a plan");
        Ok::<_, String>(plan.program().sampler.clone().expect("a sampler").rule)
    };
    // The model's own.
    assert_eq!(rule(None).as_deref(), Ok("consistency"));
    assert_eq!(rule(Some(&scheduler)).as_deref(), Ok("flow_match"));
    #[cfg(unix)]
    for name in ["model.sampler.json", "sampler.json", "scheduler_config.json"] {
        let link = of("unet").join(name);
        std::os::unix::fs::symlink(&scheduler, &link).expect("a link");
        let e = rule(None).expect_err("refused");
        assert!(e.contains(&format!("{name}: the path leaves the model's folder")), "{e}");
        std::fs::remove_file(&link).expect("removed");
    }
}
