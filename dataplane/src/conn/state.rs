//! The states of a connection, what moves between them, and how long each may be idle: IPVS's, to the letter
//! (Linux, ip_vs_proto_tcp.c, ip_vs_proto_udp.c and ip_vs_proto_sctp.c).

mod sctp;

use super::entry::Method;
use crate::packet::protocol;
use crate::packet::sctp::Event;
use crate::packet::tcp::Flags;
use crate::time::TICKS_PER_SECOND;

/// A connection's state. TCP's are those of IPVS, which sees both ends at best and one of them at worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Nothing has been seen that tells.
    None = 0,
    /// The client has acknowledged.
    Established,
    /// The server opens a connection.
    SynSent,
    /// The client has asked for a connection.
    SynRecv,
    /// One side has finished.
    FinWait,
    /// Both sides have finished.
    TimeWait,
    /// Reset.
    Close,
    /// The client has finished, the server not.
    CloseWait,
    /// The server has finished after the client.
    LastAck,
    /// Not entered by the tables in use.
    Listen,
    /// The server has answered a SYN (secure_tcp).
    SynAck,
    /// UDP has but one.
    Udp,
    /// ICMP echo has but one, too.
    Icmp,
    /// SCTP: nothing has been seen that tells.
    SctpNone,
    /// The client has asked for an association once.
    SctpInit1,
    /// It has done so again.
    SctpInit,
    /// The server has sent its cookie.
    SctpCookieSent,
    /// The client has sent it back.
    SctpCookieReplied,
    /// The server opens an association.
    SctpCookieWait,
    /// The client has sent its cookie.
    SctpCookie,
    /// The server has sent it back.
    SctpCookieEchoed,
    /// Both ends have agreed.
    SctpEstablished,
    /// The server shuts down.
    SctpShutdownSent,
    /// The client shuts down.
    SctpShutdownReceived,
    /// The server has acknowledged that.
    SctpShutdownAckSent,
    /// The server wants no association.
    SctpRejected,
    /// At its end.
    SctpClosed,
}

use State::{
    Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI, None as NO,
    SynAck as SA, SynRecv as SR, SynSent as SS, TimeWait as TW,
};

impl State {
    /// Every state, by its code.
    pub const ALL: [State; 27] = [
        NO,
        ES,
        SS,
        SR,
        FW,
        TW,
        CL,
        CW,
        LA,
        LI,
        SA,
        State::Udp,
        State::Icmp,
        State::SctpNone,
        State::SctpInit1,
        State::SctpInit,
        State::SctpCookieSent,
        State::SctpCookieReplied,
        State::SctpCookieWait,
        State::SctpCookie,
        State::SctpCookieEchoed,
        State::SctpEstablished,
        State::SctpShutdownSent,
        State::SctpShutdownReceived,
        State::SctpShutdownAckSent,
        State::SctpRejected,
        State::SctpClosed,
    ];

    /// The state's number.
    #[inline]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The state of a number that [`State::code`] gave.
    #[inline]
    pub(super) fn from_code(code: u8) -> Self {
        Self::ALL.get(usize::from(code)).copied().unwrap_or(NO)
    }

