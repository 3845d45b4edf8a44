//! Which experts each token uses, and what their results weigh.

use limbeck_plan::{ExpertWeights, MoeMlp};

/// What the router decides for a call; see [`limbeck_plan::MoeMlp`] for the rule.
pub(super) struct Routing<'a> {
    pub params: &'a MoeMlp,
    /// `[T, experts]`.
    pub logits: &'a [f32],
    /// A rank stays while its share of the first is no less than this.
    pub charge: f32,
    /// `[T]`, -1 where a token is free.
    pub forced: Option<&'a [i32]>,
}

/// Where the decisions go.
pub(super) struct Routed<'a> {
    /// `[T]`: ranks kept.
    pub choice: &'a mut [i32],
    /// `[T, top_k]`: by rank, the expert; the number of experts where there is none.
    pub expert: &'a mut [i32],
    /// `[T, top_k]`.
    pub weight: &'a mut [f32],
}

impl Routing<'_> {
    /// Decides; `taken [experts]` and `load [experts]` are scratch.
    pub fn run(&self, to: Routed<'_>, taken: &mut [bool], load: &mut [usize]) {
        let MoeMlp { experts, top_k, .. } = *self.params;
        let tokens = to.choice.len();
        let ranks = to.expert.chunks_exact_mut(top_k).zip(to.weight.chunks_exact_mut(top_k));
        let rows = self.logits.chunks_exact(experts).zip(to.choice).zip(ranks);
        for (token, ((logits, choice), (expert, weight))) in rows.enumerate() {
            rank(logits, taken, expert);
            self.weigh(logits, expert, weight);
            let forced = self.forced.and_then(|f| f.get(token)).filter(|k| **k >= 0);
            *choice = forced.copied().unwrap_or_else(|| self.kept(logits, expert));
            expert[*choice as usize..].fill(experts as i32);
        }
        if let Some(capacity) = self.params.capacity {
            let room = capacity.room(tokens, self.params.experts, self.params.top_k);
            drop_beyond(room, to.expert, top_k, load);
        }
        if self.params.weights == ExpertWeights::Renormalised {
            let rows = to.expert.chunks_exact(top_k).zip(to.weight.chunks_exact_mut(top_k));
            rows.for_each(|(expert, weight)| renormalise(expert, weight, experts as i32));
        }
    }

    /// How many of the ranked experts a token keeps.
    fn kept(&self, logits: &[f32], ranked: &[i32]) -> i32 {
        let most = logits[ranked[0] as usize];
        let sound = is_sound(logits, most);
        let others = ranked[1..].iter().take_while(|e| {
            let share = (logits[**e as usize] - most).exp();
            !sound || share >= self.charge
        });
        1 + others.count() as i32
    }

    /// Probabilities by rank, of all experts or up to a factor.
    fn weigh(&self, logits: &[f32], ranked: &[i32], weight: &mut [f32]) {
        let most = logits[ranked[0] as usize];
        let sum = match self.params.weights {
            _ if !is_sound(logits, most) => f32::NAN,
            ExpertWeights::Renormalised => 1.0,
            ExpertWeights::Probabilities => logits.iter().map(|l| (l - most).exp()).sum(),
        };
        for (weight, expert) in weight.iter_mut().zip(ranked) {
            *weight = (logits[*expert as usize] - most).exp() / sum;
        }
    }
}

/// Whether the softmax of the logits, the largest being `most`, is a number.
fn is_sound(logits: &[f32], most: f32) -> bool {
    most.is_finite() && !logits.iter().any(|l| l.is_nan())
}

/// The experts of the largest logits in falling order, the smaller index first among equals. NaN
/// comes last.
fn rank(logits: &[f32], taken: &mut [bool], ranked: &mut [i32]) {
    taken.fill(false);
    for slot in ranked {
        let mut best: Option<(usize, f32)> = None;
        for (expert, logit) in logits.iter().enumerate() {
            let larger = match best {
                None => true,
                Some((_, most)) => *logit > most || (most.is_nan() && !logit.is_nan()),
            };
            if larger && !taken[expert] {
                best = Some((expert, *logit));
            }
        }
        let expert = best.map_or(0, |(expert, _)| expert);
        taken[expert] = true;
        *slot = expert as i32;
    }
}

/// Takes away the experts that have no room: rank by rank, token by token.
fn drop_beyond(room: usize, expert: &mut [i32], top_k: usize, load: &mut [usize]) {
    load.fill(0);
    for rank in 0..top_k {
        for expert in expert.iter_mut().skip(rank).step_by(top_k) {
            let Some(load) = load.get_mut(*expert as usize) else { continue };
            *load += 1;
            if *load > room {
                *expert = i32::MAX;
            }
        }
    }
}

