//! Tokens that may be drawn, in the order of their scores.

/// A token and its score in one integer: a greater one is more likely, or as likely with a
/// lower id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate(u64);

impl Candidate {
    pub(super) fn new(score: f32, id: u32) -> Candidate {
        let bits = (score + 0.0).to_bits();
        let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        Candidate(u64::from(ordered) << 32 | u64::from(!id))
    }

    pub(super) fn id(self) -> u32 {
        !(self.0 as u32)
    }

    pub(super) fn score(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
    }
}

/// Keeps the `k` greatest, in any order, and those that score as high as the least of them;
/// `k` is above 0 and below the length.
pub(super) fn keep_top(candidates: &mut Vec<Candidate>, k: usize) {
    let (_, &mut last, rest) = candidates.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
    let mut tied = 0;
    for i in 0..rest.len() {
        if rest.get(i).is_some_and(|candidate| candidate.score() == last.score()) {
            rest.swap(i, tied);
            tied += 1;
        }
    }
    candidates.truncate(k + tied);
}

/// Of candidates whose `sorted` greatest stand in order at the front, puts more in order; gives
/// how many are now.
pub(super) fn sort_more(candidates: &mut [Candidate], sorted: usize) -> usize {
    let count = (3 * sorted).max(128);
    let rest = candidates.get_mut(sorted..).unwrap_or_default();
    if rest.len() <= count {
        rest.sort_unstable_by(|a, b| b.cmp(a));
        return candidates.len();
    }
    let (front, _, _) = rest.select_nth_unstable_by(count, |a, b| b.cmp(a));
    front.sort_unstable_by(|a, b| b.cmp(a));
    sorted + count
}
