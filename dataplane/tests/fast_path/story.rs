//! Everything that can happen to a packet, and to a worker without one.

use std::net::Ipv4Addr;
use std::rc::Rc;

use anyhow::{Result, ensure};
use dataplane::conn::Method;
use dataplane::counters::{Drop, Totals};
use dataplane::schedule;
use dataplane::wire::BURST;

use crate::support::{
    Director, Phase, SERVERS, SERVICE, Setup, Transport, client, client_ipv6, fragment, network, packet,
    unreachable,
};

/// Packets of a story: more than a burst, and not a multiple of one.
const PACKETS: u32 = 200;

const METHODS: [Method; 4] = [Method::DirectRouting, Method::Tunnel, Method::Nat, Method::FullNat];

/// One thing that happens.
pub struct Story {
    /// What it is.
    pub name: &'static str,
    /// To whom, with everything ready.
    pub director: Director,
    /// It happens.
    pub happens: fn(&mut Director),
    /// Whether it has, by the counters before and after.
    pub happened: fn(&Totals, &Totals) -> bool,
}

/// All stories.
pub fn all() -> Result<Vec<Story>> {
    let mut stories = vec![
        expiry()?,
        from_linux()?,
        snapshot(true)?,
        snapshot(false)?,
        neighbour_found()?,
        neighbour_lost()?,
        destination_gone()?,
    ];
    for transport in [Transport::Tcp, Transport::Udp] {
        for method in METHODS {
            stories.extend([new(method, transport)?, established(method, transport)?]);
        }
        stories.extend([reply(Method::Nat, transport)?, reply(Method::FullNat, transport)?]);
    }
    for scheduler in schedule::NAMES {
        let director = Director::new(&Setup { scheduler, ..Setup::new(Method::DirectRouting)? })?;
        stories.push(packets(scheduler, director, clients(Transport::Udp, Phase::Opening), forwarded));
    }
    stories.extend(by_ipv6()?);
    stories.extend(across()?);
    stories.extend([closed_and_opened_again()?, closing()?]);
    stories.extend(dropped()?);
    stories.extend(fragments()?);
    stories.extend(errors()?);
    Ok(stories)
}

fn forwarded(before: &Totals, after: &Totals) -> bool {
    after.forwarded - before.forwarded == u64::from(PACKETS)
}

fn clients(transport: Transport, phase: Phase) -> Vec<Vec<u8>> {
    (0..PACKETS).map(|flow| client(transport, flow, phase)).collect()
}

/// These frames come in.
fn packets(
    name: &'static str,
    director: Director,
    frames: Vec<Vec<u8>>,
    happened: fn(&Totals, &Totals) -> bool,
) -> Story {
    director.wire.load(&Rc::from(frames), BURST);
    Story { name, director, happens: Director::poll_all, happened }
}

fn new(method: Method, transport: Transport) -> Result<Story> {
    let director = Director::new(&Setup::new(method)?)?;
    Ok(packets("the first packet of a connection", director, clients(transport, Phase::Opening), forwarded))
}

fn established(method: Method, transport: Transport) -> Result<Story> {
    let mut director = Director::new(&Setup::new(method)?)?;
    director.establish(transport, PACKETS)?;
    Ok(packets("a client's packet", director, clients(transport, Phase::Established), forwarded))
}

fn reply(method: Method, transport: Transport) -> Result<Story> {
    let mut director = Director::new(&Setup::new(method)?)?;
    let replies = director.establish(transport, PACKETS)?;
    Ok(packets("a server's packet", director, replies, forwarded))
}

fn by_ipv6() -> Result<Vec<Story>> {
    let mut stories = Vec::new();
    for transport in [Transport::Tcp, Transport::Udp] {
        let clients = |phase| (0..PACKETS).map(move |flow| client_ipv6(transport, flow, phase)).collect();
        for method in METHODS {
            let director = Director::new(&Setup::ipv6(method)?)?;
            let opening = clients(Phase::Opening);
            stories.push(packets("the first packet of a connection over IPv6", director, opening, forwarded));
            let mut director = Director::new(&Setup::ipv6(method)?)?;
            director.establish(transport, PACKETS)?;
            let established = clients(Phase::Established);
            stories.push(packets("a client's packet over IPv6", director, established, forwarded));
        }
        for method in [Method::Nat, Method::FullNat] {
            let mut director = Director::new(&Setup::ipv6(method)?)?;
            let replies = director.establish(transport, PACKETS)?;
            stories.push(packets("a server's packet over IPv6", director, replies, forwarded));
        }
    }
    let mut director = Director::new(&Setup::ipv6(Method::Nat)?)?;
    director.establish(Transport::Tcp, PACKETS)?;
    director.skip(3600);
    let happened = |before: &Totals, after: &Totals| before == after;
    let happens = Director::poll_until_expired;
    stories.push(Story { name: "the expiry of a connection over IPv6", director, happens, happened });
    Ok(stories)
}