/// Divides the weights of those that a token has by their sum.
fn renormalise(expert: &[i32], weight: &mut [f32], experts: i32) {
    let has = |expert: &i32| *expert < experts;
    let kept = expert.iter().zip(&*weight).filter(|(e, _)| has(e));
    let sum: f32 = kept.map(|(_, w)| w).sum();
    // Nothing is left of a token whose survivors weigh nothing.
    let sum = if sum == 0.0 { 1.0 } else { sum };
    weight.iter_mut().for_each(|w| *w /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use limbeck_plan::{Activation, Capacity};

    fn params(experts: usize, top_k: usize, weights: ExpertWeights) -> MoeMlp {
        MoeMlp {
            site: 0,
            experts,
            top_k,
            activation: Activation::Silu,
            gated: true,
            weights,
            capacity: None,
            residual: false,
        }
    }

    struct Found {
        choice: Vec<i32>,
        expert: Vec<i32>,
        weight: Vec<f32>,
    }

    fn run(params: &MoeMlp, logits: &[f32], charge: f32, forced: Option<&[i32]>) -> Found {
        let tokens = logits.len() / params.experts;
        let ranks = tokens * params.top_k;
        let mut found =
            Found { choice: vec![9; tokens], expert: vec![9; ranks], weight: vec![9.0; ranks] };
        let Found { choice, expert, weight } = &mut found;
        let (mut taken, mut load) = (vec![true; params.experts], vec![7; params.experts]);
        let routing = Routing { params, logits, charge, forced };
        routing.run(Routed { choice, expert, weight }, &mut taken, &mut load);
        found
    }

    #[test]
    fn ties_go_to_the_smaller_index_and_nan_comes_last() {
        let p = params(4, 3, ExpertWeights::Renormalised);
        assert_eq!(run(&p, &[1.0; 4], 0.0, None).expert, [0, 1, 2]);
        assert_eq!(run(&p, &[0.0, 2.0, -1.0, 2.0], 0.0, None).expert, [1, 3, 0]);
        let nan = run(&p, &[f32::NAN, f32::NEG_INFINITY, 1.0, f32::NAN], 1e9, None);
        assert_eq!((nan.expert, nan.choice), (vec![2, 1, 0], vec![3]));
        assert!(nan.weight.iter().all(|w| w.is_nan()));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let all = run(&p, &[bad; 4], 1e9, None);
            assert_eq!((all.expert, all.choice), (vec![0, 1, 2], vec![3]));
        }
    }

    #[test]
    fn a_price_takes_the_weak_away_and_the_rest_is_renormalised() {
        let p = params(3, 3, ExpertWeights::Renormalised);
        // Shares of the first: 1, 1/2, 1/4.
        let logits = [0.25f32.ln(), 0.0, 0.5f32.ln()];
        let shares = |charge| run(&p, &logits, charge, None);
        let all = shares(0.25);
        assert_eq!((all.choice, all.expert), (vec![3], vec![1, 2, 0]));
        let sum: f32 = all.weight.iter().sum();
        assert!((all.weight[0] - 4.0 / 7.0).abs() < 1e-6 && (sum - 1.0).abs() < 1e-6);
        let two = shares(0.3);
        assert_eq!((two.choice, two.expert), (vec![2], vec![1, 2, 3]));
        assert!((two.weight[1] - 1.0 / 3.0).abs() < 1e-6);
        assert_eq!(shares(f32::INFINITY).choice, [1]);
        let forced = run(&p, &logits, 0.6, Some(&[2]));
        assert_eq!((forced.choice, forced.weight[1]), (vec![2], two.weight[1]));
        assert_eq!(run(&p, &logits, 0.6, Some(&[-1])).choice, [1]);
        let p = params(3, 2, ExpertWeights::Probabilities);
        let found = run(&p, &logits, 0.0, None);
        assert!((found.weight[0] - 4.0 / 7.0).abs() < 1e-6);
        assert!((found.weight[1] - 2.0 / 7.0).abs() < 1e-6);
    }

    #[test]
    fn a_capacity_drops_later_tokens_and_second_choices_first() {
        let capacity = Some(Capacity { factor: 0.5, min: 0 });
        let p = MoeMlp { capacity, ..params(2, 2, ExpertWeights::Renormalised) };
        // Three tokens prefer expert 0, one prefers expert 1; room is ceil(4 / 2 * 0.5 * 2) = 2.
        let logits = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0];
        let found = run(&p, &logits, 0.0, None);
        let gone = i32::MAX;
        assert_eq!(found.expert, [0, 1, 0, gone, 1, gone, gone, gone]);
        assert_eq!(found.choice, [2; 4]);
        // The survivor of a token takes all of its weight.
        assert_eq!((found.weight[2], found.weight[4]), (1.0, 1.0));
    }
}
