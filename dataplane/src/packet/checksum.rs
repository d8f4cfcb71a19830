//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624). Values are as the field holds them,
//! read big-endian.

/// The checksum over `bytes` with the checksum field counted in: 0 where it is right (RFC 1071).
#[inline]
pub fn verify(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// The one's complement sum of `bytes` as 16-bit big-endian words, not yet folded; an odd byte is padded with 0.
#[inline]
pub fn sum(bytes: &[u8]) -> u32 {
    let mut words = bytes.chunks_exact(2);
    let mut total: u32 = words.by_ref().map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    if let [last] = words.remainder() {
        total += u32::from(*last) << 8;
    }
    total
}

/// Folds the carries of `sum` back into 16 bits.
#[inline]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The sum of the pseudo-header that TCP and UDP checksums cover over IPv4 (RFC 9293 §3.1), not yet folded. Addresses as
/// numbers; `length` is that of the segment, header included.
#[inline]
pub fn pseudo_ipv4(source: u32, destination: u32, protocol: u8, length: u16) -> u32 {
    let halves = |address: u32| (address >> 16) + (address & 0xffff);
    halves(source) + halves(destination) + u32::from(protocol) + u32::from(length)
}

/// The same over IPv6 (RFC 8200 §8.1), where ICMPv6 checksums cover it, too. `protocol` is the upper one, whatever extension headers
/// come before it.
#[inline]
pub fn pseudo_ipv6(source: u128, destination: u128, protocol: u8, length: u32) -> u32 {
    sum(&source.to_be_bytes())
        + sum(&destination.to_be_bytes())
        + u32::from(protocol)
        + (length >> 16)
        + (length & 0xffff)
}

/// Folds a sum of 32-bit words: their halves carry into each other as 16-bit words do.
#[inline]
fn fold_words(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// True where [`verify`] gives 0, for a header that is not all zeros. In words of 64 bits, whose carries count as ones (RFC
/// 1071 §2), and in whatever byte order: what folds to all ones is a multiple of 0xffff, and stays one when its bytes
/// are swapped.
#[inline]
pub fn is_right(header: &[u8; 20]) -> bool {
    let (words, rest) = header.as_chunks::<8>();
    let [a, b] = [words[0], words[1]].map(u64::from_ne_bytes);
    let c = rest.first_chunk().map_or(0, |word| u32::from_ne_bytes(*word));
    let (sum, first) = a.overflowing_add(b);
    let (sum, second) = sum.overflowing_add(u64::from(c) + u64::from(first));
    // No further carry: after one, what is left is far below 2^64.
    (sum + u64::from(second)) % 0xffff == 0
}

/// ~m + (m - 0x0100), which is the same for every m whose high byte is not 0.
const DECREMENT_HIGH_BYTE: u16 = 0xfeff;

/// Four bytes, read as a little-endian number, after one has been taken off the first, which is not 0: the time to live. The
/// last two are a checksum that covers it. In this order of bytes the sum loses 1, and so its complement gains 1; as the sum's
/// two zeros are one (RFC 1071 §2), 0xffff is passed over.
#[inline]
pub fn decrement_first_byte(word: u32) -> u32 {
    let carry = u32::from(word >= 0xfffe_0000);
    word.wrapping_add(0xffff).wrapping_add(carry << 16)
}

/// How an address and a port change, as what is to be added to the sums over them: Σ(~m + m') of RFC 1624,
/// equation 3. Made once per packet, applied to each checksum that covers them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Difference(u64);

impl Difference {
    /// Adds the replacement of the 32-bit `old` by `new`.
    #[inline]
    #[must_use]
    pub fn replace_u32(self, old: u32, new: u32) -> Self {
        Self(self.0 + u64::from(!old) + u64::from(new))
    }

    /// Adds the replacement of the 16-bit `old` by `new`.
    #[inline]
    #[must_use]
    pub fn replace_u16(self, old: u16, new: u16) -> Self {
        Self(self.0 + u64::from(!old) + u64::from(new))
    }

    /// Adds the replacement of the 128-bit `old` by `new`.
    #[inline]
    #[must_use]
    pub fn replace_u128(self, old: u128, new: u128) -> Self {
        let word = |number: u128, n: u32| (number >> (32 * n)) as u32;
        (0..4).fold(self, |change, n| change.replace_u32(word(old, n), word(new, n)))
    }

    /// Both changes.
    #[inline]
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Adds words that were not there before, as their [`sum`].
    #[inline]
    #[must_use]
    pub fn insert(self, sum: u32) -> Self {
        Self(self.0 + u64::from(sum))
    }

    /// Takes away words that are there no more, as their [`sum`].
    #[inline]
    #[must_use]
    pub fn remove(self, sum: u32) -> Self {
        Self(self.0 + u64::from(!sum))
    }

    /// Adds one taken off the high byte of a word, as the time to live is.
    #[inline]
    #[must_use]
    pub fn decrement_high_byte(self) -> Self {
        Self(self.0 + u64::from(DECREMENT_HIGH_BYTE))
    }

    /// The checksum field that was `check` before the change: HC' = ~(~HC + Σ(~m + m')).
    #[inline]
    pub fn apply(self, check: u16) -> u16 {
        !fold_words(u64::from(!check) + self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_1071_example() {
        // RFC 1071 §3: these words sum to 0xddf2.
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        assert_eq!(sum(&[0x12, 0x34, 0x56]), 0x1234 + 0x5600);
    }

    #[test]
    fn rfc_1624_example() {
        // RFC 1624 §4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000 and not 0xFFFF.
        assert_eq!(Difference::default().replace_u16(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn taking_one_off_the_first_byte_is_the_same_in_either_order_of_bytes() {
        for check in 0..=u16::MAX {
            for first in [1, 2, 64, 255] {
                let [a, b] = check.to_be_bytes();
                let [c, d] = Difference::default().decrement_high_byte().apply(check).to_be_bytes();
                let word = decrement_first_byte(u32::from_le_bytes([first, 6, a, b]));
                assert_eq!(word.to_le_bytes(), [first - 1, 6, c, d]);
            }
        }
    }

    #[test]
    fn pseudo_headers() {
        let bytes = [203, 0, 113, 9, 198, 51, 100, 8, 0, 17, 0, 21];
        assert_eq!(pseudo_ipv4(0xcb00_7109, 0xc633_6408, 17, 21), sum(&bytes));
        let (source, destination) = (u128::MAX, 0x2001_0db8_u128 << 96 | 0xffff);
        let length = 0x0001_0002_u32;
        let bytes =
            [&source.to_be_bytes()[..], &destination.to_be_bytes(), &length.to_be_bytes(), &[0, 0, 0, 58]];
        assert_eq!(pseudo_ipv6(source, destination, 58, length), sum(&bytes.concat()));
    }

    proptest! {
        #[test]
        fn longer_addresses_change_and_words_come_and_go(
            words in prop::collection::vec(any::<u16>(), 1..20),
            gone in prop::collection::vec(any::<u16>(), 0..8),
            come in prop::collection::vec(any::<u16>(), 0..8),
            old: u128, new: u128,
        ) {
            let bytes = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
            let (words, gone, come) = (bytes(&words), bytes(&gone), bytes(&come));
            // A one keeps the sums from being those of zeros only, for which both zeros would do.
            let before = [&[0, 1], &words[..], &gone, &old.to_be_bytes()].concat();
            let after = [&[0, 1], &words[..], &come, &new.to_be_bytes()].concat();
            let change = Difference::default().replace_u128(old, new).remove(sum(&gone)).insert(sum(&come));
            prop_assert_eq!(change.apply(verify(&before)), verify(&after));
        }

        #[test]
        fn the_update_equals_a_recomputation(mut bytes in prop::collection::vec(any::<u8>(), 20..64), new: u32, port: u16) {
            bytes[0] |= 0x45; // a header is never all zeros, for which both zeros would do
            bytes[10..12].fill(0);
            let check = verify(&bytes);
            bytes[10..12].copy_from_slice(&check.to_be_bytes());
            let old = u32::from_be_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
            let old_port = u16::from_be_bytes([bytes[4], bytes[5]]);
            bytes[16..20].copy_from_slice(&new.to_be_bytes());
            bytes[4..6].copy_from_slice(&port.to_be_bytes());
            let updated = Difference::default().replace_u32(old, new).replace_u16(old_port, port).apply(check);
            bytes[10..12].copy_from_slice(&updated.to_be_bytes());
            prop_assert_eq!(verify(&bytes), 0);
        }
    }
}