    /// The name that `ipvsadm -Lc` prints.
    pub const fn name(self) -> &'static str {
        match self {
            NO | State::SctpNone => "NONE",
            ES | State::SctpEstablished => "ESTABLISHED",
            SS => "SYN_SENT",
            SR => "SYN_RECV",
            FW => "FIN_WAIT",
            TW => "TIME_WAIT",
            CL => "CLOSE",
            CW => "CLOSE_WAIT",
            LA => "LAST_ACK",
            LI => "LISTEN",
            SA => "SYNACK",
            State::Udp => "UDP",
            State::Icmp => "ICMP",
            State::SctpInit1 => "INIT1",
            State::SctpInit => "INIT",
            State::SctpCookieSent => "C-SENT",
            State::SctpCookieReplied => "C-REPLIED",
            State::SctpCookieWait => "C-WAIT",
            State::SctpCookie => "COOKIE",
            State::SctpCookieEchoed => "C-ECHOED",
            State::SctpShutdownSent => "S-SENT",
            State::SctpShutdownReceived => "S-RECEIVED",
            State::SctpShutdownAckSent => "S-ACK-SENT",
            State::SctpRejected => "REJECTED",
            State::SctpClosed => "CLOSED",
        }
    }

    /// True where the connection counts in ActiveConn; else it counts in InActConn.
    #[inline]
    pub const fn is_active(self) -> bool {
        matches!(self, ES | SS | SR | SA | State::SctpEstablished)
    }

    /// True where both ends have agreed on the connection: its persistence template is assured from then on. (UDP's is with
    /// the server's first answer.)
    #[inline]
    pub const fn assures(self) -> bool {
        matches!(self, ES | State::SctpEstablished)
    }

    /// True where a SYN (SCTP: an INIT) from the client is a new connection and not this one: after its end unless
    /// `conn_reuse_mode` is 0; where bit 1 of it is set, also once the client has finished, if the server has never been seen
    /// (`one_sided`).
    #[inline]
    pub const fn ends_at_syn(self, conn_reuse_mode: i32, one_sided: bool) -> bool {
        match self {
            TW | CL | State::SctpClosed => conn_reuse_mode != 0,
            FW => conn_reuse_mode & 2 != 0 && one_sided,
            _ => false,
        }
    }

    /// The state before a new connection's first packet has been counted.
    #[inline]
    pub const fn initial(protocol: u8) -> Self {
        match protocol {
            protocol::UDP => State::Udp,
            protocol::ICMP | protocol::ICMPV6 => State::Icmp,
            protocol::SCTP => State::SctpNone,
            _ => NO,
        }
    }

    /// True for those of SCTP.
    #[inline]
    pub const fn is_sctp(self) -> bool {
        self.code() >= State::SctpNone.code()
    }
}

/// Where a packet came from, as far as the state is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// From the client.
    In = 0,
    /// From the real server.
    Out = 1,
    /// From the client, while the server's packets go past the director.
    InOnly = 2,
}

impl Seen {
    /// For a packet from the client of a connection of `method`.
    #[inline]
    pub fn from_client(method: Method, replied: bool) -> Self {
        // IPVS marks a connection without a server as nothing that is seen from one side only.
        let is_two_sided = method.sees_replies() || method == Method::Bypass;
        if is_two_sided || replied { Seen::In } else { Seen::InOnly }
    }
}

