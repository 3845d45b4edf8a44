//! Budgets, what they spend, and the choices that they lead to.

use std::ops::ControlFlow;
use std::time::Duration;

use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, Npz, golden, relative_error};
use runtime::text::GenerateOptions;
use runtime::{
    Budget, ErrorKind, KvFormat, Limits, SessionOptions, Settings, Unmet, Usage, Wanted,
};

use crate::api::{ControlApi, GenerationApi, ModelApi, SessionApi};
use crate::{both, fails, logits, open, session, step, tiny, work};

both!(
    budgets_stay_as_they_were_set_and_wrong_ones_are_refused,
    a_dense_student_reports_budgets_that_it_cannot_keep,
    prices_spend_less_and_usage_counts_what_the_routes_say,
    a_fraction_is_kept_and_a_floor_above_it_is_reported,
    forced_routes_give_the_logits_of_pytorch,
    wrong_routes_are_refused_and_change_nothing,
);

fn set<S: SessionApi>(session: &S, budget: Budget) {
    assert!(session.control().set_budget(budget, Limits::default()), "{budget}");
}

fn budgets_stay_as_they_were_set_and_wrong_ones_are_refused<M: ModelApi>() {
    let (plan, _) = tiny();
    let session = session(&open::<M>(&plan, 1));
    let (control, same) = (session.control(), session.control());
    let held = |settings: Settings| (settings.budget, settings.limits);
    assert_eq!(held(control.settings()), (Budget::Full, Limits::default()));
    let limits = Limits { floor: 0.25, ceiling: 0.75 };
    for budget in [
        Budget::Fraction(0.5),
        Budget::Price(2.5),
        Budget::Latency(Duration::from_millis(250)),
        Budget::Deadline(Duration::from_secs(3)),
        Budget::Full,
    ] {
        assert!(control.set_budget(budget, limits));
        assert_eq!(held(same.settings()), (budget, limits));
    }
    let wrong_budgets = [0.0, -0.5, 1.5, f64::NAN].map(Budget::Fraction);
    let wrong_prices = [-1.0, f64::NAN, f64::INFINITY].map(Budget::Price);
    for wrong in wrong_budgets.into_iter().chain(wrong_prices) {
        assert!(!control.set_budget(wrong, Limits::default()), "{wrong:?}");
    }
    for (floor, ceiling) in [(0.6, 0.5), (-0.1, 1.0), (0.0, 1.5), (f64::NAN, 1.0), (0.0, f64::NAN)]
    {
        assert!(!control.set_budget(Budget::Full, Limits { floor, ceiling }), "{floor} {ceiling}");
    }
    assert_eq!(held(control.settings()), (Budget::Full, limits));
    // A handle outlives its session.
    drop(session);
    assert!(control.set_budget(Budget::Price(1.0), Limits::default()));
    assert_eq!(same.settings().budget, Budget::Price(1.0));
}

/// Tokens after a prompt, and what both took.
fn generate<S: SessionApi>(
    session: &mut S,
    prompt: &[u32],
    tokens: usize,
) -> (Vec<u32>, [Usage; 2]) {
    let options =
        GenerateOptions { max_tokens: tokens, ignore_eos: true, ..GenerateOptions::default() };
    let sequence = session.add();
    let mut generation = session.generation(sequence, prompt, 1, &options).expect("a generation");
    generation.run(session, &mut |_| ControlFlow::Continue(())).expect("tokens");
    let tokens = generation.progress(0).expect("a continuation").tokens;
    session.end(sequence).expect("ended");
    (tokens, generation.usage())
}

fn a_dense_student_reports_budgets_that_it_cannot_keep<M: ModelApi>() {
    let (plan, ids) = tiny();
    let mut session = session(&open::<M>(&plan, 2));
    let (full, [prefill, decode]) = generate(&mut session, &ids[..8], 3);
    assert_eq!((prefill.unmet, decode.unmet), (None, None));
    assert_eq!((prefill.fraction, decode.site_fraction), (1.0, None));
    let macs = decode.macs;
    for budget in [Budget::Fraction(0.5), Budget::Latency(Duration::from_secs(1))] {
        set(&session, budget);
        let (held, [prefill, decode]) = generate(&mut session, &ids[..8], 3);
        assert_eq!(prefill.unmet, Some(Unmet::Dense), "{budget}");
        assert_eq!(decode.unmet, Some(Unmet::Dense), "{budget}");
        assert_eq!(session.status().unmet, Some(Unmet::Dense), "{budget}");
        // Nothing else changes.
        assert_eq!((held, decode.macs), (full.clone(), macs));
    }
    set(&session, Budget::Full);
    assert_eq!(generate(&mut session, &ids[..8], 3).1[1].unmet, None);
    assert_eq!(session.status().unmet, None);
}

/// A tiny adaptive student, and what PyTorch gives for it.
fn adaptive() -> (Compiled, Npz, Vec<u32>) {
    let folder = golden().join("acm/decoder");
    let mut expected = Npz::open(&folder.join("expected.npz"));
    let ids = expected.ids("input_ids").1;
    (Compiled::new(&folder, Quant::F32, true), expected, ids)
}

