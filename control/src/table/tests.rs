//! The rules of the table that no recording shows: ids, the trash, statistics.

use std::cell::RefCell;
use std::collections::HashMap;

use super::*;
use crate::model::{Family, ForwardingMethod, Granularity, Protocol};

/// A dataplane's counters, and a table over them.
struct Case {
    table: ServiceTable,
    counters: RefCell<HashMap<u32, DestinationCounts>>,
    start: Instant,
}

impl Case {
    fn new(limit: u32) -> Self {
        Self { table: ServiceTable::new(limit), counters: RefCell::default(), start: Instant::now() }
    }

    fn apply(&mut self, change: &Change) -> Result<(), Refusal> {
        let counters = &self.counters;
        self.table.apply(change, &|id| counters.borrow().get(&id.0).copied().unwrap_or_default(), &|_| None)
    }

    fn add(&mut self, last: u8) -> Result<DestinationId, Refusal> {
        let destination = server(last);
        self.apply(&Change::AddDestination { service: service(), destination })?;
        let owner = self.table.service(&service()).unwrap();
        Ok(self.table.find(owner.id(), destination.address, destination.port).unwrap())
    }

    fn delete(&mut self, last: u8) {
        let DestinationSpec { address, port, .. } = server(last);
        self.apply(&Change::DeleteDestination { service: service(), address, port }).unwrap();
    }

    fn count(&self, id: DestinationId, connections: u64) {
        let mut counters = self.counters.borrow_mut();
        counters.entry(id.0).or_default().stats.connections += connections;
    }

    fn set_active(&self, id: DestinationId, active: u32) {
        self.counters.borrow_mut().entry(id.0).or_default().active = active;
    }

    fn expire(&mut self, seconds: u64) -> usize {
        let counters = &self.counters;
        let counts = |id: DestinationId| counters.borrow().get(&id.0).copied().unwrap_or_default();
        self.table.expire(self.start + Duration::from_secs(seconds), &counts)
    }

    /// Connections of the service, and of the destination `last`, as they are summed up now.
    fn connections(&mut self, last: u8) -> (u64, Option<u64>) {
        let counters = &self.counters;
        self.table.sample(&|id: DestinationId| counters.borrow().get(&id.0).copied().unwrap_or_default());
        self.shown(last)
    }

    /// The same as lists show it until then.
    fn shown(&self, last: u8) -> (u64, Option<u64>) {
        let service = self.table.service(&service()).unwrap();
        let mut destinations = self.table.destinations(service);
        let d = destinations.find(|d| d.spec().address == server(last).address);
        (service.stats().connections, d.map(|d| d.stats().connections))
    }
}

fn service() -> VirtualService {
    VirtualService::Address { protocol: Protocol::Tcp, address: [198, 51, 100, 1].into(), port: 80 }
}

fn server(last: u8) -> DestinationSpec {
    let method = ForwardingMethod::Masquerade;
    DestinationSpec { method, ..DestinationSpec::new([192, 0, 2, last].into(), 80) }
}

fn with_service(limit: u32) -> Case {
    let mut case = Case::new(limit);
    case.apply(&Change::AddService(ServiceSpec::new(service()))).unwrap();
    case
}

#[test]
fn a_destination_that_comes_back_has_its_id_and_its_counters() {
    let mut case = with_service(4);
    let one = case.add(1).unwrap();
    let two = case.add(2).unwrap();
    case.count(one, 5);
    case.count(two, 3);
    case.delete(1);
    assert_eq!(case.connections(1), (8, None));
    case.count(one, 1);
    assert_eq!(case.add(1), Ok(one));
    assert_eq!(case.connections(1), (9, Some(6)));
    let sequences: Vec<_> = {
        let service = case.table.service(&service()).unwrap();
        case.table.destinations(service).map(|d| (d.id(), d.sequence())).collect()
    };
    assert_eq!(sequences, [(one, 2), (two, 1)]);
}

