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

/// Last counter word of the blocks that normal numbers are made of.
const NORMALS: u32 = 2;

/// Numbers of mean 0 and variance 1 (Box and Muller, 1958): those of this draw of a seed. Made of additions,
/// multiplications, divisions and square roots alone, which round alike everywhere.
pub(crate) fn normals(seed: u64, draw: u32) -> impl Iterator<Item = f32> {
    let key = words(seed);
    (0u64..).flat_map(move |block| {
        let [low, high] = words(block);
        let [a, b, c, d] = philox4x32([low, high, draw, NORMALS], key);
        let ([x, y], [z, w]) = (normal_pair(a, b), normal_pair(c, d));
        [x, y, z, w]
    })
}

fn normal_pair(a: u32, b: u32) -> [f32; 2] {
    let unit = (f64::from(a) + 1.0) * UNIT;
    let radius = (-2.0 * ln(unit)).sqrt();
    let (sin, cos) = sin_cos_turn(b);
    [(radius * cos) as f32, (radius * sin) as f32]
}

/// 2^-32.
const UNIT: f64 = 1.0 / (1u64 << 32) as f64;

/// Natural logarithm of a normal number above 0.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let exponent = (bits >> 52) as i64 - 1023;
    let mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    let large = mantissa > std::f64::consts::SQRT_2;
    let (mantissa, exponent) =
        if large { (mantissa * 0.5, exponent + 1) } else { (mantissa, exponent) };
    // 2 artanh(s), whose terms fall by 30 or more.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let series = (0..14).rev().fold(0.0, |sum, k| sum * square + 1.0 / f64::from(2 * k + 1));
    2.0 * s * series + exponent as f64 * std::f64::consts::LN_2
}

/// Sine and cosine of so many parts of 2^-32 of a turn.
fn sin_cos_turn(turn: u32) -> (f64, f64) {
    // To the nearest quarter, and from there an eighth of a turn at most.
    let quarter = turn.wrapping_add(1 << 29) >> 30;
    let rest = turn.wrapping_sub(quarter << 30) as i32;
    let x = f64::from(rest) * UNIT * std::f64::consts::TAU;
    let square = x * x;
    let series = |first: u32| {
        (0..9).rev().fold(1.0, |sum, k| {
            let next = f64::from((2 * k + first) * (2 * k + first + 1));
            1.0 - square / next * sum
        })
    };
    let (sin, cos) = (x * series(2), series(1));
    match quarter {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
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

    #[derive(serde::Deserialize)]
    struct Draw {
        seed: u64,
        draw: u32,
        values: Vec<f64>,
    }

    /// `tests/golden/noise.py`.
    #[test]
    fn normal_numbers_are_those_of_numpy() {
        let draws: Vec<Draw> =
            serde_json::from_str(include_str!("../../tests/golden/noise.json")).unwrap();
        assert!(draws.len() > 3);
        for Draw { seed, draw, values } in draws {
            for (at, (found, expected)) in normals(seed, draw).zip(&values).enumerate() {
                let error = (f64::from(found) - expected).abs();
                let most = 1e-7 * expected.abs().max(1e-3);
                assert!(error <= most, "seed {seed}, draw {draw}, {at}: {found} not {expected}");
            }
        }
    }

    #[test]
    fn normal_numbers_have_their_moments() {
        let count = 100_000;
        let moment =
            |power| normals(3, 1).take(count).map(|z| f64::from(z).powi(power)).sum::<f64>();
        for (power, expected, most) in
            [(1, 0.0, 0.01), (2, 1.0, 0.02), (3, 0.0, 0.05), (4, 3.0, 0.1)]
        {
            let found = moment(power) / count as f64;
            assert!((found - expected).abs() < most, "moment {power} is {found}");
        }
        let extreme = [normal_pair(0, 0), normal_pair(u32::MAX, u32::MAX)];
        assert!(extreme.iter().flatten().all(|z| z.is_finite() && z.abs() < 7.0), "{extreme:?}");
    }

    #[test]
    fn elementary_functions_are_right() {
        for i in 1..4000u32 {
            let x = f64::from(i) * 2.5e-4;
            assert!((ln(x) - x.ln()).abs() <= 4e-16 * x.ln().abs().max(1.0), "ln {x}");
            let turn = i.wrapping_mul(1_073_807);
            let (sin, cos) = (f64::from(turn) * UNIT * std::f64::consts::TAU).sin_cos();
            let (s, c) = sin_cos_turn(turn);
            assert!((s - sin).abs() < 2e-15 && (c - cos).abs() < 2e-15, "turn {turn}");
        }
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
