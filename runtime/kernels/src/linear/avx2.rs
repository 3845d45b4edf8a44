//! Integers of products with weights in quads, in AVX2 instructions: 8 outputs of a tile in the lanes, 4
//! columns of a quad in each lane, against the broadcast quad of the activations.
//!
//! 4-bit: `maddubs` gives sums of two products in i16, and the 8 quads of a block are added
//! there: 15 * 128 * 2 * 8 = 30,720 fits. 8-bit: `maddubs` takes the magnitudes of the weights
//! and the activations with the weights' signs (128 * 128 * 2 = 32,768 is reached only by a
//! negative sum, so it fits), and `madd` widens each quad to i32.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use super::portable::{block_columns, is_bytes};
use super::quads::Dots;
use crate::isa::Avx2;
use std::arch::asm;
use std::arch::x86_64::*;

/// `sums + maddubs(w, a)`. Of several rows these are two instructions that stay together: left to itself
/// the compiler adds products in a tree, whose leaves do not fit into registers, and a tile takes 1.2
/// times as long.
#[inline]
#[target_feature(enable = "avx2")]
fn add_pairs<const ROWS: usize>(sums: __m256i, w: __m256i, a: __m256i) -> __m256i {
    if ROWS == 1 {
        return _mm256_add_epi16(sums, _mm256_maddubs_epi16(w, a));
    }
    let sum;
    // SAFETY: instructions of AVX2 on registers; the sum is written when all inputs were read.
    unsafe {
        asm!(
            "vpmaddubsw {pairs}, {w}, {a}",
            "vpaddw {sum}, {sum}, {pairs}",
            w = in(ymm_reg) w,
            a = in(ymm_reg) a,
            sum = inlateout(ymm_reg) sums => sum,
            pairs = out(ymm_reg) _,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Adds the products of 4-bit records with the quads in the low and in the high halves of their
/// vector `at` to sums of pairs.
///
/// # Safety
/// As for [`Dots::dots`].
#[inline(always)]
unsafe fn add_two_quads<const ROWS: usize, const TILES: usize>(
    records: [*const u8; TILES],
    q: [*const i8; ROWS],
    at: usize,
    sums: &mut [[__m256i; TILES]; ROWS],
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mask = _mm256_set1_epi8(15);
        let mut low = [_mm256_setzero_si256(); TILES];
        let mut high = low;
        for t in 0..TILES {
            let w = _mm256_loadu_si256(records[t].add(at * 32).cast());
            low[t] = _mm256_and_si256(w, mask);
            high[t] = _mm256_and_si256(_mm256_srli_epi16::<4>(w), mask);
        }
        for r in 0..ROWS {
            let q = q[r].add(at * 4).cast::<i32>();
            let (a_low, a_high) = (q.read_unaligned(), q.add(4).read_unaligned());
            let (a_low, a_high) = (_mm256_set1_epi32(a_low), _mm256_set1_epi32(a_high));
            for t in 0..TILES {
                sums[r][t] = add_pairs::<ROWS>(sums[r][t], low[t], a_low);
            }
            for t in 0..TILES {
                sums[r][t] = add_pairs::<ROWS>(sums[r][t], high[t], a_high);
            }
        }
    }
}

impl Dots for Avx2 {
    type Eight = __m256i;

    #[inline(always)]
    unsafe fn dots<const VALUES: u8, const ROWS: usize, const TILES: usize>(
        self,
        records: [*const u8; TILES],
        q: [*const i8; ROWS],
    ) -> [[__m256i; TILES]; ROWS] {
        // SAFETY: the caller's contract; a record starts with a vector of 32 bytes for each quad of 4
        // columns, or for two of them where values have 4 bits.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); TILES]; ROWS];
            let ones = _mm256_set1_epi16(1);
            if is_bytes(VALUES) {
                for quad in 0..block_columns(VALUES) / 4 {
                    let mut w = [_mm256_setzero_si256(); TILES];
                    for t in 0..TILES {
                        w[t] = _mm256_loadu_si256(records[t].add(quad * 32).cast());
                    }
                    for r in 0..ROWS {
                        let a =
                            _mm256_set1_epi32(q[r].add(quad * 4).cast::<i32>().read_unaligned());
                        for t in 0..TILES {
                            let signed = _mm256_sign_epi8(a, w[t]);
                            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w[t]), signed);
                            let quads = _mm256_madd_epi16(pairs, ones);
                            sums[r][t] = _mm256_add_epi32(sums[r][t], quads);
                        }
                    }
                }
                return sums;
            }
            for quads in 0..4 {
                add_two_quads(records, q, quads, &mut sums);
            }
            for row in &mut sums {
                for sum in row {
                    *sum = _mm256_madd_epi16(*sum, ones);
                }
            }
            sums
        }
    }

    #[inline(always)]
    fn floats(self, dots: __m256i, offset: i32) -> __m256 {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_cvtepi32_ps(_mm256_add_epi32(dots, _mm256_set1_epi32(offset))) }
    }
}
