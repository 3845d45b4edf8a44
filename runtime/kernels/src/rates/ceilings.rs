//! What the machine can do at most, measured by loops that do nothing else.

use crate::Pool;
use crate::isa::{Isa, Portable};
#[cfg(target_arch = "x86_64")]
use crate::simd::Simd;
use crate::simd::{self, Lanes};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[cfg(target_arch = "x86_64")]
use crate::isa::{Avx2, Avx512};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Bytes to read: more than caches hold.
const BYTES: usize = 256 << 20;
/// Parts of a pass for each thread, so that a thread that is held up is helped.
const PARTS: usize = 4;
/// Time for passes over the bytes, and for passes of multiply-adds; the fastest pass counts. It is
/// longer than a pool leaves out threads that were late once.
const PASSES: Duration = Duration::from_millis(250);
/// Steps of such a loop for each part.
const STEPS: usize = 100_000;
/// Words of a cache line, and how many bytes ahead of reading each stream is asked for.
const LINE: usize = 8;
const AHEAD: usize = 1024;
/// Places of a part that are read in turn: the best of these counts.
const STREAMS: [usize; 3] = [1, 2, 4];
/// Sums that a loop keeps apart, so that none waits for another.
const SUMS: usize = 12;

/// The machine's ceilings with the threads of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// Bytes that it reads from memory in a second.
    pub read: f64,
    /// Operations on f32 in a second, a multiply-add being two.
    pub f32_ops: f64,
    /// The same of 8-bit integers that are multiplied and added to 32 bits.
    pub int8_ops: f64,
}

impl Ceilings {
    /// Measures them, in about a second and with 256 MiB of memory for that time.
    pub fn measure(pool: &Pool) -> Ceilings {
        let loops = Loops::best();
        let parts = PARTS * pool.threads();
        let ops = |products: usize| 2.0 * (parts * STEPS * products) as f64;
        Ceilings {
            read: BYTES as f64 / read_time(pool, &loops, parts),
            f32_ops: ops(loops.f32_products)
                / least_time(&|| pool.run(parts, &|_| loops.f32_part())),
            int8_ops: ops(loops.int8_products)
                / least_time(&|| pool.run(parts, &|_| loops.int8_part())),
        }
    }

    /// The higher of each: of measurements at different times, the nearer to the machine's.
    pub fn max(self, other: Ceilings) -> Ceilings {
        Ceilings {
            read: self.read.max(other.read),
            f32_ops: self.f32_ops.max(other.f32_ops),
            int8_ops: self.int8_ops.max(other.int8_ops),
        }
    }
}

fn read_time(pool: &Pool, loops: &Loops, parts: usize) -> f64 {
    let words: Vec<u64> = (0..BYTES as u64 / 8).collect();
    let part = words.len() / parts;
    let times = STREAMS.map(|streams| {
        least_time(&|| {
            let total = AtomicU64::new(0);
            pool.run(parts, &|i| {
                let words = words.chunks_exact(part).nth(i).unwrap_or_default();
                total.fetch_add(loops.read_part(words, streams), Ordering::Relaxed);
            });
            black_box(total.into_inner());
        })
    });
    times.into_iter().fold(f64::INFINITY, f64::min)
}