/// Between families, both ways.
fn across() -> Result<Vec<Story>> {
    let mut stories = Vec::new();
    for (ipv6, transport) in
        [false, true].iter().flat_map(|ipv6| [(*ipv6, Transport::Tcp), (*ipv6, Transport::Udp)])
    {
        let client = if ipv6 { client_ipv6 } else { client };
        let clients = |phase| (0..PACKETS).map(|flow| client(transport, flow, phase)).collect();
        let mut director = Director::new(&Setup::across(ipv6)?)?;
        let replies = director.establish(transport, PACKETS)?;
        stories.push(packets("a server's packet to the other family", director, replies, forwarded));
        let mut director = Director::new(&Setup::across(ipv6)?)?;
        director.establish(transport, PACKETS)?;
        let established = clients(Phase::Established);
        stories.push(packets("a client's packet to the other family", director, established, forwarded));
    }
    Ok(stories)
}

fn closing() -> Result<Story> {
    let mut director = Director::new(&Setup::new(Method::Nat)?)?;
    director.establish(Transport::Tcp, PACKETS)?;
    Ok(packets("a connection's end", director, clients(Transport::Tcp, Phase::Closing), forwarded))
}

fn closed_and_opened_again() -> Result<Story> {
    let mut director = Director::new(&Setup::new(Method::DirectRouting)?)?;
    director.establish(Transport::Tcp, PACKETS)?;
    director.pass(clients(Transport::Tcp, Phase::Closing));
    Ok(packets("a port used again", director, clients(Transport::Tcp, Phase::Opening), forwarded))
}

fn expiry() -> Result<Story> {
    let mut director = Director::new(&Setup::new(Method::Nat)?)?;
    director.establish(Transport::Tcp, PACKETS)?;
    director.skip(3600);
    Ok(Story {
        name: "a connection's expiry",
        director,
        happens: Director::poll_until_expired,
        happened: |before, after| before == after,
    })
}

fn from_linux() -> Result<Story> {
    let mut director = Director::new(&Setup::new(Method::Nat)?)?;
    ensure!(
        director.send_from_linux(&client(Transport::Udp, 0, Phase::Opening)),
        "no room for Linux's packet"
    );
    Ok(Story {
        name: "a packet of Linux's",
        director,
        happens: Director::poll_all,
        happened: |_, after| after.from_kernel == 1,
    })
}

/// A snapshot is published, after which routes and neighbours are looked for anew.
fn snapshot(with_packets: bool) -> Result<Story> {
    let mut director = Director::new(&Setup::new(Method::DirectRouting)?)?;
    director.establish(Transport::Udp, PACKETS)?;
    director.publish(network(&[])?);
    Ok(if with_packets {
        let frames = clients(Transport::Udp, Phase::Established);
        packets("a new snapshot under load", director, frames, forwarded)
    } else {
        packets("a new snapshot", director, Vec::new(), |before, after| before == after)
    })
}

fn without_neighbours() -> Result<Director> {
    let setup = Setup::new(Method::DirectRouting)?;
    Director::new(&Setup { network: network(&(0..SERVERS).collect::<Vec<_>>())?, ..setup })
}

/// Packets have waited for their neighbours.
fn neighbour_found() -> Result<Story> {
    let mut director = without_neighbours()?;
    director.pass(clients(Transport::Udp, Phase::Opening));
    director.publish(network(&[])?);
    Ok(Story {
        name: "a neighbour that is found",
        director,
        happens: Director::poll_waiting,
        happened: forwarded,
    })
}