#[test]
fn a_service_made_anew_starts_its_destinations_from_zero() {
    let mut case = with_service(4);
    let one = case.add(1).unwrap();
    case.count(one, 5);
    assert_eq!(case.connections(1), (5, Some(5)));
    let before = case.table.service(&service()).unwrap().incarnation();
    case.apply(&Change::Clear).unwrap();
    case.apply(&Change::AddService(ServiceSpec::new(service()))).unwrap();
    assert_ne!(case.table.service(&service()).unwrap().incarnation(), before);
    assert_eq!(case.add(1), Ok(one));
    assert_eq!(case.connections(1), (0, Some(0)));
    case.count(one, 2);
    assert_eq!(case.connections(1), (2, Some(2)));
}

#[test]
fn an_id_is_freed_two_minutes_after_its_last_connection() {
    let mut case = with_service(1);
    let one = case.add(1).unwrap();
    case.count(one, 7);
    case.set_active(one, 1);
    case.delete(1);
    assert_eq!(case.add(2), Err(Refusal::NoMemory));
    assert_eq!(case.expire(1000), 0);
    case.set_active(one, 0);
    assert_eq!(case.expire(1001), 0);
    case.set_active(one, 1);
    assert_eq!(case.expire(1100), 0, "busy again");
    case.set_active(one, 0);
    assert_eq!(case.expire(1101), 0);
    assert_eq!(case.expire(1220), 0);
    assert_eq!(case.expire(1221), 1);
    assert_eq!(case.table.trash().count(), 0);
    // The service still has what the destination counted; its successor on the id has nothing.
    assert_eq!(case.add(2), Ok(one));
    assert_eq!(case.connections(2), (7, Some(0)));
    case.count(one, 1);
    assert_eq!(case.connections(2), (8, Some(1)));
}

#[test]
fn zeroing_starts_a_service_and_its_destinations_at_zero() {
    let mut case = with_service(4);
    let one = case.add(1).unwrap();
    let two = case.add(2).unwrap();
    case.count(one, 5);
    case.count(two, 5);
    case.delete(2);
    assert_eq!(case.connections(1), (10, Some(5)));
    case.apply(&Change::ZeroService(service())).unwrap();
    assert_eq!(case.connections(1), (0, Some(0)));
    case.count(one, 2);
    case.count(two, 1);
    assert_eq!(case.connections(1), (3, Some(2)));
    // What is in the trash is not zeroed.
    case.add(2).unwrap();
    assert_eq!(case.connections(2), (3, Some(6)));
    case.apply(&Change::ZeroAll).unwrap();
    assert_eq!(case.connections(2), (0, Some(0)));
    // What has not been summed up yet cannot be zeroed.
    case.count(one, 4);
    case.apply(&Change::ZeroAll).unwrap();
    assert_eq!(case.shown(1), (0, Some(0)));
    assert_eq!(case.connections(1), (4, Some(4)));
}

#[test]
fn an_edit_replaces_every_attribute_and_keeps_place_and_counters() {
    let mut case = with_service(4);
    let one = case.add(1).unwrap();
    case.count(one, 5);
    let destination = DestinationSpec { weight: 7, ..server(1) };
    case.apply(&Change::EditDestination { service: service(), destination }).unwrap();
    let d = case.table.destination(one).unwrap();
    assert_eq!((d.spec().weight, d.sequence()), (7, 0));
    assert_eq!(case.connections(1), (5, Some(5)));
}

#[test]
fn timeouts_of_zero_stay_and_endless_ones_are_refused() {
    let mut case = Case::new(0);
    case.apply(&Change::SetTimeouts(Timeouts { tcp: 0, tcp_fin: 5, udp: 0 })).unwrap();
    assert_eq!(case.table.timeouts(), Timeouts { tcp: 900, tcp_fin: 5, udp: 300 });
    let endless = Timeouts { tcp: u32::MAX, ..Timeouts::default() };
    assert_eq!(case.apply(&Change::SetTimeouts(endless)), Err(Refusal::Invalid));
}

