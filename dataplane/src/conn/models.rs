//! Loom models: insert, look-up, delete and reuse racing each other, in every order that the memory model allows.
//!
//! `make test-loom` runs them. Buckets are smaller here than in life and are two, so that flows meet in them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use loom::model::Builder;
use loom::thread;

use super::entry::{Armed, Kind, More};
use super::inside::Announce;
use super::table::Refused;
use super::wheel::Due;
use super::*;
use crate::parse::{AnyFlow, Flow, Flow6};
use crate::time::Tick;

const SERVER: (u32, u16) = (0xc000_0209, 80);

fn flow(client: u16) -> Flow {
    Flow::new(6, (0xcb00_7109, client), (0xc633_6408, 80))
}

fn new(client: u16) -> NewConnection {
    let (flow, server) = (flow(client).into(), (Ipv4Addr::from(SERVER.0).into(), client));
    NewConnection { flow, server, method: Method::DirectRouting, destination: 1, state: State::Established }
}

fn table() -> Arc<ConnectionTable> {
    Arc::new(ConnectionTable::new(2, 4, 2).unwrap())
}

/// Checks all schedules with at most this many preemptions: with three, as experience has it, all bugs of note.
fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn open(table: &Arc<ConnectionTable>, worker: usize, client: u16) -> Result<Index, OpenError> {
    let mut connections = Connections::new(table.clone(), worker, Tick(0));
    connections.open(&new(client), &Timeouts::default(), Tick(0))
}

#[test]
fn of_two_insertions_of_one_flow_one_is_found() {
    check(|| {
        let table = table();
        let other = {
            let table = table.clone();
            thread::spawn(move || open(&table, 1, 7))
        };
        let mine = open(&table, 0, 7);
        let theirs = other.join().unwrap();
        let found = table.find(table.hash(flow(7)), flow(7)).unwrap();
        for outcome in [mine, theirs] {
            match outcome {
                Ok(index) => assert_eq!(index, found.index),
                Err(OpenError::Exists(there)) => assert_eq!(there, found),
                // Each can undo the other's attempt, in a model with few slots even to the end. Nothing is lost but
                // a packet.
                Err(OpenError::TableFull) => {}
                Err(refused) => panic!("there are free entries: {refused:?}"),
            }
        }
        assert!(mine.is_ok() != theirs.is_ok(), "{mine:?} {theirs:?}");
        assert_eq!(table.slots_in_use(), 1);
        assert_eq!(table.overflow(), 0);
    });
}

/// Of two connections by FULLNAT with one local port to choose, one gets it, and the other's client nothing.
#[test]
fn a_local_port_is_given_once() {
    fn open(table: &Arc<ConnectionTable>, worker: usize, client: u16) -> Result<Index, OpenError> {
        let mut connections = Connections::new(table.clone(), worker, Tick(0));
        let server = (Ipv4Addr::from(SERVER.0).into(), SERVER.1);
        let new = NewConnection { method: Method::FullNat, server, ..new(client) };
        let locals = [(Ipv4Addr::new(192, 0, 2, 33).into(), 2000)].into_iter();
        connections.open_fullnat(None, (&new, Announce::Nothing), locals, &Timeouts::default(), Tick(0))
    }
    check(|| {
        let table = Arc::new(ConnectionTable::new(2, 4, 2).unwrap());
        let other = {
            let table = table.clone();
            thread::spawn(move || open(&table, 1, 7))
        };
        let outcomes = [open(&table, 0, 8), other.join().unwrap()];
        let reply = Flow::new(6, SERVER, (0xc000_0221, 2000));
        let found = table.find(table.hash(reply), reply).map(|found| found.index);
        let opened: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.ok()).collect();
        // Neither, where each keeps undoing the other's attempt: two packets are lost.
        assert!(opened.len() <= 1 && opened.first().copied() == found, "{outcomes:?}");
        for refused in outcomes.into_iter().filter_map(Result::err) {
            assert!(matches!(refused, OpenError::NoLocalPort | OpenError::TableFull), "{refused:?}");
        }
        assert_eq!(table.slots_in_use(), 2 * opened.len());
    });
}