/// The sum of all words that lie in whole lines of so many equal streams, a line of each in turn.
#[inline(always)]
fn sum(words: &[u64], streams: usize) -> u64 {
    let stream = words.len() / streams / LINE * LINE;
    let mut lanes = [0u64; LINE];
    for at in (0..stream).step_by(LINE) {
        for start in (0..streams).map(|i| i * stream + at) {
            let line = &words[start..start + LINE];
            simd::prefetch(line.as_ptr().cast::<u8>().wrapping_add(AHEAD));
            for (lane, word) in lanes.iter_mut().zip(line) {
                *lane = lane.wrapping_add(*word);
            }
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

fn least_time(pass: &dyn Fn()) -> f64 {
    let (start, mut least) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < PASSES {
        let start = Instant::now();
        pass();
        least = least.min(start.elapsed().as_secs_f64());
    }
    least
}

/// The loops of the best instruction set that this CPU has, and the products of one step of each.
struct Loops {
    isa: Isa,
    f32_products: usize,
    int8_products: usize,
}

impl Loops {
    fn best() -> Loops {
        let own = |isa: &Isa| isa.available() && isa.base().is_none();
        let isa = Isa::ALL.iter().copied().find(own).unwrap_or(Isa::Portable);
        let [f32_products, int8_products] = match isa {
            Isa::Avx512Vnni => [16 * SUMS, 64 * SUMS],
            Isa::Avx2 => [8 * SUMS, 32 * SUMS],
            _ => [8 * SUMS, 16 * SUMS],
        };
        Loops { isa, f32_products, int8_products }
    }

    fn read_part(&self, words: &[u64], streams: usize) -> u64 {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `best` gives this only where the CPU has it.
            Isa::Avx512Vnni => unsafe { sum_avx512(words, streams) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { sum_avx2(words, streams) },
            _ => sum(words, streams),
        }
    }

    fn f32_part(&self) {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `best` gives this only where the CPU has it.
            Isa::Avx512Vnni => unsafe { f32_avx512() },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { f32_avx2() },
            _ => f32_in(Portable::TOKEN),
        }
    }

    fn int8_part(&self) {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `best` gives this only where the CPU has it.
            Isa::Avx512Vnni => unsafe { int8_avx512() },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { int8_avx2() },
            _ => int8_portable(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn sum_avx512(words: &[u64], streams: usize) -> u64 {
    sum(words, streams)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_avx2(words: &[u64], streams: usize) -> u64 {
    sum(words, streams)
}

#[inline(always)]
fn f32_in<S: Lanes>(s: S) {
    let (a, b) = (s.splat(black_box(0.999)), s.splat(black_box(1e-3)));
    let mut sums = [b; SUMS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = s.fma(*sum, a, b);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn f32_avx512() {
    // SAFETY: the function has these features.
    f32_in(unsafe { Avx512::assume() }.wide());
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn f32_avx2() {
    // SAFETY: the function has these features.
    f32_in(unsafe { Avx2::assume() });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn int8_avx512() {
    let [a, b] = black_box([3, 5]).map(|v| _mm512_set1_epi8(v));
    let mut sums = [_mm512_setzero_si512(); SUMS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    black_box(sums);
}

/// Multiply-adds of pairs to 16 bits, of those to 32 bits, and the addition: what AVX2 has.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn int8_avx2() {
    let [a, b] = black_box([3, 5]).map(|v| _mm256_set1_epi8(v));
    let ones = black_box(_mm256_set1_epi16(1));
    let mut sums = [_mm256_setzero_si256(); SUMS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            // What is multiplied changes with each step: the product is not made once for all.
            let pairs = _mm256_maddubs_epi16(_mm256_xor_si256(a, *sum), b);
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
        }
    }
    black_box(sums);
}

fn int8_portable() {
    let (a, b) = (black_box([3_i8; 16]), black_box([5_i8; 16]));
    let mut sums = [[0_i32; 16]; SUMS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
                *sum = sum.wrapping_add((i32::from(a) ^ (*sum & 1)) * i32::from(b));
            }
        }
    }
    black_box(sums);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_words_are_read() {
        let words: Vec<u64> = (0..256).collect();
        for streams in STREAMS {
            assert_eq!(sum(&words, streams), 255 * 128);
            assert_eq!(Loops::best().read_part(&words, streams), 255 * 128);
        }
    }

    #[test]
    fn this_machine_has_ceilings() {
        let Ceilings { read, f32_ops, int8_ops } = Ceilings::measure(&Pool::new(1));
        // Any machine that runs the tests reads 100 MB and computes 100 million a second.
        for rate in [read, f32_ops, int8_ops] {
            assert!(rate.is_finite() && rate > 1e8, "{rate}");
        }
    }
}