fn prices_spend_less_and_usage_counts_what_the_routes_say<M: ModelApi>() {
    let (plan, _, ids) = adaptive();
    let options = SessionOptions { chunk: 16, ..SessionOptions::default() };
    let mut session = open::<M>(&plan, 2).session(&options).expect("a session");
    let mut fractions = Vec::new();
    for price in [0.0, 0.5, 1.0, 2.0, 1e9] {
        set(&session, Budget::Price(price));
        let sequence = session.add();
        let done = session.step(&work(sequence, &ids, Wanted::None), &mut |_, _| {});
        done.result.expect("a step");
        let (usage, route) = (done.usage, session.route());
        assert_eq!(session.status().price, price as f32);
        assert_eq!((usage.tokens, usage.unmet), (ids.len() as u64, None));
        assert!(usage.full_macs > usage.site_full_macs && usage.bytes > 0 && usage.ms > 0.0);
        assert_eq!(usage.fraction, usage.macs as f64 / usage.full_macs as f64);
        assert_eq!(usage.full_macs - usage.macs, usage.site_full_macs - usage.site_macs);
        assert_eq!(usage.sites.len() * ids.len(), route.len());
        for (site, chosen) in usage.sites.iter().zip(route.chunks_exact(ids.len())) {
            assert!(!site.name.is_empty());
            for (k, count) in site.histogram.iter().enumerate() {
                let chose = chosen.iter().filter(|c| **c == k as i32).count() as u64;
                assert_eq!(*count, chose, "{}, choice {k}, price {price}", site.name);
            }
            assert_eq!(site.histogram.iter().sum::<u64>(), ids.len() as u64, "{}", site.name);
        }
        fractions.push(usage.fraction);
    }
    assert!(fractions.is_sorted_by(|a, b| a >= b), "{fractions:?}");
    assert!(fractions[0] > fractions[4], "{fractions:?}");
}

fn a_fraction_is_kept_and_a_floor_above_it_is_reported<M: ModelApi>() {
    let (plan, _, ids) = adaptive();
    let mut session = session(&open::<M>(&plan, 1));
    let spend = |session: &mut M::Session, price: f64| {
        set(session, Budget::Price(price));
        generate(session, &ids[..4], 40).1[1].fraction
    };
    let (least, most) = (spend(&mut session, 1e9), spend(&mut session, 0.0));
    let wanted = (least + most) / 2.0;
    set(&session, Budget::Fraction(wanted));
    let mut sum = Usage::default();
    for _ in 0..4 {
        generate(&mut session, &ids[..4], 40).1.iter().for_each(|spent| sum.add(spent));
    }
    assert!((sum.fraction - wanted).abs() < 0.02, "{} for {wanted}", sum.fraction);
    assert_eq!((sum.unmet, session.status().target), (None, wanted));
    let floor = (wanted + most) / 2.0;
    let limits = Limits { floor, ceiling: 1.0 };
    assert!(session.control().set_budget(Budget::Fraction(wanted), limits));
    let [_, decode] = generate(&mut session, &ids[..4], 40).1;
    assert_eq!((decode.unmet, session.status().unmet), (Some(Unmet::Floor), Some(Unmet::Floor)));
    assert!(decode.fraction > wanted, "{} above the floor {floor}", decode.fraction);
}

fn forced_routes_give_the_logits_of_pytorch<M: ModelApi>() {
    let (plan, mut expected, ids) = adaptive();
    // Forced choices go along with the chunks.
    let options = SessionOptions { kv: KvFormat::F32, chunk: 7, ..SessionOptions::default() };
    let mut session = open::<M>(&plan, 2).session(&options).expect("a session");
    let prices = expected.floats("prices").1.len();
    assert!(prices > 2);
    for i in 0..prices {
        let choices = expected.ids(&format!("choices_{i}")).1;
        let choices: Vec<i32> = choices.into_iter().map(|k| k as i32).collect();
        let sequence = session.add();
        session.force_route(&choices);
        let found = logits(&mut session, &work(sequence, &ids, Wanted::All)).expect("a step");
        assert_eq!(session.route(), choices);
        let error = relative_error(&found, &expected.floats(&format!("outputs_{i}")).1);
        assert!(error < 1e-4, "relative error {error:.2e}");
    }
    // One step alone was forced; what is left free is as if nothing were.
    let sequence = session.add();
    let free = logits(&mut session, &work(sequence, &ids, Wanted::All)).expect("a step");
    let route = session.route();
    let sequence = session.add();
    session.force_route(&vec![-1; route.len()]);
    let again = logits(&mut session, &work(sequence, &ids, Wanted::All)).expect("a step");
    assert_eq!((again, session.route()), (free, route));
}

fn wrong_routes_are_refused_and_change_nothing<M: ModelApi>() {
    let (plan, _, ids) = adaptive();
    let mut session = session(&open::<M>(&plan, 1));
    let sequence = session.add();
    let expected = step(&mut session, sequence, &ids[..9]);
    let route = session.route();
    session.rewind(sequence, 0).expect("rewound");
    let with = |place: usize, choice: i32| {
        let mut route = route.clone();
        route[place] = choice;
        route
    };
    let last = route.len() - 1;
    for (wrong, said) in [
        (with(0, 1000), "1000"),
        (with(last, i32::MAX), "2147483647"),
        (with(3, -2), "-2"),
        (route[1..].to_vec(), "choices"),
        (vec![0; route.len() + 1], "choices"),
        (Vec::new(), "choices"),
    ] {
        session.force_route(&wrong);
        let refused = logits(&mut session, &work(sequence, &ids[..9], Wanted::Last));
        let message = fails(refused, ErrorKind::InvalidInput);
        assert!(message.contains(said), "{message}");
        assert_eq!(session.position(sequence).expect("a position"), 0);
    }
    assert_eq!(step(&mut session, sequence, &ids[..9]), expected);
}
