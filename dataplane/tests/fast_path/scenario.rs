//! What is counted: one way of packets each, long enough that its ends do not matter.

use std::fmt;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use dataplane::conn::Method;
use dataplane::wire::{BURST, Burst, Wire};

use crate::support::{Director, Loop, Phase, Setup, Transport, client, client_ipv6, fragment, unreachable};

/// Connections, packets or rounds of a scenario.
const THINGS: u32 = 4096;

/// What a director does with a packet, or without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nothing: the wire alone.
    Wire,
    /// A client's packet of an established connection.
    In(Method, Transport),
    /// The same over IPv6, TCP.
    InIpv6(Method),
    /// The same by FULLNAT to servers of the other family, TCP. True for IPv6 clients.
    InAcross(bool),
    /// A server's packet of an established connection.
    Out(Method, Transport),
    /// The first packet of a connection.
    Open(Method, Transport),
    /// The same over IPv6, TCP.
    OpenIpv6(Method),
    /// The first packet of a connection by direct routing, whose server another scheduler than rr chooses.
    OpenBy(&'static str, Transport),
    /// A client's datagrams in two fragments each, in order, of an established connection; each counts.
    Fragments(Method),
    /// An ICMP error about a client's packet of an established connection.
    Error(Method),
    /// A connection's end by its timeout.
    Expire(Method, Transport),
    /// A packet that is for Linux.
    Linux,
    /// A round without a packet.
    Idle,
}

/// A way, and how many packets come at once.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    way: Way,
    burst: usize,
}

/// All that is counted.
pub fn all() -> impl Iterator<Item = Scenario> {
    use Method::{DirectRouting as Dr, FullNat, Nat, Tunnel};
    use Transport::{Tcp, Udp};
    let packets = [
        Way::Wire,
        Way::In(Dr, Tcp),
        Way::In(Dr, Udp),
        Way::In(Nat, Tcp),
        Way::In(Nat, Udp),
        Way::In(Tunnel, Tcp),
        Way::In(Tunnel, Udp),
        Way::In(FullNat, Tcp),
        Way::In(FullNat, Udp),
        Way::InIpv6(Dr),
        Way::InIpv6(Nat),
        Way::InIpv6(Tunnel),
        Way::InAcross(true),
        Way::InAcross(false),
        Way::Out(Nat, Tcp),
        Way::Out(Nat, Udp),
        Way::Out(FullNat, Tcp),
        Way::Out(FullNat, Udp),
        Way::Open(Dr, Tcp),
        Way::Open(Dr, Udp),
        Way::Open(Nat, Tcp),
        Way::Open(Nat, Udp),
        Way::Open(Tunnel, Tcp),
        Way::Open(FullNat, Tcp),
        Way::OpenIpv6(Nat),
        Way::OpenBy("mh", Tcp),
        Way::OpenBy("mh", Udp),
        Way::Fragments(Nat),
        Way::Error(Nat),
        Way::Linux,
    ];
    let packets = packets.into_iter().flat_map(|way| [1, BURST].map(|burst| Scenario { way, burst }));
    let rest = [Way::Expire(Dr, Udp), Way::Expire(Nat, Tcp), Way::Idle];
    packets.chain(rest.map(|way| Scenario { way, burst: 0 }))
}

/// The scenario of this name.
pub fn named(name: &str) -> Result<Scenario> {
    all().find(|scenario| scenario.name() == name).with_context(|| format!("there is no scenario {name}"))
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = |method| match method {
            Method::DirectRouting => "dr",
            Method::Tunnel => "tun",
            Method::Nat => "nat",
            Method::FullNat => "fullnat",
            Method::Local => "local",
            Method::Bypass => "bypass",
            Method::Snat => "snat",
        };
        let transport = |transport| match transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        match *self {
            Self::Wire => write!(f, "wire"),
            Self::In(by, of) => write!(f, "{}_in_{}", method(by), transport(of)),
            Self::InIpv6(by) => write!(f, "{}_in_tcp_ipv6", method(by)),
            Self::InAcross(ipv6) => write!(f, "fullnat{}_in_tcp", if ipv6 { 64 } else { 46 }),
            Self::Out(by, of) => write!(f, "{}_out_{}", method(by), transport(of)),
            Self::Open(by, of) => write!(f, "{}_open_{}", method(by), transport(of)),
            Self::OpenIpv6(by) => write!(f, "{}_open_tcp_ipv6", method(by)),
            Self::OpenBy(scheduler, of) => write!(f, "dr_open_{scheduler}_{}", transport(of)),
            Self::Fragments(by) => write!(f, "{}_fragments_udp", method(by)),
            Self::Error(by) => write!(f, "{}_error", method(by)),
            Self::Expire(by, of) => write!(f, "{}_expire_{}", method(by), transport(of)),
            Self::Linux => write!(f, "to_linux"),
            Self::Idle => write!(f, "idle"),
        }
    }
}

