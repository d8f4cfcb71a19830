//! What moves an SCTP association from state to state: IPVS's rules (Linux, ip_vs_proto_sctp.c), by what the chunk says. A
//! chunk that a rule does not name for a state leaves it as it is.
//!
//! The states are the server's. Those with a cookie come in two kinds: the client opens (INIT, INIT ACK: COOKIE_SENT, COOKIE
//! ECHO: COOKIE_REPLIED), or the server does (INIT: COOKIE_WAIT, INIT ACK: COOKIE, COOKIE ECHO: COOKIE_ECHOED).

use super::{Seen, State};
use crate::packet::sctp::Event;

use State::{
    SctpClosed as Closed, SctpCookie as Cookie, SctpCookieEchoed as CookieEchoed,
    SctpCookieReplied as CookieReplied, SctpCookieSent as CookieSent, SctpCookieWait as CookieWait,
    SctpEstablished as Established, SctpInit as Init, SctpInit1 as Init1, SctpNone as None,
    SctpRejected as Rejected, SctpShutdownAckSent as ShutdownAckSent,
    SctpShutdownReceived as ShutdownReceived, SctpShutdownSent as ShutdownSent,
};

/// The state after a packet whose first chunk means `event`.
pub(super) fn next(state: State, seen: Seen, event: Event) -> State {
    match seen {
        Seen::In => from_client(state, event),
        Seen::Out => from_server(state, event),
        Seen::InOnly => from_client_alone(state, event),
    }
}

fn from_client(state: State, event: Event) -> State {
    match (event, state) {
        (Event::Data | Event::CookieAck, None) | (Event::CookieAck, CookieEchoed) => Established,
        (Event::Init, None) => Init1,
        (Event::Init, Init1 | Rejected | Closed) => Init,
        (Event::InitAck, None | Init1 | Init) => CookieWait,
        (Event::InitAck, CookieWait) => Cookie,
        (Event::CookieEcho, None | CookieSent) => CookieReplied,
        (Event::CookieEcho | Event::ShutdownAck, Init1) => Init,
        (Event::Shutdown, None | Established) => ShutdownReceived,
        (Event::ShutdownAck, None | ShutdownSent | ShutdownAckSent) => Closed,
        (Event::ShutdownComplete, None | Init1 | Init | ShutdownAckSent) => Closed,
        (Event::Error, None | CookieEchoed) => Closed,
        (Event::Abort, CookieWait) => Rejected,
        (Event::Abort, _) => Closed,
        _ => state,
    }
}

fn from_server(state: State, event: Event) -> State {
    let is_opening = matches!(
        state,
        None | Init1 | Init | CookieSent | CookieReplied | CookieWait | Cookie | CookieEchoed
    );
    match (event, state) {
        (Event::Data, None) => Established,
        (Event::Init, Established) => Established,
        (Event::Init, _) => CookieWait,
        (Event::InitAck, None | Init1 | Init) => CookieSent,
        (Event::CookieEcho, _) if is_opening => CookieEchoed,
        (Event::CookieAck, _) if is_opening => Established,
        (Event::Shutdown, Established) => ShutdownSent,
        (Event::Shutdown, _) if is_opening => ShutdownSent,
        (Event::ShutdownAck, None | Init1 | Init | CookieSent | CookieReplied) => ShutdownAckSent,
        (Event::ShutdownAck, ShutdownSent | ShutdownReceived) => ShutdownAckSent,
        (Event::ShutdownComplete, None) => Closed,
        (Event::Error, None | Init1 | Init | CookieSent | CookieReplied) => Closed,
        // What answers the first INIT with an ABORT wants no association.
        (Event::Abort, Init1) => Rejected,
        (Event::Abort, _) => Closed,
        _ => state,
    }
}

