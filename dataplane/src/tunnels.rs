//! Which tunnel leads to which destination: what a worker finds by the destination's number, prepared by control and part of
//! every snapshot.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;

use crate::counters::{Drop, Verdict};
use crate::forward::tunnel::{Encapsulation, Kind, MixedFamilies};
use crate::network::{Network, PortId};
use crate::packet::ipv6;
use crate::time::Tick;

/// How long what was learnt of a path counts: as long as for Linux (mtu_expires; RFC 1191 §6.3, RFC 8201 §4).
const LEARNT_SECONDS: u32 = 600;

/// Over IPv4, less than this is not believed, as by Linux (min_pmtu): who is told that much less would send a lot of small packets.
const LEAST_IPV4: u16 = 552;

/// What ICMP errors have told of the path to a real server: how long packets may be. Shared by all workers, each of which may learn.
///
/// A length in bits 32–47, and the tick until which it counts below; or 0. It is one word, so that what is read is of one moment; of
/// two workers that learn at the same time either may be the later one.
#[derive(Debug, Default)]
pub struct PathMtu(AtomicU64);

impl PathMtu {
    /// The longest packet, in bytes with its outer IP header, as far as anything is known that still counts.
    #[inline]
    pub fn get(&self, now: Tick) -> Option<u16> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            word => self.valid(word, now),
        }
    }

    #[cold]
    fn valid(&self, word: u64, now: Tick) -> Option<u16> {
        if !now.reached(Tick(word as u32)) {
            return Some((word >> 32) as u16);
        }
        // Before its tick comes round again.
        let _ = self.0.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed);
        None
    }

    /// An error has told that packets longer than `mtu` do not get through. Gives what is known now. That more would get through than was
    /// known is not believed (RFC 1191 §3), and of less than the least that there is no more than that.
    pub fn learn(&self, mtu: u32, known: u16, is_ipv4: bool, now: Tick) -> u16 {
        let least = if is_ipv4 { LEAST_IPV4 } else { ipv6::MIN_MTU as u16 };
        let told = u16::try_from(mtu).unwrap_or(u16::MAX).max(least);
        if told >= known {
            return known;
        }
        // 0 is no tick here, so that the word is never 0.
        let until = now.after(Tick::from_seconds(LEARNT_SECONDS).0).0;
        self.0.store(u64::from(told) << 32 | u64::from(until), Ordering::Relaxed);
        told
    }
}

/// The way to one destination.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// What is put in front of a packet.
    pub encapsulation: Encapsulation,
    /// The outer destination: the real server.
    pub to: IpAddr,
    /// The port that the route leaves by.
    pub port: PortId,
    /// What has been learnt of the path to the real server.
    pub path: Arc<PathMtu>,
}

impl Tunnel {
    /// The tunnel to the real server `to` in this network. A tunnel is not made anew for each packet, so it has to be when the
    /// routes or the host's addresses change.
    ///
    /// # Errors
    /// What becomes of packets to this server without one: it is this host, and they are Linux's as they came; no route leads there, or
    /// there is no address to send from.
    pub fn new(kind: Kind, to: IpAddr, network: &Network) -> Result<Self, Verdict> {
        if network.is_local(to) {
            return Err(Verdict::ToKernel);
        }
        let port = network.route(to).ok_or(Verdict::Drop(Drop::NoRoute))?.port;
        let no_source = Verdict::Drop(Drop::NoSourceAddress);
        let from = network.source(to).ok_or(no_source)?;
        let encapsulation = Encapsulation::new(kind, from, to).map_err(|_: MixedFamilies| no_source)?;
        Ok(Self { encapsulation, to, port, path: Arc::default() })
    }

    /// The longest outer packet, where its port's link carries `link` bytes.
    #[inline]
    pub fn mtu(&self, link: usize, now: Tick) -> usize {
        self.path.get(now).map_or(link, |learnt| link.min(learnt.into()))
    }
}

/// All tunnels, by the numbers of their destinations.
#[derive(Clone, Debug, Default)]
pub struct Tunnels(Vec<Result<Tunnel, Verdict>>);

impl Tunnels {
    /// The tunnels to these destinations. Others have none.
    pub fn new(tunnels: impl IntoIterator<Item = (u32, Result<Tunnel, Verdict>)>) -> Self {
        let mut all = Vec::new();
        for (destination, tunnel) in tunnels {
            let place = destination as usize;
            if place >= all.len() {
                all.resize(place + 1, Err(Verdict::Drop(Drop::DestinationGone)));
            }
            all[place] = tunnel;
        }
        Self(all)
    }