impl Scenario {
    /// Its name in reports and recordings.
    pub fn name(&self) -> String {
        let way = self.way;
        if self.burst == 0 { way.to_string() } else { format!("{way}_{}", self.burst) }
    }

    /// How many packets, connections or rounds are counted.
    pub fn things(&self) -> u32 {
        THINGS
    }

    /// Does it, and checks that it was done.
    pub fn run(&self) -> Result<()> {
        let method = match self.way {
            Way::In(method, _) | Way::Out(method, _) | Way::Open(method, _) | Way::Expire(method, _) => {
                method
            }
            Way::InIpv6(method) | Way::OpenIpv6(method) => method,
            Way::InAcross(_) => Method::FullNat,
            Way::Fragments(method) | Way::Error(method) => method,
            Way::OpenBy(..) | Way::Wire | Way::Linux | Way::Idle => Method::DirectRouting,
        };
        let scheduler = if let Way::OpenBy(scheduler, _) = self.way { scheduler } else { "rr" };
        let ipv6 = matches!(self.way, Way::InIpv6(_) | Way::OpenIpv6(_) | Way::InAcross(true));
        let across = matches!(self.way, Way::InAcross(_));
        let setup = Setup { scheduler, kernel: Some(THINGS as usize), ipv6, across, ..Setup::new(method)? };
        // By FULLNAT a connection over IPv6 has three entries.
        let setup = if across { Setup { capacity: 4 * THINGS, ..setup } } else { setup };
        let mut director = Director::new(&setup)?;
        let clients = |transport, phase| (0..THINGS).map(move |flow| client(transport, flow, phase));
        let clients_ipv6 = |phase| (0..THINGS).map(move |flow| client_ipv6(Transport::Tcp, flow, phase));
        let frames: Vec<_> = match self.way {
            Way::In(_, transport) => {
                director.establish(transport, THINGS)?;
                clients(transport, Phase::Established).collect()
            }
            Way::InIpv6(_) => {
                director.establish(Transport::Tcp, THINGS)?;
                clients_ipv6(Phase::Established).collect()
            }
            Way::InAcross(ipv6) => {
                director.establish(Transport::Tcp, THINGS)?;
                if ipv6 {
                    clients_ipv6(Phase::Established).collect()
                } else {
                    clients(Transport::Tcp, Phase::Established).collect()
                }
            }
            Way::Out(_, transport) => director.establish(transport, THINGS)?,
            Way::Expire(_, transport) => {
                director.establish(transport, THINGS)?;
                director.skip(3600);
                Vec::new()
            }
            Way::Open(_, transport) | Way::OpenBy(_, transport) => {
                clients(transport, Phase::Opening).collect()
            }
            Way::OpenIpv6(_) => clients_ipv6(Phase::Opening).collect(),
            Way::Fragments(_) => {
                director.establish(Transport::Udp, 1)?;
                (0..THINGS / 2).flat_map(|n| [fragment(n, 0, true), fragment(n, 16, false)]).collect()
            }
            Way::Error(_) => {
                director.establish(Transport::Udp, THINGS)?;
                let sent = director.pass(clients(Transport::Udp, Phase::Established).collect());
                sent.iter().map(|sent| unreachable(sent)).collect::<Result<_>>()?
            }
            // Nobody's connection.
            Way::Linux => clients(Transport::Tcp, Phase::Established).collect(),
            Way::Wire => clients(Transport::Udp, Phase::Established).collect(),
            Way::Idle => Vec::new(),
        };
        director.wire.load(&Rc::from(frames), self.burst);
        let before = director.totals();
        match self.way {
            Way::Wire => counted(|| pass_by(&mut director.wire)),
            Way::Idle => counted(|| (0..THINGS).for_each(|_| director.poll())),
            Way::Expire(..) => counted(|| director.poll_until_expired()),
            _ => counted(|| director.poll_all()),
        }
        let (after, things) = (director.totals(), u64::from(THINGS));
        let done = match self.way {
            Way::Linux => after.to_kernel - before.to_kernel == things,
            Way::In(..)
            | Way::InIpv6(_)
            | Way::InAcross(_)
            | Way::Out(..)
            | Way::Fragments(_)
            | Way::Error(_) => after.forwarded - before.forwarded == things,
            Way::Open(..) | Way::OpenIpv6(_) | Way::OpenBy(..) => {
                after.forwarded == things && director.connections() == THINGS
            }
            Way::Wire | Way::Idle | Way::Expire(..) => after == before && director.connections() == 0,
        };
        ensure!(done, "{} did not go the way that it should: {after:?}", self.name());
        Ok(())
    }
}

/// What callgrind counts is what happens in here.
#[inline(never)]
fn counted(work: impl FnOnce()) {
    work();
}

fn pass_by(wire: &mut Loop) {
    loop {
        let mut burst = Burst::new();
        wire.receive(&mut burst);
        if burst.is_empty() {
            return;
        }
        wire.send(&mut burst);
    }
}