/// While the server's packets go past the director: what the client says stands for what the server has said before.
fn from_client_alone(state: State, event: Event) -> State {
    match (event, state) {
        (Event::Data, None | CookieWait) => Established,
        (Event::Init, None) => Init1,
        (Event::Init, Init1 | CookieSent | CookieReplied | CookieWait | Rejected | Closed) => Init,
        (Event::InitAck, None | Init1 | Init | CookieSent | CookieReplied | CookieWait) => CookieEchoed,
        (Event::CookieEcho, None | Init1 | Init | CookieSent | CookieReplied | CookieWait) => Established,
        (Event::CookieAck, None | CookieSent | CookieReplied | Cookie | CookieEchoed) => Established,
        (Event::Shutdown, None | Established) => ShutdownReceived,
        (Event::ShutdownAck, Init1) => Init,
        (Event::ShutdownAck, None | Established | ShutdownSent | ShutdownAckSent) => Closed,
        (Event::ShutdownComplete, None | Init1 | Init | CookieSent | CookieReplied) => Closed,
        (Event::ShutdownComplete, ShutdownReceived | ShutdownAckSent) => Closed,
        (Event::Error, None) => Closed,
        (Event::Abort, CookieWait) => Rejected,
        (Event::Abort, _) => Closed,
        _ => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(steps: &[(Seen, Event, State)]) {
        let mut state = None;
        for (n, &(seen, event, expected)) in steps.iter().enumerate() {
            state = next(state, seen, event);
            assert_eq!(state, expected, "step {n}");
        }
    }

    use Event::*;
    use Seen::{In, InOnly, Out};

    #[test]
    fn an_association_seen_from_both_sides() {
        walk(&[
            (In, Event::Init, Init1),
            (Out, InitAck, CookieSent),
            (In, CookieEcho, CookieReplied),
            (Out, CookieAck, Established),
            (In, Data, Established),
            (In, Shutdown, ShutdownReceived),
            (Out, ShutdownAck, ShutdownAckSent),
            (In, ShutdownComplete, Closed),
            (In, Event::Init, State::SctpInit),
        ]);
        walk(&[
            (In, Event::Init, Init1),
            (Out, Abort, Rejected),
            (In, CookieEcho, Rejected),
            (Out, Abort, Closed),
        ]);
        walk(&[
            (In, Event::Init, Init1),
            (Out, InitAck, CookieSent),
            (Out, Shutdown, ShutdownSent),
            (In, ShutdownAck, Closed),
        ]);
    }

    #[test]
    fn an_association_that_the_server_opens() {
        walk(&[
            (Out, Event::Init, CookieWait),
            (In, InitAck, State::SctpCookie),
            (Out, CookieEcho, CookieEchoed),
            (In, CookieAck, Established),
            (Out, Event::Init, Established),
        ]);
        walk(&[(Out, Event::Init, CookieWait), (In, Abort, Rejected), (In, Event::Init, State::SctpInit)]);
    }

    #[test]
    fn an_association_seen_from_the_client() {
        walk(&[
            (InOnly, Event::Init, Init1),
            (InOnly, CookieEcho, Established),
            (InOnly, Data, Established),
            (InOnly, Shutdown, ShutdownReceived),
            (InOnly, ShutdownAck, ShutdownReceived),
            (InOnly, ShutdownComplete, Closed),
        ]);
        walk(&[
            (InOnly, Event::Init, Init1),
            (InOnly, Event::Init, State::SctpInit),
            (InOnly, Abort, Closed),
        ]);
    }

    /// Whatever comes, it stays an SCTP state; and an ABORT never leaves an association open.
    #[test]
    fn every_chunk_has_its_answer_in_every_state() {
        for state in State::ALL.into_iter().filter(|s| s.is_sctp()) {
            for seen in [In, Out, InOnly] {
                for event in (0..10).map(|n| Event::from_flags(crate::packet::tcp::Flags(n << 3))) {
                    assert!(next(state, seen, event).is_sctp());
                }
                assert!(matches!(next(state, seen, Abort), Closed | Rejected));
            }
        }
    }
}
