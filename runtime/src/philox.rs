//! Philox 4x32-10, the noise source of the house: a counter-based generator, so that a seed
//! gives the same numbers on every platform and every stream can be reached directly.
//!
//! Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011); the
//! constants and the known answers are those of the Random123 library.

/// Multipliers of the two products of a round.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What is added to the key after each round (golden ratio, sqrt(3) - 1).
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The block of four random words at `counter` for `key`.
pub(crate) fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..ROUNDS {
        let first = u64::from(MULTIPLIERS[0]) * u64::from(c0);
        let second = u64::from(MULTIPLIERS[1]) * u64::from(c2);
        (c0, c1, c2, c3) = (
            (second >> 32) as u32 ^ c1 ^ k0,
            second as u32,
            (first >> 32) as u32 ^ c3 ^ k1,
            first as u32,
        );
        k0 = k0.wrapping_add(KEY_STEPS[0]);
        k1 = k1.wrapping_add(KEY_STEPS[1]);
    }
    [c0, c1, c2, c3]
}

/// A stream of random numbers; copies continue alike.
#[derive(Clone, Debug)]
pub(crate) struct Philox {
    key: [u32; 2],
    drawn: u64,
}

/// Last counter word of the blocks that numbers are drawn from.
const DRAWS: u32 = 0;
/// Last counter word of the blocks that keys of other streams come from.
const KEYS: u32 = 1;

impl Philox {
    /// The stream of a seed.
    pub(crate) fn new(seed: u64) -> Philox {
        Philox { key: words(seed), drawn: 0 }
    }

    /// Another stream, which depends on this one's key and on `stream`, but not on how much was
    /// drawn from this one.
    pub(crate) fn fork(&self, stream: u64) -> Philox {
        let [low, high] = words(stream);
        let [a, b, _, _] = philox4x32([low, high, 0, KEYS], self.key);
        Philox { key: [a, b], drawn: 0 }
    }

    /// The next number, uniform in `[0, 1)`, a multiple of 2^-53.
    pub(crate) fn next_f64(&mut self) -> f64 {
        let [low, high] = words(self.drawn);
        self.drawn = self.drawn.wrapping_add(1);
        let [a, b, _, _] = philox4x32([low, high, 0, DRAWS], self.key);
        let bits = (u64::from(a) << 32 | u64::from(b)) >> 11;
        bits as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// Low and high word.
fn words(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The `philox4x32 10` lines of Random123's `kat_vectors`.
    #[test]
    fn known_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            (
                [0xffff_ffff; 4],
                [0xffff_ffff; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn numbers_are_uniform() {
        let mut random = Philox::new(7);
        let draws: Vec<f64> = (0..20_000).map(|_| random.next_f64()).collect();
        assert!(draws.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|u| (u - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert!((variance - 1.0 / 12.0).abs() < 0.002, "{variance}");
    }

    #[test]
    fn forks_do_not_depend_on_what_was_drawn_and_differ() {
        let mut parent = Philox::new(1);
        let mut early = parent.fork(3);
        parent.next_f64();
        let mut late = parent.fork(3);
        let mut other = parent.fork(4);
        let mut nested = early.clone().fork(3);
        let first = early.next_f64();
        assert_eq!(first, late.next_f64());
        assert_ne!(first, other.next_f64());
        assert_ne!(first, nested.next_f64());
        assert_ne!(first, Philox::new(1).next_f64());
    }
}