fn neighbour_lost() -> Result<Story> {
    let mut director = without_neighbours()?;
    director.pass(clients(Transport::Udp, Phase::Opening));
    director.skip(2);
    Ok(Story {
        name: "a neighbour that is not found",
        director,
        happens: Director::poll_waiting,
        happened: |_, after| after.dropped_for(Drop::NeighbourTimeout) == u64::from(PACKETS),
    })
}

fn destination_gone() -> Result<Story> {
    let mut director = Director::new(&Setup::new(Method::DirectRouting)?)?;
    director.establish(Transport::Udp, PACKETS)?;
    (0..u32::from(SERVERS)).for_each(|id| director.destinations.set_gone(id, true));
    Ok(packets(
        "a destination that is gone",
        director,
        clients(Transport::Udp, Phase::Established),
        |_, after| after.dropped_for(Drop::DestinationGone) == u64::from(PACKETS),
    ))
}

/// Frames that are not forwarded.
fn dropped() -> Result<Vec<Story>> {
    let setup = Setup::new(Method::DirectRouting)?;
    let director = |setup: &Setup| Director::new(setup);
    let udp = client(Transport::Udp, 0, Phase::Opening);
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut frame = udp.clone();
        change(&mut frame);
        vec![frame; PACKETS as usize]
    };
    let stranger =
        packet(Transport::Tcp, (Ipv4Addr::new(10, 0, 0, 1), 1024), SERVICE, Phase::Established, true);
    let strangers = || vec![stranger.clone(); 40];
    let martian = packet(Transport::Udp, (Ipv4Addr::LOCALHOST, 1024), SERVICE, Phase::Opening, true);
    let opening = || clients(Transport::Udp, Phase::Opening);
    let narrow = Setup { capacity: 8192, buckets: 8, ..setup.clone() };
    let poor = Setup { capacity: 20, ..setup.clone() };
    let crowded = Setup { local_ports: (1024, 1025), ..Setup::new(Method::FullNat)? };
    let alone = Setup { kernel: None, ..setup.clone() };
    let busy = Setup { kernel: Some(16), ..setup.clone() };
    let nowhere = Setup { network: Default::default(), ..setup.clone() };
    let stuck = director(&setup)?;
    stuck.wire.stick();
    let mut impatient = without_neighbours()?;
    impatient.pass((1000..1600).map(|flow| client(Transport::Udp, flow, Phase::Opening)).collect());
    Ok(vec![
        packets("a packet cut short", director(&setup)?, changed(|frame| frame.truncate(40)), |_, after| {
            after.dropped_for(Drop::Truncated) > 0
        }),
        packets("a wrong header", director(&setup)?, changed(|frame| frame[14] = 0x4f), |_, after| {
            after.dropped() > 0
        }),
        packets("a wrong checksum", director(&setup)?, changed(|frame| frame[24] ^= 1), |_, after| {
            after.dropped_for(Drop::BadChecksum) > 0
        }),
        packets(
            "something else than IP",
            director(&alone)?,
            changed(|frame| frame[12] = 0x88),
            |_, after| after.dropped_for(Drop::NoKernelInterface) > 0,
        ),
        packets("a source that nobody can have", director(&setup)?, vec![martian; 10], |_, after| {
            after.dropped_for(Drop::MartianSource) > 0
        }),
        packets("a packet for Linux", director(&setup)?, strangers(), |_, after| after.to_kernel > 0),
        packets("too many packets for Linux", director(&busy)?, strangers(), |_, after| {
            after.dropped_for(Drop::KernelQueueFull) > 0
        }),
        packets("no way to Linux", director(&alone)?, strangers(), |_, after| {
            after.dropped_for(Drop::NoKernelInterface) > 0
        }),
        packets("no route", director(&nowhere)?, opening(), |_, after| after.dropped_for(Drop::NoRoute) > 0),
        packets("a neighbour asked for", without_neighbours()?, opening(), |before, after| {
            after.received - before.received == u64::from(PACKETS) && after.dropped() == 0
        }),
        packets("too many packets that wait", impatient, opening(), |_, after| {
            after.dropped_for(Drop::NeighbourQueueFull) > u64::from(PACKETS)
        }),
        packets("a full table", director(&narrow)?, opening(), |_, after| {
            after.dropped_for(Drop::TableFull) > 0
        }),
        packets("no local port left", director(&crowded)?, opening(), |_, after| {
            after.dropped_for(Drop::NoLocalPort) > 0
        }),
        packets("no entry left", director(&poor)?, opening(), |_, after| {
            after.dropped_for(Drop::NoFreeEntry) > 0
        }),
        packets("a full transmit queue", stuck, opening(), |_, after| after.dropped_for(Drop::TxFull) > 0),
    ])
}

