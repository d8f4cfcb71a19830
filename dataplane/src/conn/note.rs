//! What a persistence engine notes with a template: the client and the engine's data, in further entries of the pool.
//!
//! A template of an engine is found by a hash that stands where others have the client's address; lists show what is noted. Each
//! of the entries holds the next one's index and 44 bytes; the template's first line, whose addresses are elsewhere, holds the first
//! one's index and how many bytes there are. As [extensions](super::wide) they are not alive, and are allocated and retired
//! together with the template.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};

use arrayvec::ArrayVec;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::connections::Connections;
use super::entry::{Entry, Index};
use super::table::ConnectionTable;
use crate::packet::sip::LONGEST_CALL_ID;
use crate::parse::AnyFlow;

/// Bytes in front of the data: the client's address, IPv4 mapped into IPv6.
const CLIENT: usize = 16;
const LONGEST: usize = CLIENT + LONGEST_CALL_ID;
/// Bytes in an entry.
const PIECE: usize = 44;

/// What is noted with a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The client, or the network of clients, that the template is of.
    pub client: IpAddr,
    /// The engine's data: a Call-ID.
    pub data: ArrayVec<u8, LONGEST_CALL_ID>,
}

impl Note {
    /// Of this client and data, of which only the first 255 bytes count.
    pub fn new(client: IpAddr, data: &[u8]) -> Self {
        Self { client, data: data.iter().copied().take(LONGEST_CALL_ID).collect() }
    }

    fn bytes(&self) -> ArrayVec<u8, LONGEST> {
        let client = match self.client {
            IpAddr::V4(client) => client.to_ipv6_mapped(),
            IpAddr::V6(client) => client,
        };
        client.octets().into_iter().chain(self.data.iter().copied()).collect()
    }
}

/// A piece and the next one's index plus 1, as an entry holds them.
fn words(piece: &[u8], next: u32) -> [u128; 3] {
    let mut bytes = [0; 48];
    bytes[..4].copy_from_slice(&next.to_be_bytes());
    bytes[4..4 + piece.len()].copy_from_slice(piece);
    [0, 16, 32].map(|at| bytes[at..].first_chunk().map_or(0, |word| u128::from_be_bytes(*word)))
}

impl ConnectionTable {
    /// The key of a template of an engine, that would have this `key` without one. A hash of 128 bits that is seeded with the table's
    /// secret numbers stands for client and data: no two are ever the same.
    pub fn engine_key(&self, key: AnyFlow, data: &[u8]) -> AnyFlow {
        let [x, y] = self.seeds;
        let mut hasher = SipHasher13::new_with_keys(x, y);
        key.hash(&mut hasher);
        data.hash(&mut hasher);
        AnyFlow::engine_template(key, hasher.finish128().as_u128())
    }

    /// What is noted with the template in `entry`; `None` where nothing is. Of an entry that changes meanwhile it may be anything.
    pub fn note(&self, entry: &Entry) -> Option<Note> {
        let (mut next, length) = entry.note().filter(|_| entry.life().has_note())?;
        let mut bytes = ArrayVec::<u8, LONGEST>::new();
        while bytes.len() < length.min(LONGEST) {
            let piece = self.entries.get(next?.0 as usize)?;
            let words =
                [piece.first_words(), piece.second_words(), piece.third_words()].map(u128::to_be_bytes);
            let (index, data) = words.as_flattened().split_first_chunk()?;
            next = u32::from_be_bytes(*index).checked_sub(1).map(Index);
            let left = length.min(LONGEST) - bytes.len();
            bytes.extend(data.iter().copied().take(left));
        }
        let (client, data) = bytes.split_first_chunk::<CLIENT>()?;
        Some(Note::new(Ipv6Addr::from(*client).to_canonical(), data))
    }

    /// The entries of a note from this one on.
    fn pieces(&self, first: Index) -> ArrayVec<Index, { LONGEST.div_ceil(PIECE) }> {
        let next = |Index(index): &Index| {
            let word = (self.entries.get(*index as usize)?.first_words() >> 96) as u32;
            word.checked_sub(1).map(Index)
        };
        std::iter::successors(Some(first), next).take(LONGEST.div_ceil(PIECE)).collect()
    }
}

impl Connections {
    /// Fills entries with the note: the first one's index. `None`, and none taken, where there are not enough.
    pub(super) fn take_note(&mut self, note: &Note) -> Option<(Index, usize)> {
        let bytes = note.bytes();
        let mut next: Option<Index> = None;
        // From the last one to the first, as each holds the next one's index.
        for piece in bytes.chunks(PIECE).rev() {
            let Some(index) = self.pool.allocate(&self.table) else {
                next.into_iter().for_each(|first| self.put_back_pieces(first));
                return None;
            };
            self.table.entry(index).set_words(words(piece, next.map_or(0, |Index(next)| next + 1)));
            next = Some(index);
        }
        next.map(|first| (first, bytes.len()))
    }

    /// Gives up the note of the template in the entry at `index`, which has just ended.
    #[cold]
    pub(super) fn retire_note(&mut self, index: Index) {
        let first = self.table.entry(index).note().and_then(|(first, _)| first);
        for piece in first.map(|first| self.table.pieces(first)).into_iter().flatten() {
            self.pool.retire(&self.table, piece);
        }
    }

    /// Gives back the entries of a note from this one on, which nobody has found.
    #[cold]
    pub(super) fn put_back_pieces(&mut self, first: Index) {
        for piece in self.table.pieces(first) {
            self.pool.put_back(&self.table, piece);
        }
    }
}