#[test]
fn what_is_found_is_whole() {
    check(|| {
        let table = table();
        let other = {
            let table = table.clone();
            thread::spawn(move || open(&table, 1, 7).unwrap())
        };
        if let Some(found) = table.find(table.hash(flow(7)), flow(7)) {
            let entry = table.entry(found.index);
            assert_eq!((entry.flow(), entry.server(), entry.destination()), (flow(7), (SERVER.0, 7), 1));
        }
        let index = other.join().unwrap();
        assert_eq!(table.find(table.hash(flow(7)), flow(7)).unwrap().index, index);
    });
}

#[test]
fn an_entry_in_use_is_not_given_another_connection() {
    check(|| {
        // One entry in all: whoever opens the second connection must wait for the first to be out of all hands.
        let table = Arc::new(ConnectionTable::new(2, 1, 2).unwrap());
        let mut connections = Connections::new(table.clone(), 0, Tick(0));
        let index = connections.open(&new(7), &Timeouts::default(), Tick(0)).unwrap();
        let other = {
            let table = table.clone();
            thread::spawn(move || {
                let mut connections = Connections::new(table.clone(), 1, Tick(0));
                for _ in 0..2 {
                    connections.quiesce();
                    if let Some(found) = table.find(table.hash(flow(7)), flow(7)) {
                        // Between two quiescent states it stays what it was when it was found.
                        let entry = table.entry(found.index);
                        assert_eq!((entry.flow(), entry.server()), (flow(7), (SERVER.0, 7)));
                    }
                }
            })
        };
        connections.close(index).unwrap();
        for _ in 0..2 {
            connections.quiesce();
            // It fails as long as the entry is not free.
            let _ = connections.open(&new(8), &Timeouts::default(), Tick(0));
        }
        other.join().unwrap();
    });
}

#[test]
fn a_connection_ends_once() {
    check(|| {
        let table = table();
        let index = open(&table, 0, 7).unwrap();
        let close = |worker: usize| {
            let table = table.clone();
            move || Connections::new(table, worker, Tick(0)).close(index).is_some()
        };
        let other = thread::spawn(close(1));
        let mine = close(0)();
        assert!(mine != other.join().unwrap());
        assert_eq!(table.slots_in_use(), 0);
    });
}

#[test]
fn a_connection_that_is_being_opened_ends_wholly_or_not_at_all() {
    check(|| {
        let table = table();
        let opens = {
            let table = table.clone();
            thread::spawn(move || {
                let mut connections = Connections::new(table, 1, Tick(0));
                let new = NewConnection { method: Method::Nat, ..new(7) };
                connections.open(&new, &Timeouts::default(), Tick(0)).unwrap()
            })
        };
        // As a sweep does, which comes to entries by their numbers: this is the one that will be taken.
        let mut connections = Connections::new(table.clone(), 0, Tick(0));
        // The opener comes first: loom goes back from what it finds, and of two loads of a word it sees only the later one.
        thread::yield_now();
        let life = table.entry(Index(0)).life();
        let ended = life.is_alive().then(|| connections.close_life(Index(0), life)).flatten();
        assert_eq!(opens.join().unwrap(), Index(0));
        assert_eq!(table.slots_in_use(), if ended.is_some() { 0 } else { 2 });
    });
}

#[test]
fn neighbours_in_a_full_bucket_do_not_hide_each_other() {
    check(|| {
        let table = table();
        for (n, client) in (1..=3).enumerate() {
            table.entry(Index(n as u32)).fill(&new(client), More::default(), Kind::Plain, Tick(0));
            table.insert(flow(client), Direction::ToServer, Index(n as u32)).unwrap();
        }
        let other = {
            let table = table.clone();
            thread::spawn(move || table.remove(flow(1), Direction::ToServer, Index(0)))
        };
        table.entry(Index(3)).fill(&new(4), More::default(), Kind::Plain, Tick(0));
        let inserted: Result<(), Refused> = table.insert(flow(4), Direction::ToServer, Index(3));
        for client in [2, 3] {
            assert!(table.find(table.hash(flow(client)), flow(client)).is_some());
        }
        other.join().unwrap();
        let found = table.find(table.hash(flow(4)), flow(4));
        assert_eq!(found.is_some(), inserted.is_ok());
    });
}

