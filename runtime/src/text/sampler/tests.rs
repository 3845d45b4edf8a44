use super::*;
use crate::text::shortlist::{Logit, Pick, Shortlist};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    logits: Vec<Vec<f32>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    logits: usize,
    history: Vec<u32>,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    penalty_window: Option<usize>,
    /// Token and probability, for those above 0.
    expected: Vec<(u32, f64)>,
}

fn sampler(change: impl FnOnce(&mut SamplerOptions)) -> Sampler {
    let mut options = SamplerOptions::default();
    change(&mut options);
    Sampler::new(options).unwrap()
}

#[test]
fn filtered_distributions_are_those_of_transformers() {
    let golden: Golden =
        serde_json::from_str(include_str!("../../../../tests/golden/sampler.json")).unwrap();
    assert!(golden.cases.len() > 20);
    for (i, case) in golden.cases.iter().enumerate() {
        let mut sampler = Sampler::new(SamplerOptions {
            temperature: case.temperature,
            top_k: case.top_k,
            top_p: case.top_p,
            min_p: case.min_p,
            repetition_penalty: case.repetition_penalty,
            presence_penalty: case.presence_penalty,
            frequency_penalty: case.frequency_penalty,
            penalty_window: case.penalty_window,
            seed: 0,
        })
        .unwrap();
        sampler.filter(&golden.logits[case.logits], &case.history).unwrap();
        let total: f64 = sampler.weights.iter().map(|&w| f64::from(w)).sum();
        let mut actual: Vec<(u32, f64)> = sampler
            .candidates
            .iter()
            .zip(&sampler.weights)
            .map(|(candidate, &weight)| (candidate.id(), f64::from(weight) / total))
            .collect();
        actual.sort_by_key(|&(id, _)| id);
        let ids = |pairs: &[(u32, f64)]| pairs.iter().map(|&(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(&actual), ids(&case.expected), "case {i}");
        for (actual, expected) in actual.iter().zip(&case.expected) {
            assert!((actual.1 - expected.1).abs() < 2e-6, "case {i}: {actual:?} {expected:?}");
        }
    }
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [1.0f32, 0.0, 2.0, f32::NEG_INFINITY, 0.5];
    let mut sampler = sampler(|o| o.temperature = 1.0);
    let mut counts = [0u32; 5];
    let draws = 50_000;
    for _ in 0..draws {
        counts[sampler.sample(&logits, &[]).unwrap().token as usize] += 1;
    }
    let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
    for (count, logit) in counts.iter().zip(logits) {
        let expected = f64::from(logit).exp() / total;
        // Four standard deviations.
        let tolerance = 4.0 * (expected * (1.0 - expected) / f64::from(draws)).sqrt();
        let share = f64::from(*count) / f64::from(draws);
        assert!((share - expected).abs() <= tolerance, "{share} {expected}");
    }
}

#[test]
fn a_seed_gives_the_same_tokens_and_forks_differ() {
    let logits: Vec<f32> = (0..100).map(|i| ((i * 37) % 100) as f32 / 40.0).collect();
    let run = |mut sampler: Sampler| -> Vec<u32> {
        (0..20).map(|_| sampler.sample(&logits, &[]).unwrap().token).collect()
    };
    let first = sampler(|o| (o.temperature, o.seed) = (1.0, 3));
    let other = sampler(|o| (o.temperature, o.seed) = (1.0, 4));
    assert_eq!(run(first.clone()), run(first.clone()));
    assert_ne!(run(first.clone()), run(other));
    assert_eq!(run(first.fork(1)), run(first.fork(1)));
    assert_ne!(run(first.fork(1)), run(first.fork(2)));
    assert_ne!(run(first.fork(1)), run(first));
}

#[test]
fn greedy_takes_the_lowest_id_of_the_most_likely() {
    let mut greedy = sampler(|_| ());
    assert_eq!(greedy.sample(&[0.0, 2.0, 1.0, 2.0], &[]).unwrap().token, 1);
    let mut penalised = sampler(|o| o.presence_penalty = 0.5);
    assert_eq!(penalised.sample(&[0.0, 2.0, 1.0, 2.0], &[1, 1]).unwrap().token, 3);
    assert_eq!(penalised.sample(&[0.0, 2.0, 1.0, 2.0], &[1, 3, 0]).unwrap().token, 1);
    let mut one = sampler(|o| (o.temperature, o.top_p) = (1.0, 1e-6));
    assert_eq!(one.sample(&[2.0, 2.0, 1.0], &[]).unwrap().token, 0);
    let mut cold = sampler(|o| o.temperature = f32::MIN_POSITIVE);
    assert_eq!(cold.sample(&[1.0, 2.0, -3.0], &[]).unwrap().token, 1);
}

#[test]
fn logprobs_are_those_of_the_raw_logits() {
    let logits: Vec<f32> = (0..1003).map(|i| ((i * 7919) % 1003) as f32 / 50.0 - 7.0).collect();
    let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
    let mut out = vec![0.0; logits.len()];
    log_probabilities(&logits, &mut out).unwrap();
    for (out, logit) in out.iter().zip(&logits) {
        assert!((f64::from(*out) - (f64::from(*logit) - total.ln())).abs() < 1e-5);
    }
    let mut sampler = sampler(|o| (o.temperature, o.top_k, o.repetition_penalty) = (2.0, 9, 1.3));
    let sampled = sampler.sample(&logits, &[5, 900]).unwrap();
    assert_eq!(sampled.logprob, out[sampled.token as usize]);
    assert!(log_probabilities(&logits, &mut [0.0]).is_err());
}

#[test]
fn logits_without_a_choice_are_errors() {
    let cases: [&[f32]; 4] =
        [&[], &[0.0, f32::NAN], &[f32::NEG_INFINITY; 3], &[1.0, f32::INFINITY]];
    for logits in cases {
        for temperature in [0.0, 1.0] {
            let mut sampler = sampler(|o| o.temperature = temperature);
            let error = sampler.sample(logits, &[]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Backend, "{logits:?}");
        }
    }
    let mut sampler = sampler(|o| o.presence_penalty = 1.0);
    let error = sampler.sample(&[0.0, 1.0], &[2]).unwrap_err();
    assert_eq!((error.kind(), error.place()), (ErrorKind::InvalidInput, Some("history")));
}

#[test]
fn needs_are_no_more_than_the_options_ask() {
    let need = |change: fn(&mut SamplerOptions)| sampler(change).need();
    assert_eq!(need(|_| ()), Need::Largest);
    assert_eq!(need(|o| (o.top_k, o.top_p) = (40, 0.9)), Need::Largest);
    assert_eq!(need(|o| (o.temperature, o.top_k) = (0.8, 40)), Need::Top(40));
    assert_eq!(need(|o| (o.temperature, o.top_k) = (0.8, 127)), Need::Top(127));
    for change in [
        |o: &mut SamplerOptions| (o.temperature, o.top_k) = (0.8, 128),
        |o: &mut SamplerOptions| o.presence_penalty = 0.1,
        |o: &mut SamplerOptions| (o.temperature, o.top_k, o.repetition_penalty) = (0.8, 40, 1.1),
    ] {
        assert_eq!(need(change), Need::Logits);
    }
    for change in [
        |o: &mut SamplerOptions| o.temperature = 0.8,
        |o: &mut SamplerOptions| (o.temperature, o.top_p) = (0.8, 0.9),
        |o: &mut SamplerOptions| (o.temperature, o.min_p) = (0.8, 0.1),
    ] {
        assert_eq!(need(change), Need::Draw(0.8));
    }
    let pick = |need: Need, vocab| need.pick(vocab);
    assert_eq!(pick(Need::Logits, 1000), Pick::default());
    assert_eq!(pick(Need::Top(9), 9), Pick::default());
    assert_eq!(pick(Need::Top(8), 9), Pick { count: 9, temperature: 0.0 });
    assert_eq!(pick(Need::Draw(0.8), 256), Pick { count: 64, temperature: 0.8 });
    assert_eq!(pick(Need::Draw(0.8), 49152), Pick { count: Need::MOST, temperature: 0.8 });
    assert_eq!(pick(Need::Draw(0.8), 3), Pick::default());
}

#[test]
fn bad_options_are_named() {
    type Change = fn(&mut SamplerOptions, f32);
    let fields: [(&str, Change, &[f32]); 6] = [
        ("temperature", |o, v| o.temperature = v, &[-0.1]),
        ("top_p", |o, v| o.top_p = v, &[0.0, -1.0, 1.1]),
        ("min_p", |o, v| o.min_p = v, &[-0.1, 1.1]),
        ("repetition_penalty", |o, v| o.repetition_penalty = v, &[0.0, -1.0]),
        ("presence_penalty", |o, v| o.presence_penalty = v, &[]),
        ("frequency_penalty", |o, v| o.frequency_penalty = v, &[]),
    ];
    for (field, change, bad) in fields {
        for &value in bad.iter().chain(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]) {
            let mut options = SamplerOptions::default();
            change(&mut options, value);
            let error = Sampler::new(options).unwrap_err();
            assert_eq!((error.kind(), error.place()), (ErrorKind::InvalidInput, Some(field)));
        }
    }
}