    /// The same, where tunnels to one real server share what is learnt of the path, and know what those of `before` have learnt.
    #[must_use]
    pub fn sharing_paths(mut self, before: &Self) -> Self {
        let known = before.0.iter().flatten().map(|tunnel| (tunnel.to, tunnel.path.clone()));
        let mut paths: HashMap<IpAddr, Arc<PathMtu>> = known.collect();
        for tunnel in self.0.iter_mut().flatten() {
            tunnel.path = paths.entry(tunnel.to).or_insert_with(|| tunnel.path.clone()).clone();
        }
        self
    }

    /// True where no destination has a tunnel.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tunnel to a destination, or what becomes of its packets without one.
    #[inline]
    pub fn of(&self, destination: u32) -> Result<&Tunnel, Verdict> {
        match self.0.get(destination as usize) {
            Some(tunnel) => tunnel.as_ref().map_err(|verdict| *verdict),
            None => Err(Verdict::Drop(Drop::DestinationGone)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{LocalAddress, NextHop, Sources, Way};

    fn network() -> Network {
        let mut network = Network::default();
        let hop = NextHop { port: PortId(1), gateway: None };
        network.set_routes([
            ("192.0.2.0/24".parse().unwrap(), Way::Out(hop)),
            ("192.0.2.1/32".parse().unwrap(), Way::Local),
            ("2001:db8::/32".parse().unwrap(), Way::Out(hop)),
        ]);
        let network_of = |text: &str| LocalAddress { port: Some(PortId(1)), network: text.parse().unwrap() };
        network.set_sources(Sources::new([], [network_of("192.0.2.1/24")]));
        network
    }

    #[test]
    fn what_is_learnt_of_a_path_counts_for_ten_minutes() {
        let path = PathMtu::default();
        let start = Tick(u32::MAX - 1000);
        let after = |seconds| start.after(Tick::from_seconds(seconds).0);
        assert_eq!(path.get(start), None);
        assert_eq!(path.learn(1400, 1500, true, start), 1400);
        assert_eq!((path.get(start), path.get(after(599))), (Some(1400), Some(1400)));
        assert_eq!(path.learn(1450, 1400, true, after(300)), 1400, "a path does not widen by an error");
        assert_eq!(path.learn(1300, 1400, true, after(300)), 1300);
        assert_eq!(
            (path.get(after(899)), path.get(after(900)), path.get(after(901))),
            (Some(1300), None, None)
        );
        assert_eq!((path.get(start), path.0.load(Ordering::Relaxed)), (None, 0), "it does not come back");
        for (is_ipv4, told, known, learnt) in [
            (true, 0, 1500, 552),
            (true, 68, 1500, 552),
            (true, 68, 500, 500),
            (false, 0, 1500, 1280),
            (false, 1279, 1280, 1280),
            (false, u32::MAX, 1500, 1500),
            (true, 65_535, 9000, 9000),
        ] {
            assert_eq!(PathMtu::default().learn(told, known, is_ipv4, start), learnt, "{told} where {known}");
        }
    }

    #[test]
    fn tunnels_to_one_server_share_its_path() {
        let tunnel = |to: &str| Tunnel::new(Kind::IpIp, to.parse().unwrap(), &network());
        let first = [(0, tunnel("192.0.2.9")), (1, tunnel("192.0.2.9")), (2, tunnel("192.0.2.10"))];
        let before = Tunnels::new(first).sharing_paths(&Tunnels::default());
        let known = |tunnels: &Tunnels, n| tunnels.of(n).unwrap().path.get(Tick(1));
        before.of(1).unwrap().path.learn(1400, 1500, true, Tick(0));
        assert_eq!([0, 1, 2].map(|n| known(&before, n)), [Some(1400), Some(1400), None]);
        let next = [(0, tunnel("192.0.2.10")), (3, tunnel("192.0.2.9"))];
        let after = Tunnels::new(next).sharing_paths(&before);
        assert_eq!([0, 3].map(|n| known(&after, n)), [None, Some(1400)]);
    }

    #[test]
    fn a_destination_has_its_tunnel_or_a_reason() {
        let tunnel = |to: &str| Tunnel::new(Kind::IpIp, to.parse().unwrap(), &network());
        let servers = [(7, "192.0.2.9"), (2, "10.0.0.1"), (3, "2001:db8::9"), (4, "192.0.2.1")];
        let tunnels = Tunnels::new(servers.map(|(n, to)| (n, tunnel(to))));
        let verdicts = |n| tunnels.of(n).map(|tunnel| tunnel.to);
        let dropped = |reason| Err(Verdict::Drop(reason));
        assert_eq!(verdicts(7), Ok([192, 0, 2, 9].into()));
        assert_eq!(verdicts(2), dropped(Drop::NoRoute));
        assert_eq!(verdicts(3), dropped(Drop::NoSourceAddress));
        assert_eq!(verdicts(4), Err(Verdict::ToKernel), "this host");
        for without in [0, 5, 8, u32::MAX] {
            assert_eq!(verdicts(without), dropped(Drop::DestinationGone));
        }
    }
}
