//! VLAN tags (IEEE 802.1Q): four bytes each between a frame's addresses and its type, one of them or two (QinQ, IEEE 802.1ad).
//!
//! A tag is a type and 16 bits: priority 3, drop eligible 1, VLAN id 12. Id 0 names no VLAN, only a priority.

use super::ethernet::ethertype;
use super::read_u16;
use crate::wire::Frame;

/// Bytes of the addresses in front of the tags.
const ADDRESSES: usize = 12;

/// The length of a tag.
pub const TAG: usize = 4;

/// The most tags that are looked at.
const MOST: usize = 2;

/// The largest id that a VLAN can have; 4095 is reserved (IEEE 802.1Q §9.6).
pub const MAX_ID: u16 = 4094;

/// True for the types that tags have: that of 802.1Q, and that of 802.1ad's outer tag.
#[inline]
pub fn is_tag(kind: u16) -> bool {
    matches!(kind, ethertype::VLAN | ethertype::SERVICE_VLAN)
}

/// Which VLAN a frame is of, among those on its wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VlanId {
    /// The outer tag's id; 0 where there is one tag only.
    outer: u16,
    /// The id of the tag next to the payload.
    inner: u16,
}

impl VlanId {
    /// The VLAN `id`, within the VLAN `outer` where that is one. `None` unless both are from 1 to [`MAX_ID`].
    pub fn new(outer: Option<u16>, id: u16) -> Option<Self> {
        let is_id = |id: u16| (1..=MAX_ID).contains(&id);
        (is_id(id) && outer.is_none_or(is_id)).then_some(Self { outer: outer.unwrap_or(0), inner: id })
    }

    /// The id of the tag next to the payload.
    pub fn id(self) -> u16 {
        self.inner
    }

    /// The outer tag's id, where there are two.
    pub fn outer(self) -> Option<u16> {
        (self.outer != 0).then_some(self.outer)
    }
}

impl std::fmt::Display for VlanId {
    /// `10`, or `100.10` for VLAN 10 within 100.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.outer() {
            Some(outer) => write!(f, "{outer}.{}", self.inner),
            None => write!(f, "{}", self.inner),
        }
    }
}

/// The tags of all frames sent to a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tags {
    bytes: [u8; MOST * TAG],
    length: u8,
}

impl Tags {
    /// Those of the VLAN `id`. `outer_type` is the outer tag's type where there are two, and `priority`, of which three bits count, is in
    /// both. Frames are not eligible to be dropped first.
    pub fn new(id: VlanId, outer_type: u16, priority: u8) -> Self {
        let mut bytes = [0; MOST * TAG];
        let mut length = 0;
        let outer = id.outer().map(|outer| (outer_type, outer));
        for (kind, id) in outer.into_iter().chain([(ethertype::VLAN, id.inner)]) {
            let control = u16::from(priority & 7) << 13 | id;
            bytes[length..length + 2].copy_from_slice(&kind.to_be_bytes());
            bytes[length + 2..length + TAG].copy_from_slice(&control.to_be_bytes());
            length += TAG;
        }
        Self { bytes, length: length as u8 }
    }

    /// Puts them into an untagged frame. False, and nothing done, where there is no room in front of it, or it has no header.
    #[inline]
    #[must_use]
    pub fn push<F: Frame>(&self, frame: &mut F) -> bool {
        let length = usize::from(self.length);
        if frame.data().len() < ADDRESSES {
            return false;
        }
        let Some(bytes) = frame.prepend(length) else { return false };
        bytes.copy_within(length..length + ADDRESSES, 0);
        bytes[ADDRESSES..ADDRESSES + length].copy_from_slice(&self.bytes[..length]);
        true
    }
}

/// What the tags in front of a frame's payload say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    ids: [u16; MOST],
    count: usize,
}

impl Received {
    /// Reads the tags of a frame, two at most, of either type wherever they are: what hands frames over may have written the type of
    /// 802.1Q into an outer tag, as Linux's packet sockets do. `None` where the frame ends before its type does.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let mut received = Self::default();
        for (n, id) in received.ids.iter_mut().enumerate() {
            let tag = frame.get(ADDRESSES + n * TAG..)?;
            if !is_tag(read_u16(tag.get(..2)?, 0)) {
                break;
            }
            // A type follows every tag.
            *id = read_u16(tag.get(2..TAG + 2)?, 0) & 0x0fff;
            received.count = n + 1;
        }
        Some(received)
    }

    /// The VLANs that the frame may be of, the narrowest first, each with how many tags tell it: `None` is no VLAN, only a priority.
    pub fn candidates(self) -> impl Iterator<Item = (Option<VlanId>, usize)> {
        let of = |outer: u16, inner: u16| {
            // An id of 0 beside another one says nothing.
            let (outer, inner) = if inner == 0 { (0, outer) } else { (outer, inner) };
            (inner != 0).then_some(VlanId { outer, inner })
        };
        let [first, second] = self.ids;
        let both = (self.count == 2).then(|| (of(first, second), 2));
        let one = (self.count > 0).then(|| (of(0, first), 1));
        both.into_iter().chain(one)
    }
}