#[test]
fn what_the_words_cannot_say_is_refused_too() {
    let mut case = with_service(4);
    let mark = |mark, family| ServiceSpec::new(VirtualService::Mark { mark, family });
    let persistence = |granularity| Some(crate::model::Persistence { timeout_seconds: 1, granularity });
    let bad = [
        mark(0, Family::Ipv4),
        ServiceSpec { persistence: persistence(Granularity::Prefix(64)), ..mark(1, Family::Ipv4) },
        ServiceSpec { persistence: persistence(Granularity::Prefix(129)), ..mark(1, Family::Ipv6) },
        ServiceSpec { flags: crate::model::SchedulerFlags(8), ..mark(1, Family::Ipv4) },
    ];
    for spec in bad {
        assert_eq!(case.apply(&Change::AddService(spec.clone())), Err(Refusal::Invalid), "{spec:?}");
    }
    for address in ["0.0.0.0", "255.255.255.255", "224.0.0.1"] {
        let destination = DestinationSpec { address: address.parse().unwrap(), ..server(1) };
        let change = Change::AddDestination { service: service(), destination };
        assert_eq!(case.apply(&change), Err(Refusal::Invalid), "{address}");
    }
    for method in [ForwardingMethod::Masquerade, ForwardingMethod::DirectRouting, ForwardingMethod::Local] {
        let address = "2001:db8::9".parse().unwrap();
        let destination = DestinationSpec { address, method, ..server(1) };
        let change = Change::AddDestination { service: service(), destination };
        assert_eq!(case.apply(&change), Err(Refusal::Invalid), "{method:?}");
    }
    let heavy = DestinationSpec { weight: 1 << 31, ..server(1) };
    let change = Change::AddDestination { service: service(), destination: heavy };
    assert_eq!(case.apply(&change), Err(Refusal::OutOfRange));
}

fn snat(addresses: &str) -> crate::snat::SnatRule {
    crate::snat::SnatRule::new(addresses.parse().unwrap())
}

fn add_snat(addresses: &str, position: Option<u32>) -> Change {
    Change::AddSnat { rule: snat(addresses), position }
}

#[test]
fn snat_rules_have_an_order() {
    let mut case = Case::new(8);
    for (addresses, position) in
        [("192.0.2.1", None), ("192.0.2.2", Some(1)), ("none", Some(2)), ("192.0.2.4", Some(4))]
    {
        case.apply(&add_snat(addresses, position)).unwrap();
    }
    let order =
        |case: &Case| case.table.snat().iter().map(|s| s.rule().to_string()).collect::<Vec<_>>().join(" ");
    assert_eq!(order(&case), "192.0.2.2 none 192.0.2.1 192.0.2.4");
    for (change, refusal) in [
        (add_snat("192.0.2.1", None), "already exists"),
        (add_snat("192.0.2.9", Some(6)), "a position is"),
        (add_snat("192.0.2.9", Some(0)), "a position is"),
        (add_snat("127.0.0.1", None), "Not a SNAT rule"),
        (Change::DeleteSnat(snat("192.0.2.9")), "No such"),
    ] {
        let error = case.apply(&change).unwrap_err().to_string();
        assert!(error.contains(refusal), "{error}");
    }
    case.apply(&Change::DeleteSnat(snat("none"))).unwrap();
    assert_eq!(order(&case), "192.0.2.2 192.0.2.1 192.0.2.4");
    case.apply(&Change::ClearSnat).unwrap();
    assert_eq!(order(&case), "");
}

/// Its connections go on, and count for nobody else.
#[test]
fn a_deleted_snat_rule_keeps_its_place_while_it_has_connections() {
    let mut case = with_service(2);
    case.apply(&add_snat("192.0.2.1", None)).unwrap();
    let id = case.table.snat()[0].id();
    case.count(id, 3);
    case.set_active(id, 1);
    let entries = |case: &Case| {
        let counters = &case.counters;
        case.table.snat_entries(&|id| counters.borrow().get(&id.0).copied().unwrap_or_default())
    };
    let [entry] = &entries(&case)[..] else { panic!() };
    assert_eq!((entry.active, entry.stats.connections), (1, 3));
    case.apply(&Change::DeleteSnat(snat("192.0.2.1"))).unwrap();
    case.expire(1000);
    assert_ne!(case.add(1).unwrap(), id);
    assert_eq!(case.add(2), Err(Refusal::NoMemory));
    assert_eq!(case.apply(&add_snat("192.0.2.2", None)), Err(Refusal::NoMemory));
    // Back again it has what it had.
    case.apply(&add_snat("192.0.2.1", None)).unwrap();
    assert_eq!((case.table.snat()[0].id(), entries(&case)[0].stats.connections), (id, 3));
    case.apply(&Change::ClearSnat).unwrap();
    case.set_active(id, 0);
    case.expire(1001);
    assert_eq!(case.add(2).unwrap(), id);
}
