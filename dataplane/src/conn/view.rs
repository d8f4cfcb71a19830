//! Connections as lists show them. Reads entries while workers use them, and disturbs nobody.

use std::net::IpAddr;

use super::entry::{Index, Method};
use super::inside::Inside;
use super::note::Note;
use super::state::{State, Timeouts};
use super::table::ConnectionTable;
use crate::parse::AnyFlow;
use crate::sync::{Ordering, fence};
use crate::time::Tick;

/// A connection as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The client's flow, to the virtual address.
    pub flow: AnyFlow,
    /// The real server: address, port.
    pub server: (IpAddr, u16),
    /// What the server takes for the client, by FULLNAT: address, port.
    pub local: Option<(IpAddr, u16)>,
    /// How packets reach it.
    pub method: Method,
    /// Whose counters it counts for.
    pub destination: u32,
    /// Its state.
    pub state: State,
    /// Of a persistence template, whether a connection under it has been established; `None` for a connection. A template
    /// that counts no longer is shown with virtual port and server port 65535, as the kernel does.
    pub template: Option<bool>,
    /// Ticks until it ends if no packet comes; not below 0.
    pub expires: u32,
    /// Of a template, what a persistence engine has noted with it.
    pub note: Option<Note>,
}

impl View {
    /// The name of its state, as `ipvsadm -Lc` prints it.
    pub fn state_name(&self) -> &'static str {
        match self.template {
            None => self.state.name(),
            Some(true) => "ASSURED",
            Some(false) => State::None.name(),
        }
    }
}

impl ConnectionTable {
    /// The connection in the entry at `index`, if there is one. For lists: may be called from any thread at any time,
    /// and gives what was there at one moment or nothing.
    pub fn view(&self, index: Index, timeouts: &Timeouts, now: Tick) -> Option<View> {
        let entry = self.entry(index);
        let life = entry.life();
        if !life.is_alive() {
            return None;
        }
        let left = entry.last_seen().after(entry.time_to_live(life, timeouts)).since(now);
        let (mut flow, mut server) = (self.flow(entry), self.server(entry));
        if life.is_template() {
            // What else its key says, of a range, is nobody's port.
            flow = flow.to_port(flow.destination().1);
        }
        let note = self.note(entry);
        if let Some(note) = &note {
            let (address, port) = flow.destination();
            flow = AnyFlow::template(flow.protocol(), note.client, (address.to_canonical(), port));
        }
        if life.is_invalid() {
            flow = flow.to_port(u16::MAX);
            server.1 = u16::MAX;
        }
        let view = View {
            flow,
            server,
            local: self.inside(entry).map(Inside::local),
            method: entry.method(),
            destination: entry.destination(),
            state: life.state(),
            template: life.is_template().then(|| life.is_assured()),
            expires: left.max(0) as u32,
            note,
        };
        // The reads above come before the one below; a life that ended meanwhile may have been filled anew.
        fence(Ordering::Acquire);
        let after = entry.life();
        (after.is_alive() && after.generation() == life.generation()).then_some(view)
    }

    /// All connections there are, for lists. Reads every entry that has ever been used.
    pub fn views(&self, timeouts: Timeouts, now: Tick) -> impl Iterator<Item = View> + '_ {
        (0..self.used() as u32).filter_map(move |index| self.view(Index(index), &timeouts, now))
    }
}