/// Takes so many tags out of a frame. False, and nothing done, where it is shorter.
#[must_use]
pub fn pop<F: Frame>(frame: &mut F, tags: usize) -> bool {
    let length = tags * TAG;
    if frame.data().len() < ADDRESSES + length {
        return false;
    }
    frame.data_mut().copy_within(..ADDRESSES, length);
    frame.trim_front(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::vectors::vectors;
    use crate::wire::memory::MemoryFrame;

    fn id(outer: u16, id: u16) -> VlanId {
        VlanId::new((outer > 0).then_some(outer), id).unwrap()
    }

    /// Each case: a name `TYPES/IDS/PRIORITY/WHAT`, the frame with its tags, and without.
    fn cases() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
        let cases = vectors(include_str!("../../tests/scapy/vlan.txt"));
        cases.into_iter().map(|(name, mut frames)| (name, frames.remove(0), frames.remove(0))).collect()
    }

    fn numbers(text: &str, radix: u32) -> Vec<u16> {
        text.split('+').map(|number| u16::from_str_radix(number, radix).unwrap()).collect()
    }

    #[test]
    fn tags_are_those_that_scapy_makes() {
        let mut pushed = 0;
        for (name, tagged, plain) in cases() {
            let [types, ids, priority, ..] = name.split('/').collect::<Vec<_>>()[..] else {
                panic!("{name}")
            };
            let (types, ids) = (numbers(types, 16), numbers(ids, 10));
            let mut frame = MemoryFrame::new(&tagged);
            let received = Received::read(frame.data()).unwrap();
            assert_eq!((received.count, &received.ids[..ids.len()]), (ids.len(), &ids[..]), "{name}");
            assert!(pop(&mut frame, ids.len()));
            assert_eq!(frame.data(), plain, "{name}");
            // We send no other types and no id 0.
            let is_ours = types.last() == Some(&ethertype::VLAN) && !ids.contains(&0);
            if is_ours && let Ok(priority) = priority.parse() {
                let vlan = if ids.len() == 2 { id(ids[0], ids[1]) } else { id(0, ids[0]) };
                assert!(Tags::new(vlan, types[0], priority).push(&mut frame));
                assert_eq!(frame.data(), tagged, "{name}");
                pushed += 1;
            }
        }
        assert!(pushed >= 4, "{pushed}");
    }

    #[test]
    fn the_narrowest_vlan_is_asked_for_first() {
        let candidates =
            |ids: [u16; 2], count: usize| Received { ids, count }.candidates().collect::<Vec<_>>();
        assert_eq!(candidates([100, 10], 2), [(Some(id(100, 10)), 2), (Some(id(0, 100)), 1)]);
        assert_eq!(candidates([10, 0], 1), [(Some(id(0, 10)), 1)]);
        assert_eq!(candidates([0, 10], 2), [(Some(id(0, 10)), 2), (None, 1)]);
        assert_eq!(candidates([10, 0], 2), [(Some(id(0, 10)), 2), (Some(id(0, 10)), 1)]);
        assert_eq!(candidates([0, 0], 2), [(None, 2), (None, 1)]);
        assert_eq!(candidates([0, 0], 1), [(None, 1)]);
        assert_eq!(candidates([0, 0], 0), []);
    }

    #[test]
    fn what_is_cut_short_is_told() {
        let (_, tagged, _) = cases().swap_remove(0);
        for length in 0..18 {
            assert_eq!(Received::read(&tagged[..length]), None, "{length}");
        }
        let mut short = MemoryFrame::new(&tagged[..15]);
        assert!(!pop(&mut short, 1));
        assert_eq!(short.data(), &tagged[..15]);
        let tags = Tags::new(id(0, 10), ethertype::SERVICE_VLAN, 0);
        assert!(!tags.push(&mut MemoryFrame::new(&tagged[..11])));
        let mut full = MemoryFrame::new(&tagged);
        while tags.push(&mut full) {}
        assert!(full.prepend(4).is_none());
    }

    #[test]
    fn ids_are_from_1_to_4094() {
        for (outer, inner) in [(None, 0), (None, 4095), (Some(0), 1), (Some(4095), 1), (Some(1), 0)] {
            assert_eq!(VlanId::new(outer, inner), None);
        }
        assert_eq!((id(0, 4094).to_string(), id(1, 2).to_string()), ("4094".into(), "1.2".into()));
    }
}
