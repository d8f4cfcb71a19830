//! Which slots of a bucket match: all of them compared at once and without a branch, for which of them it is cannot be
//! predicted.
//!
//! Each slot is seen as a relaxed load would see it. What comes out is a hint until the slot itself has been loaded.

use crate::sync::{AtomicU64, Ordering};

/// A bit for each of `slots` that equals `wanted` in the bits of `mask`, all of which are in the upper half.
#[inline]
pub(super) fn matches(slots: &[AtomicU64], wanted: u64, mask: u64) -> u32 {
    debug_assert_eq!(mask as u32, 0);
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    if let Ok(slots) = slots.try_into() {
        // SAFETY: every x86-64 processor has SSE2.
        return unsafe { sse2::matches(slots, (wanted >> 32) as i32, (mask >> 32) as i32) };
    }
    one_by_one(slots, wanted, mask)
}

#[inline]
fn one_by_one(slots: &[AtomicU64], wanted: u64, mask: u64) -> u32 {
    slots.iter().enumerate().fold(0, |matches, (n, slot)| {
        matches | u32::from((slot.load(Ordering::Relaxed) ^ wanted) & mask == 0) << n
    })
}

/// SSE2 is part of x86-64, so that nothing has to be chosen when the program runs.
#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
mod sse2 {
    use super::*;
    use std::arch::asm;
    use std::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_castps_si128, _mm_castsi128_ps, _mm_cmpeq_epi32, _mm_movemask_epi8,
        _mm_packs_epi16, _mm_packs_epi32, _mm_set1_epi32, _mm_shuffle_ps,
    };

    /// As [`super::matches`], given the upper halves.
    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn matches(slots: &[AtomicU64; 7], wanted: i32, mask: i32) -> u32 {
        let [a, b, c, d] = load(slots);
        let (wanted, mask) = (_mm_set1_epi32(wanted), _mm_set1_epi32(mask));
        let first = _mm_cmpeq_epi32(_mm_and_si128(upper_halves(a, b), mask), wanted);
        let second = _mm_cmpeq_epi32(_mm_and_si128(upper_halves(c, d), mask), wanted);
        let words = _mm_packs_epi32(first, second);
        // What stands in for an eighth slot is no slot.
        _mm_movemask_epi8(_mm_packs_epi16(words, words)) as u32 & 0x7f
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn upper_halves(a: __m128i, b: __m128i) -> __m128i {
        _mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(_mm_castsi128_ps(a), _mm_castsi128_ps(b)))
    }

    /// The slots, two in each. In assembler, because other threads write to them: a plain load would be a data race by
    /// Rust's rules, and an atomic load fills no vector register.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn load(slots: &[AtomicU64; 7]) -> [__m128i; 4] {
        let (a, b, c, d);
        // SAFETY: the loads are within `slots`; unaligned ones are allowed. The processor loads each aligned eight bytes in
        // one piece, as it does for a relaxed atomic load.
        unsafe {
            asm!(
                "movdqu {a}, [{slots}]",
                "movdqu {b}, [{slots} + 16]",
                "movdqu {c}, [{slots} + 32]",
                "movq {d}, [{slots} + 48]",
                slots = in(reg) slots.as_ptr(),
                a = lateout(xmm_reg) a,
                b = lateout(xmm_reg) b,
                c = lateout(xmm_reg) c,
                d = lateout(xmm_reg) d,
                options(readonly, nostack, preserves_flags),
            );
        }
        [a, b, c, d]
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MASK: u64 = 0xffff_fff7 << 32;

    proptest! {
        #[test]
        fn vectors_see_what_single_comparisons_see(
            wanted: u64,
            slots: [(u64, bool); 7],
        ) {
            let wanted = wanted & MASK;
            // Every other slot or so matches; what the mask leaves out never counts.
            let slots = slots.map(|(other, same)| AtomicU64::new(if same { wanted | other & !MASK } else { other }));
            prop_assert_eq!(matches(&slots, wanted, MASK), one_by_one(&slots, wanted, MASK));
        }
    }

    #[test]
    fn each_slot_has_its_bit() {
        for n in 0..7 {
            let slots: [AtomicU64; 7] =
                std::array::from_fn(|m| AtomicU64::new(if n == m { MASK | 5 } else { 9 << 32 }));
            assert_eq!(matches(&slots, MASK, MASK), 1 << n);
        }
    }
}