/// ICMP errors about packets of connections.
fn errors() -> Result<Vec<Story>> {
    let mut stories = Vec::new();
    for ipv6 in [false, true] {
        let setup = |method| if ipv6 { Setup::ipv6(method) } else { Setup::new(method) };
        for method in [Method::DirectRouting, Method::Tunnel, Method::Nat] {
            let mut director = Director::new(&setup(method)?)?;
            director.establish(Transport::Udp, PACKETS)?;
            let answers = (0..PACKETS).map(|flow| answer(ipv6, flow));
            let errors = answers.map(|answer| unreachable(&answer)).collect::<Result<_>>()?;
            stories.push(packets("an error about a server's packet", director, errors, forwarded));
        }
        let mut director = Director::new(&setup(Method::Nat)?)?;
        director.establish(Transport::Udp, PACKETS)?;
        let client = if ipv6 { client_ipv6 } else { client };
        let questions = (0..PACKETS).map(|flow| client(Transport::Udp, flow, Phase::Established)).collect();
        let errors: Vec<_> =
            director.pass(questions).iter().map(|sent| unreachable(sent)).collect::<Result<_>>()?;
        let mut wrong = errors.clone();
        wrong.iter_mut().for_each(|error| error[43] ^= 1);
        let is_noticed = |_: &Totals, after: &Totals| after.dropped_for(Drop::BadIcmpChecksum) > 0;
        stories.push(packets("an error about a client's packet", director, errors, forwarded));
        let mut director = Director::new(&setup(Method::Nat)?)?;
        director.establish(Transport::Udp, PACKETS)?;
        stories.push(packets("an error with a wrong checksum", director, wrong, is_noticed));
    }
    Ok(stories)
}

/// A datagram as the client gets it from the virtual address.
fn answer(ipv6: bool, flow: u32) -> Vec<u8> {
    let swap = |range: std::ops::Range<usize>, width: usize, frame: &mut Vec<u8>| {
        let (first, second) = frame[range].split_at_mut(width);
        first.swap_with_slice(second);
    };
    let client = if ipv6 { client_ipv6 } else { client };
    let mut frame = client(Transport::Udp, flow, Phase::Established);
    let (addresses, width) = if ipv6 { (22, 16) } else { (26, 4) };
    swap(addresses..addresses + 2 * width, width, &mut frame);
    swap(addresses + 2 * width..addresses + 2 * width + 4, 2, &mut frame);
    frame
}

/// Datagrams that come in fragments.
fn fragments() -> Result<Vec<Story>> {
    let director = || Director::new(&Setup::new(Method::Nat)?);
    let half = |of: fn(u32) -> Vec<Vec<u8>>| (0..PACKETS / 2).flat_map(of).collect::<Vec<_>>();
    let overlapping = |n| {
        [fragment(n, 0, true), fragment(n, 32, false), fragment(n, 24, true), fragment(n, 16, true)].into()
    };
    let mut impatient = director()?;
    impatient.pass((0..600).map(|n| fragment(n, 16, false)).collect());
    Ok(vec![
        packets(
            "a datagram in fragments",
            director()?,
            half(|n| vec![fragment(n, 0, true), fragment(n, 16, false)]),
            forwarded,
        ),
        packets(
            "a fragment that comes before the first one",
            director()?,
            half(|n| vec![fragment(n, 16, false), fragment(n, 0, true)]),
            forwarded,
        ),
        packets("fragments that overlap", director()?, half(overlapping), |_, after| {
            after.dropped_for(Drop::FragmentOverlap) == u64::from(PACKETS)
        }),
        packets(
            "fragments without a first one",
            impatient,
            half(|n| vec![fragment(n, 24, false)]),
            |_, after| after.dropped_for(Drop::FragmentQueueFull) > u64::from(PACKETS / 2),
        ),
    ])
}
