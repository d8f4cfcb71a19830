//! A connection's life: its state and what else changes while it is there, in one word, so that of two who change it at once each
//! sees what the other did.

use super::entry::Direction;
use super::state::State;
use crate::packet::tcp::Flags;

/// State, flags and generation in one word, so that a state changes only in a connection that is alive.
///
/// Bits 0–7 state, bit 8 alive, bit 9 a packet from the server has been seen, bit 12 (of a template) a client has got through
/// to the server, bit 13 (of a template) it counts no longer, bit 14 (of a template) its service schedules each packet by itself,
/// bit 15 it is a template, bit 16 whoever opens it is done, bit 17 there is an [extension](super::wide),
/// bit 18 (of a template) there is a [note](super::note), bit 19 there is an [inside](super::inside), bits 32–63 generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life(pub(super) u64);

impl Life {
    pub(super) const ALIVE: u64 = 1 << 8;
    const REPLIED: u64 = 1 << 9;
    const ASSURED: u64 = 1 << 12;
    const INVALID: u64 = 1 << 13;
    pub(super) const ONE_PACKET: u64 = 1 << 14;
    pub(super) const TEMPLATE: u64 = 1 << 15;
    pub(super) const COMPLETE: u64 = 1 << 16;
    pub(super) const WIDE: u64 = 1 << 17;
    pub(super) const NOTED: u64 = 1 << 18;
    pub(super) const INSIDE: u64 = 1 << 19;
    // The states in which most packets change nothing, by their codes: compared without a look into a table of states.
    const ESTABLISHED: u8 = State::Established.code();
    const UDP: u8 = State::Udp.code();
    const SCTP_ESTABLISHED: u8 = State::SctpEstablished.code();

    /// False once somebody has decided that the connection ends.
    #[inline]
    pub fn is_alive(self) -> bool {
        self.0 & Self::ALIVE != 0
    }

    /// True once a packet from the server has been seen.
    #[inline]
    pub fn has_replied(self) -> bool {
        self.0 & Self::REPLIED != 0
    }

    /// Of a template: true once a connection under it has been established.
    #[inline]
    pub fn is_assured(self) -> bool {
        self.0 & Self::ASSURED != 0
    }

    /// Of a template: true once its server may not be chosen any more. It stays until its time is up and leads nobody there.
    #[inline]
    pub fn is_invalid(self) -> bool {
        self.0 & Self::INVALID != 0
    }

    /// True for a persistence template.
    #[inline]
    pub fn is_template(self) -> bool {
        self.0 & Self::TEMPLATE != 0
    }

    /// True once it is found by all flows that it is to be found by. Until then nobody but who opens it may end it, or what
    /// ends would still be made known.
    #[inline]
    pub fn is_complete(self) -> bool {
        self.0 & Self::COMPLETE != 0
    }

    /// Of a template: true where what is under it is one packet each time, so that it is never assured.
    #[inline]
    pub fn is_for_one_packet(self) -> bool {
        self.0 & Self::ONE_PACKET != 0
    }

    /// True where the connection's addresses are in an entry of their own.
    #[inline]
    pub(super) fn is_wide(self) -> bool {
        self.0 & Self::WIDE != 0
    }

    /// True where the server's side of the connection is in an entry of its own.
    #[inline]
    pub(super) fn has_inside(self) -> bool {
        self.0 & Self::INSIDE != 0
    }

    /// True where the connection has more entries than one.
    #[inline]
    pub(super) fn has_more_entries(self) -> bool {
        self.0 & (Self::WIDE | Self::INSIDE) != 0
    }

    /// Of a template: true where a persistence engine has noted something with it.
    #[inline]
    pub(super) fn has_note(self) -> bool {
        self.0 & Self::NOTED != 0
    }

    /// The connection's state.
    #[inline]
    pub fn state(self) -> State {
        State::from_code(self.0 as u8)
    }

    /// False for nearly every packet, which changes nothing: one that neither opens nor closes anything, of an established
    /// connection; by TCP, such a one acknowledges.
    #[inline]
    pub fn may_change(self, direction: Direction, flags: Flags) -> bool {
        const MOVING: u8 = Flags::SYN | Flags::FIN | Flags::RST;
        let is_first_reply = direction == Direction::ToClient && !self.has_replied();
        match self.0 as u8 {
            Self::ESTABLISHED => flags.0 & (MOVING | Flags::ACK) != Flags::ACK || is_first_reply,
            Self::UDP | Self::SCTP_ESTABLISHED => flags.any(MOVING) || is_first_reply,
            _ => true,
        }
    }

    /// How many lives the entry has had; tells a stale reference.
    #[inline]
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The same connection in another state.
    #[inline]
    #[must_use]
    pub fn with_state(self, state: State) -> Self {
        Self(self.0 & !0xff | u64::from(state.code()))
    }

    /// The same connection, which somebody has decided ends.
    #[inline]
    #[must_use]
    pub(super) fn ended(self) -> Self {
        Self(self.0 & !Self::ALIVE)
    }

    /// The same template, with a connection established under it.
    #[inline]
    #[must_use]
    pub(super) fn with_assurance(self) -> Self {
        Self(self.0 | Self::ASSURED)
    }

    /// The same template, which counts no longer.
    #[inline]
    #[must_use]
    pub(super) fn invalid(self) -> Self {
        Self(self.0 | Self::INVALID)
    }

    /// The same connection, with a packet from the server seen.
    #[inline]
    #[must_use]
    pub fn with_reply(self) -> Self {
        Self(self.0 | Self::REPLIED)
    }
}
