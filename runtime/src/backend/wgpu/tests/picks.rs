//! The largest logits and the masses beside them, and what samplers choose by these.

use std::sync::Arc;

use limbeck_kernels::KvType;
use limbeck_plan::{Dim, Embedding, Op, PackFormat, SelectRows, Symbol};

use super::harness::{Ask, Builder, Part, Random, Running, VOCABULARY, gpu, tokens};
use crate::ErrorKind;
use crate::backend::PlanData;
use crate::text::shortlist::{Found, Logit, Need, Pick, Shortlist};
use crate::text::{Sampler, SamplerOptions};

/// The largest of a row in turn by a sort of all, and the sum of exp(logit - largest).
fn sorted(row: &[f32], count: usize) -> Shortlist {
    let mut all: Vec<Logit> = (0..).zip(row).map(|(token, v)| Logit { token, value: *v }).collect();
    // The sort is stable; zeros of either sign are equal.
    let key = |v: f32| if v.is_nan() { (1, 0.0) } else { (0, v + 0.0) };
    all.sort_by(|a, b| key(b.value).partial_cmp(&key(a.value)).expect("an order"));
    let top = f64::from(all[0].value);
    let sum = row.iter().map(|v| (f64::from(*v) - top).exp()).sum::<f64>() as f32;
    all.truncate(count);
    Shortlist { largest: all, sum, ..Shortlist::default() }
}

/// Rows of logits: random ones, equals, and some that are impossible or hard to come by.
fn rows_of_logits(random: &mut Random, cols: usize) -> Vec<Vec<f32>> {
    let mut rows: Vec<Vec<f32>> = (0..VOCABULARY).map(|_| random.numbers(cols)).collect();
    let (low, high) = (f32::NEG_INFINITY, f32::INFINITY);
    let last = cols - 1;
    (rows[1][last / 2], rows[1][last], rows[1][last / 3]) = (3.0, 3.0, 3.0);
    // Zeros of either sign.
    rows[2].fill(-0.0);
    rows[2][last / 2] = 0.0;
    rows[3].fill(low);
    rows[3][last] = -1e30;
    rows[4].fill(low);
    (rows[5][0], rows[6][last], rows[7][0]) = (high, f32::NAN, -f32::NAN);
    rows[7][last] = high;
    // Many equals, at the end of a list too, and rows in order.
    rows[8].iter_mut().for_each(|v| *v = (*v * 3.0).round());
    rows[9].fill(1.5);
    rows[10].sort_by(f32::total_cmp);
    rows[11].sort_by(|a, b| b.total_cmp(a));
    rows[12].fill(low);
    (0..cols.min(41)).for_each(|i| rows[12][i] = i as f32);
    // The large ones fall to too few lanes, whichever way these go through the slices' lists.
    let large = |(i, v): (usize, &mut f32)| {
        if i / 1024 % 16 < 7 {
            *v = 1100.0 - (i % 1024) as f32;
        }
    };
    rows[HARD].iter_mut().enumerate().for_each(large);
    rows
}

/// The row of which more logits are large than the shader keeps, where it has enough columns.
const HARD: usize = 13;

/// A value's bits; devices may make one NaN of another.
fn bits_of(value: f32) -> u32 {
    if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }
}

/// A plan that gives these rows as logits, the last one first, and a call of it.
fn giving(mut b: Builder, rows: &[Vec<f32>]) -> (Arc<PlanData>, Ask) {
    let cols = rows[0].len();
    let table = b.weight(PackFormat::F32_ROW, VOCABULARY, cols, &rows.concat());
    let op = Op::Embedding(Embedding { scale: 1.0 });
    let x = b.step(op, vec![0, table], vec![tokens(), Dim::from(cols)]);
    let shape = vec![Dim::symbol(Symbol::OUTPUTS), Dim::from(cols)];
    b.output("logits", Op::SelectRows(SelectRows {}), vec![x], shape);
    let ids: Vec<i32> = (0..VOCABULARY as i32).collect();
    let outputs: Vec<usize> = (0..VOCABULARY).rev().collect();
    let mut ask = Ask { outputs, ids, ..Ask::default() };
    ask.parts.push(Part { rows: VOCABULARY, keys: VOCABULARY });
    (b.plan(), ask)
}