/// `TRANSITIONS[seen][first flag of SYN, FIN, ACK, RST][state]`.
#[rustfmt::skip]
const TRANSITIONS: [[[State; 11]; 4]; 3] = [
    [ // In
        [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
        [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR],
    ],
    [ // Out
        [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR],
        [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
        [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
    ],
    [ // InOnly
        [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
        [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
    ],
];

/// What replaces [`TRANSITIONS`] while the server is protected against floods of SYNs (secure_tcp): a connection is not
/// established by what the client says alone.
#[rustfmt::skip]
const STRICT_TRANSITIONS: [[[State; 11]; 4]; 3] = {
    let mut strict = TRANSITIONS;
    let [input, output, input_only] = &mut strict;
    input[0][SA as usize] = SA;
    input[1][SA as usize] = SA;
    input[2][SR as usize] = SR;
    input[2][SA as usize] = SA;
    input[3][SA as usize] = CL;
    output[0][SR as usize] = SA;
    output[0][SA as usize] = SA;
    input_only[0] = [SA, ES, ES, SR, SA, SA, SA, SA, SA, SA, SA];
    strict
};

/// Control bits that [`NEXT`] looks at, and states it has room for (SCTP's are not moved by it), so that neither can be
/// out of its bounds.
const FLAGS: usize = 32;
const STATES: usize = 16;

type Next = [[[State; STATES]; FLAGS]; 3];

/// [`TRANSITIONS`] as one load for a packet: `NEXT[seen][control bits][state]`.
static NEXT: Next = by_flags(&TRANSITIONS);
/// The same of [`STRICT_TRANSITIONS`].
static STRICT_NEXT: Next = by_flags(&STRICT_TRANSITIONS);

const fn by_flags(transitions: &[[[State; 11]; 4]; 3]) -> Next {
    let mut next = [[[State::None; STATES]; FLAGS]; 3];
    let mut seen = 0;
    while seen < next.len() {
        let mut flags = 0;
        while flags < FLAGS {
            let mut state = 0;
            while state < STATES {
                next[seen][flags][state] = if state >= transitions[seen][0].len() {
                    State::ALL[state]
                } else {
                    match row(Flags(flags as u8)) {
                        Some(row) => transitions[seen][row][state],
                        None => CL,
                    }
                };
                state += 1;
            }
            flags += 1;
        }
        seen += 1;
    }
    next
}

/// The row of [`TRANSITIONS`] for these control bits: the first of RST, SYN, FIN, ACK that is set decides. A segment with none
/// of them closes the connection, as in `set_tcp_state()`; nothing changes UDP.
const fn row(flags: Flags) -> Option<usize> {
    if flags.any(Flags::RST) {
        Some(3)
    } else if flags.any(Flags::SYN) {
        Some(0)
    } else if flags.any(Flags::FIN) {
        Some(1)
    } else if flags.any(Flags::ACK) {
        Some(2)
    } else {
        Option::None
    }
}

/// The state after a packet with these control bits, or what stands for them in SCTP; `strict` while secure_tcp is in force.
#[inline]
pub fn next(state: State, seen: Seen, flags: Flags, strict: bool) -> State {
    if state.is_sctp() {
        return sctp::next(state, seen, Event::from_flags(flags));
    }
    let next = if strict { &STRICT_NEXT } else { &NEXT };
    next[seen as usize][usize::from(flags.0) % FLAGS][usize::from(state.code()) % STATES]
}

/// How long a connection may be idle in each state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    ticks: [u32; State::ALL.len()],
}

/// The longest timeout in seconds that can be set: the kernel's, INT_MAX jiffies at 250 Hz.
pub const MAX_TIMEOUT: u32 = 8_589_934;

impl Default for Timeouts {
    /// IPVS's, in the order of [`State`].
    fn default() -> Self {
        let seconds = [
            2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120, // TCP
            300, // UDP
            30,  // ICMP: netfilter's, as IPVS has no such connections
            2, 4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61, // SCTP
        ];
        Self { ticks: seconds.map(|s: u32| s * TICKS_PER_SECOND) }
    }
}

impl Timeouts {
    /// What `--set TCP TCPFIN UDP` changes, in seconds; 0 leaves one as it is, and more than [`MAX_TIMEOUT`] counts
    /// as that.
    #[must_use]
    pub fn set(mut self, tcp: u32, tcp_fin: u32, udp: u32) -> Self {
        for (state, seconds) in [(ES, tcp), (FW, tcp_fin), (State::Udp, udp)] {
            if seconds > 0 {
                self.ticks[usize::from(state.code())] = seconds.min(MAX_TIMEOUT) * TICKS_PER_SECOND;
            }
        }
        self
    }

    /// How many ticks a connection may be idle in `state`.
    #[inline]
    pub fn of(&self, state: State) -> u32 {
        self.ticks[usize::from(state.code())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection's way through the tables: who sent which flags, and the state after it.
    fn walk(method: Method, steps: &[(bool, u8, State)]) {
        let (mut state, mut replied) = (State::initial(protocol::TCP), false);
        for (n, &(client, flags, expected)) in steps.iter().enumerate() {
            let seen = if client { Seen::from_client(method, replied) } else { Seen::Out };
            replied |= !client;
            state = next(state, seen, Flags(flags), false);
            assert_eq!(state, expected, "step {n}");
        }
    }

    /// As recorded with secure_tcp 3, where a client that speaks alone does not get beyond SYNACK.
    #[test]
    fn strict_states_believe_the_server_only() {
        let mut state = State::initial(protocol::TCP);
        for (seen, flags, expected) in [
            (Seen::In, S, SR),
            (Seen::In, A, SR),
            (Seen::Out, S | A, SA),
            (Seen::In, A, SA),
            (Seen::In, F | A, SA),
            (Seen::Out, F | A, TW),
        ] {
            state = next(state, seen, Flags(flags), true);
            assert_eq!(state, expected);
        }
        for from in [NO, FW, TW, CL, CW, LA, LI, SA] {
            assert_eq!(next(from, Seen::InOnly, Flags(S), true), SA);
            assert_ne!(next(from, Seen::InOnly, Flags(S), false), SA);
        }
        assert_eq!(next(SA, Seen::In, Flags(R), true), CL);
        assert_eq!(next(SA, Seen::Out, Flags(A), true), ES);
    }

    #[test]
    fn a_port_is_used_again_as_conn_reuse_mode_says() {
        // Mode, state, whether the server was never seen.
        for (mode, state, one_sided, ends) in [
            (0, TW, false, false),
            (0, CL, true, false),
            (1, TW, false, true),
            (1, CL, true, true),
            (1, FW, true, false),
            (2, TW, false, true),
            (3, FW, true, true),
            (3, FW, false, false),
            (3, ES, true, false),
        ] {
            assert_eq!(state.ends_at_syn(mode, one_sided), ends, "{mode} {state:?} {one_sided}");
        }
    }

    const S: u8 = Flags::SYN;
    const A: u8 = Flags::ACK;
    const F: u8 = Flags::FIN;
    const R: u8 = Flags::RST;

    #[test]
    fn masquerading_sees_both_sides() {
        walk(
            Method::Nat,
            &[(true, S, SR), (false, S | A, SR), (true, A, ES), (true, F | A, CW), (false, F | A, TW)],
        );
        walk(
            Method::Nat,
            &[(true, S, SR), (true, A, ES), (false, F | A, FW), (true, F | A, TW), (false, A, TW)],
        );
        walk(Method::Nat, &[(true, S, SR), (false, R | A, CL)]);
    }

    #[test]
    fn a_client_cannot_reset_what_the_server_has_not_accepted() {
        walk(Method::Nat, &[(true, S, SR), (true, R, SR)]);
        walk(Method::Nat, &[(true, S, SR), (true, A, ES), (true, R, CL), (true, A, CL)]);
    }

    #[test]
    fn direct_routing_sees_the_client_only() {
        walk(
            Method::DirectRouting,
            &[(true, S, SR), (true, A, ES), (true, F | A, FW), (true, A, FW), (true, S, SR)],
        );
    }

    #[test]
    fn a_segment_without_a_flag_that_counts_closes_and_udp_stays() {
        assert_eq!(next(ES, Seen::In, Flags(0x08), false), CL);
        assert_eq!(next(ES, Seen::Out, Flags(0), false), CL);
        assert_eq!(next(State::Udp, Seen::Out, Flags(0), false), State::Udp);
        assert_eq!(next(State::Udp, Seen::In, Flags(S), false), State::Udp);
    }

    #[test]
    fn zero_keeps_a_timeout() {
        let t = Timeouts::default().set(0, 5, 0);
        assert_eq!([ES, FW, State::Udp].map(|s| t.of(s) / TICKS_PER_SECOND), [900, 5, 300]);
        assert_eq!(t.set(u32::MAX, 0, 7).of(ES), MAX_TIMEOUT * TICKS_PER_SECOND);
    }

    #[test]
    fn codes_and_states_are_one_to_one() {
        for (code, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(state.code()), code);
            assert_eq!(State::from_code(code as u8), state);
        }
    }
}