#[test]
fn a_connection_in_an_entry_whose_old_timer_is_firing_has_a_timer() {
    check(|| {
        let table = table();
        let (index, old, deadline) = (Index(0), Tick(5), Tick(50));
        table.entry(index).rearm(Armed::NONE, Armed::at(old));
        let opens = {
            let table = table.clone();
            thread::spawn(move || {
                let mut connections = Connections::new(table.clone(), 1, old);
                table.entry(index).fill(&new(7), More::default(), Kind::Plain, old);
                connections.look_by(index, deadline);
            })
        };
        let mut connections = Connections::new(table.clone(), 0, old);
        connections.look_at(Due { index, tick: old }, &Timeouts::default(), old);
        opens.join().unwrap();
        assert_ne!(table.entry(index).armed(), Armed::NONE);
    });
}

#[test]
fn a_template_that_ends_has_no_connection_under_it() {
    check(|| {
        let table = table();
        let mut connections = Connections::new(table.clone(), 0, Tick(0));
        let key = AnyFlow::from(Flow::template(6, 1, (2, 80)));
        let template = connections
            .open_template(&NewConnection { flow: key, ..new(1) }, (64, false), None, Tick(0))
            .unwrap();
        connections.release(template);
        let adopts = {
            let table = table.clone();
            thread::spawn(move || {
                let connections = Connections::new(table, 1, Tick(0));
                let template = connections.find_template(key)?;
                connections.adopt(template, Tick(0)).then(|| connections.entry(template).life().is_alive())
            })
        };
        let ended = connections.close(template);
        let adopted = adopts.join().unwrap();
        assert!(ended.is_none() || adopted.is_none(), "{ended:?}, {adopted:?}");
        assert_ne!(adopted, Some(false));
        assert_eq!(ended.is_none(), adopted.is_some());
    });
}

fn flow6(client: u16) -> Flow6 {
    Flow6::new(6, (u128::from(client) << 64 | 9, client), (7 << 96 | 8, 80))
}

/// Of a connection over IPv6 that takes two entries.
fn new6(client: u16) -> NewConnection {
    let server = (Ipv6Addr::from(u128::from(client) << 100 | 5).into(), client);
    NewConnection { flow: flow6(client).into(), server, ..new(client) }
}

#[test]
fn what_is_found_of_two_entries_is_whole() {
    check(|| {
        let table = table();
        let other = {
            let table = table.clone();
            thread::spawn(move || {
                let mut connections = Connections::new(table, 1, Tick(0));
                let index = connections.open(&new6(7), &Timeouts::default(), Tick(0)).unwrap();
                connections.close(index).unwrap();
            })
        };
        if let Some(found) = table.find(table.hash(flow6(7)), flow6(7)) {
            let entry = table.entry(found.index);
            assert_eq!((table.flow(entry), table.server(entry)), (flow6(7).into(), new6(7).server));
        }
        other.join().unwrap();
        assert_eq!(table.find(table.hash(flow6(7)), flow6(7)), None);
        assert_eq!(table.slots_in_use(), 0);
    });
}

#[test]
fn an_extension_in_use_is_not_given_away() {
    check(|| {
        // Two entries in all: one connection over IPv6.
        let table = Arc::new(ConnectionTable::new(2, 2, 2).unwrap());
        let mut connections = Connections::new(table.clone(), 0, Tick(0));
        let index = connections.open(&new6(7), &Timeouts::default(), Tick(0)).unwrap();
        let other = {
            let table = table.clone();
            thread::spawn(move || {
                let mut connections = Connections::new(table.clone(), 1, Tick(0));
                connections.quiesce();
                if let Some(found) = table.find(table.hash(flow6(7)), flow6(7)) {
                    let entry = table.entry(found.index);
                    assert_eq!((table.flow(entry), table.server(entry)), (flow6(7).into(), new6(7).server));
                }
                if let Some(view) = table.view(index, &Timeouts::default(), Tick(0)) {
                    // A list sees one connection or the other, and nothing between them.
                    let which = [7, 8].map(new6).into_iter().find(|new| new.flow == view.flow).unwrap();
                    assert_eq!(view.server, which.server);
                }
            })
        };
        connections.close(index).unwrap();
        for _ in 0..2 {
            connections.quiesce();
            // It fails as long as the entries are not free.
            let _ = connections.open(&new6(8), &Timeouts::default(), Tick(0));
        }
        other.join().unwrap();
    });
}