/// All candidates fully sorted, then cut: the filters by their definition.
fn plainly_filtered(scores: &[f32], k: usize, p: f32) -> Vec<u32> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    if k > 0 {
        let last = scores[order[k.min(order.len()) - 1]];
        order.retain(|&i| scores[i] >= last);
    }
    let max = scores[order[0]];
    let weight = |i: usize| f64::from(exp(scores[i] - max));
    let total: f64 = order.iter().map(|&i| weight(i)).sum();
    let mut mass = 0.0;
    order.retain(|&i| {
        let kept = p == 1.0 || mass < f64::from(p) * total;
        mass += weight(i);
        kept
    });
    order.into_iter().map(|i| i as u32).collect()
}

proptest! {
    #[test]
    fn partial_selection_agrees_with_a_full_sort(
        steps in prop::collection::vec(0u8..40, 1..1500),
        k in prop_oneof![Just(0usize), 1usize..200],
        p in prop_oneof![Just(1.0f32), 0.05f32..0.99],
    ) {
        // An odd divisor keeps sums off the threshold.
        let scores: Vec<f32> = steps.iter().map(|&s| f32::from(s) / 7.3).collect();
        let mut sampler = sampler(|o| (o.temperature, o.top_k, o.top_p) = (1.0, k, p));
        sampler.filter(&scores, &[]).unwrap();
        let mut actual: Vec<u32> = sampler.candidates.iter().map(|c| c.id()).collect();
        let mut expected = plainly_filtered(&scores, k, p);
        actual.sort();
        expected.sort();
        prop_assert_eq!(actual, expected);
    }

    #[test]
    fn a_shortlist_gives_the_tokens_of_all_logits(
        steps in prop::collection::vec(0u16..400, 1..300),
        k in prop_oneof![Just(0usize), 1usize..100],
        p in prop_oneof![Just(1.0f32), 0.05f32..0.99],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..0.3],
        seed: u64,
    ) {
        let possible = |s: u16| if s < 9 { f32::NEG_INFINITY } else { f32::from(s) / 73.0 };
        let logits: Vec<f32> = steps.iter().map(|&s| possible(s)).collect();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let sum = exp_sum(&logits, logits[order[0]], 1.0);
        let mut whole = sampler(|o| {
            (o.temperature, o.top_k, o.top_p, o.min_p, o.seed) = (0.7, k, p, min_p, seed);
        });
        let mut short = whole.clone();
        let count = if k == 0 { 64 } else { k + 1 };
        let logit = |&i: &usize| Logit { token: i as u32, value: logits[i] };
        let largest: Vec<Logit> = order.iter().take(count).map(logit).collect();
        let mass = |logits: &[f32]| -> f64 {
            logits.iter().map(|l| (f64::from(l - largest[0].value) / 0.7).exp()).sum()
        };
        let before = largest.iter().map(|l| mass(&logits[..l.token as usize])).collect();
        let list = Shortlist { sum, total: mass(&logits), before, largest: largest.clone() };
        let possible = logits.iter().filter(|l| **l > f32::NEG_INFINITY).count();
        let tied = |k: usize| logits[order[k - 1]] == logits[order[k]];
        let met = short.need().met_by(&list);
        prop_assert_eq!(met, k == 0 || k < possible && !tied(k));
        for _ in 0..if possible > 0 { 8 } else { 0 } {
            let wanted = whole.sample(&logits, &[]).unwrap();
            match short.choose(Found::Shortlist(&list), &[]).unwrap() {
                Some(found) => prop_assert_eq!(found, wanted),
                None => {
                    prop_assert!(!met || k == 0);
                    prop_assert_eq!(short.sample(&logits, &[]).unwrap(), wanted);
                }
            }
        }
    }

    #[test]
    fn exp_is_accurate(x in -86.0f32..=0.0) {
        let expected = f64::from(x).exp();
        prop_assert!((f64::from(exp(x)) / expected - 1.0).abs() < 3e-7);
    }

    #[test]
    fn candidates_keep_score_and_id(score in prop::num::f32::NORMAL, id: u32) {
        let candidate = Candidate::new(score, id);
        prop_assert_eq!((candidate.score(), candidate.id()), (score, id));
    }
}

#[test]
fn exp_at_the_edges() {
    assert_eq!(exp(0.0), 1.0);
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(exp(-1e30), 0.0);
}