fn check_picks(cols: usize, counts: &[usize]) {
    let Some(gpu) = gpu() else { return };
    let mut b = Builder::new(8);
    let rows = rows_of_logits(&mut b.random, cols);
    let (plan, mut ask) = giving(b, &rows);
    let mut running = Running::new(gpu, &plan, KvType::F32);
    let mut bytes = 0;
    for count in counts {
        ask.pick = Pick { count: *count, temperature: 0.0 };
        running.run(&ask, false);
        assert!(running.state.output("logits").is_none());
        let used = running.state.device_use().expect("a device");
        bytes = VOCABULARY * (2 * count + 1) * 4;
        assert_eq!((used.submissions, used.bytes_read_back), (1, bytes));
        let lists = running.state.picked().expect("lists");
        assert_eq!(lists.len(), VOCABULARY);
        for (i, (row, list)) in rows.iter().zip(lists.iter().rev()).enumerate() {
            let case = format!("row {i} of {cols} columns, {count} logits");
            let hard = i == HARD && cols == 48 * 1024 && *count == 128;
            let wanted = if hard { Vec::new() } else { sorted(row, *count).largest };
            let bits = |list: &[Logit]| -> Vec<(u32, u32)> {
                list.iter().map(|logit| (logit.token, bits_of(logit.value))).collect()
            };
            assert_eq!(bits(&list.largest), bits(&wanted), "{case}");
            check_choice(row, list, *count, &case);
        }
    }
    // Afterwards all of them can be had, as by a run that does not pick.
    running.state.unpick().expect("logits");
    let used = running.state.device_use().expect("a device");
    let all = VOCABULARY * cols * 4;
    assert_eq!((used.submissions, used.bytes_read_back), (2, bytes + all));
    assert!(running.state.picked().is_none());
    let bits = |values: &[f32]| values.iter().map(|v| bits_of(*v)).collect::<Vec<_>>();
    let wanted: Vec<f32> = rows.iter().rev().flatten().copied().collect();
    assert_eq!(bits(&running.output("logits")), bits(&wanted));
    // The same sizes without a pick are another recording.
    ask.pick = Pick::default();
    running.run(&ask, false);
    assert!(running.state.picked().is_none());
    assert_eq!(bits(&running.output("logits")), bits(&wanted));
    ask.pick.count = Need::MOST + 1;
    assert_eq!(running.try_run(&ask, false).unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// Samplers choose by a list that meets their need what they choose by all logits, or fail alike.
fn check_choice(row: &[f32], list: &Shortlist, count: usize, case: &str) {
    let hot = |top_p, min_p| {
        let (temperature, top_k) = (0.8, count - 1);
        SamplerOptions { temperature, top_k, top_p, min_p, seed: 5, ..Default::default() }
    };
    let filtered = [hot(1.0, 0.0), hot(0.9, 0.0), hot(0.7, 0.05)];
    let options = if count == 1 { vec![SamplerOptions::default()] } else { filtered.to_vec() };
    for options in options {
        let mut sampler = Sampler::new(options).expect("a sampler");
        let need = if count == 1 { Need::Largest } else { Need::Top(count - 1) };
        assert_eq!(sampler.need(), need, "{case}");
        let mut other = sampler.clone();
        for _ in 0..4 {
            if !same_choice(&mut sampler, &mut other, row, list, case) {
                assert!(!need.met_by(list), "{case}");
                break;
            }
        }
    }
}

/// Whether a sampler chooses by a list, or fails: as the other does by the row. Where it does not, it has drawn nothing.
fn same_choice(
    sampler: &mut Sampler,
    other: &mut Sampler,
    row: &[f32],
    list: &Shortlist,
    case: &str,
) -> bool {
    let wanted = other.sample(row, &[]);
    let decides = sampler.decides(Found::Shortlist(list));
    let found = sampler.choose(Found::Shortlist(list), &[]);
    assert_eq!(decides, !matches!(found, Ok(None)), "{case}");
    match (wanted, found) {
        (wanted, Ok(None)) => {
            assert_eq!(sampler.sample(row, &[]).ok(), wanted.ok(), "{case}");
            return false;
        }
        (Ok(wanted), Ok(Some(found))) => {
            assert_eq!(found.token, wanted.token, "{case}");
            let near = 1e-5 * wanted.logprob.abs().max(1.0);
            assert!((found.logprob - wanted.logprob).abs() < near, "{case}: {found:?}");
        }
        (wanted, found) => {
            let error = found.expect_err(case).to_string();
            assert_eq!(error, wanted.expect_err(case).to_string(), "{case}");
        }
    }
    true
}

#[test]
fn the_largest_logits_are_those_of_a_sort() {
    check_picks(700, &[1, 2, 40, 64, 128]);
    check_picks(256, &[1, 41, 128]);
    check_picks(4400, &[1, 2, 40, 64, 128]);
    check_picks(48 * 1024, &[1, 128]);
}

#[test]
fn rows_shorter_than_a_list_give_all_they_have() {
    check_picks(45, &[1, 44, 45, 46, 64, 128]);
    check_picks(1, &[1, 2, 40]);
}

/// The row whose largest logits have nearly all of the mass, where it has many columns, and one that follows a law as
/// tokens of a text do.
const STEEP: usize = 14;
const LAW: usize = 15;

/// [`rows_of_logits`], of which many are wider than these, with [`STEEP`] and [`LAW`].
fn rows_to_draw_from(random: &mut Random, cols: usize) -> Vec<Vec<f32>> {
    let mut rows = rows_of_logits(random, cols);
    let rank = |i: usize| ((i * 7 + 3) % cols) as f32;
    rows[STEEP] = (0..cols).map(|i| 1.0 - 0.5 * rank(i)).collect();
    rows[LAW] = (0..cols).map(|i| -1.5 * (1.0 + rank(i)).ln()).collect();
    for (i, row) in rows.iter_mut().enumerate().skip(LAW + 1) {
        row.iter_mut().for_each(|v| *v *= 1.0 + (i % 7) as f32);
    }
    rows
}

/// Masses of a list are those that a sum in 64 bits has, far within what samplers allow for.
fn check_masses(row: &[f32], list: &Shortlist, temperature: f32, case: &str) {
    let top = f64::from(list.largest[0].value);
    if !top.is_finite() {
        return;
    }
    let mass = |row: &[f32]| -> f64 {
        row.iter().map(|v| ((f64::from(*v) - top) / f64::from(temperature)).exp()).sum()
    };
    let total = mass(row);
    let near = Shortlist::SLACK / 4.0 * total;
    assert!((list.total - total).abs() < near, "{case}: {} for {total}", list.total);
    assert_eq!(list.before.len(), list.largest.len(), "{case}");
    for (logit, before) in list.largest.iter().zip(&list.before).step_by(5) {
        let wanted = mass(&row[..logit.token as usize]);
        assert!((before - wanted).abs() < near, "{case}: {before} for {wanted}");
    }
}

/// Draws from all tokens by lists with masses at some temperatures, each by some seeds.
fn check_draws(cols: usize, temperatures: &[f32], seeds: u64) {
    let Some(gpu) = gpu() else { return };
    let mut b = Builder::new(9);
    let rows = rows_to_draw_from(&mut b.random, cols);
    let (plan, mut ask) = giving(b, &rows);
    let mut running = Running::new(gpu, &plan, KvType::F32);
    for temperature in temperatures.iter().copied() {
        let usual = (0.1..10.0).contains(&temperature);
        ask.pick = Pick { count: Need::MOST, temperature };
        running.run(&ask, false);
        let used = running.state.device_use().expect("a device");
        let words = 1 + 3 * Need::MOST + cols.div_ceil(1024);
        assert_eq!((used.submissions, used.bytes_read_back), (1, VOCABULARY * words * 4));
        let lists = running.state.picked().expect("lists");
        for (i, (row, list)) in rows.iter().zip(lists.iter().rev()).enumerate() {
            let case = format!("row {i} of {cols} columns at {temperature}");
            if usual && !list.largest.is_empty() {
                check_masses(row, list, temperature, &case);
            }
            for (top_p, min_p) in [(1.0, 0.0), (0.1, 0.0), (0.9, 0.0), (1.0, 0.02), (0.95, 0.01)] {
                let case = format!("{case}, top-p {top_p}, min-p {min_p}");
                let decided = (0..seeds).filter(|seed| {
                    let seed = seed * 977 + i as u64;
                    let options =
                        SamplerOptions { temperature, top_p, min_p, seed, ..Default::default() };
                    let mut sampler = Sampler::new(options).expect("a sampler");
                    assert_eq!(sampler.need(), Need::Draw(temperature));
                    let mut other = sampler.clone();
                    same_choice(&mut sampler, &mut other, row, list, &case)
                });
                let decided = decided.count() as u64;
                // A row without a choice is an error by a list too.
                let sure = usual && i == STEEP || (4..8).contains(&i);
                assert!(!sure || decided + 1 >= seeds, "{case}: {decided} of {seeds}");
                // Of equals the first of many are few.
                let unsure = i == 9 && cols > 4096 && (top_p, min_p) != (0.1, 0.0);
                assert!(!unsure || decided < seeds, "{case}: {decided} of {seeds}");
            }
        }
    }
    // Another temperature is told to the same recording; lists without masses are another one.
    ask.pick.temperature = 0.0;
    running.run(&ask, false);
    let lists = running.state.picked().expect("lists");
    assert!(lists.iter().all(|list| list.total == 0.0 && list.before.is_empty()));
    let options = SamplerOptions { temperature: 1.0, ..Default::default() };
    let sampler = Sampler::new(options).expect("a sampler");
    assert!(!sampler.decides(Found::Shortlist(&lists[VOCABULARY - 1 - STEEP])));
}

#[test]
fn draws_by_lists_are_those_by_all_logits() {
    let usual = [0.3, 0.8, 2.0];
    check_draws(45, &usual, 20);
    check_draws(700, &usual, 40);
    check_draws(4400, &usual, 20);
    check_draws(20_000, &usual, 4);
    // The least that there are, of which devices may make 0, and large ones.
    check_draws(45, &[1e-40, f32::MIN_POSITIVE, 1e-20, 1e20, f32::MAX], 20);
}
