//! The neighbours that Linux must always know: those on the way to real servers, and every gateway.
//!
//! Linux keeps them resolved by itself once they are marked as managed (`NTF_EXT_MANAGED`, Linux 5.16). Where the mark
//! does not hold (older kernels, an entry that was deleted) the marking is repeated, and as it also asks for the
//! neighbour, repeating it is all that an older kernel needs.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dataplane::network::Network;

use super::Key;
use super::neighbours::Neighbour;

/// After this an entry that is gone is made anew.
const MISSING: Duration = Duration::from_secs(1);
/// After this an entry that Linux does not manage is asked for again; Linux's own interval for managed ones.
const UNMANAGED: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Kept {
    /// When each was last asked for.
    neighbours: HashMap<Key, Option<Instant>>,
}

impl Kept {
    /// Works out anew which neighbours are needed for `addresses` and as `gateways`, and returns those that no longer
    /// are and that Linux was asked for. It need not have announced them: it does not while it has no answer.
    pub fn set(
        &mut self,
        addresses: &HashSet<IpAddr>,
        gateways: impl Iterator<Item = Key>,
        network: &Network,
    ) -> Vec<Key> {
        let on_the_way = addresses.iter().filter_map(|&address| {
            let hop = network.route(address)?;
            Some((hop.port, hop.gateway.unwrap_or(address)))
        });
        let mut needed: HashMap<Key, Option<Instant>> =
            on_the_way.chain(gateways).map(|k| (k, None)).collect();
        for (key, asked) in &mut needed {
            *asked = self.neighbours.get(key).copied().flatten();
        }
        let before = std::mem::replace(&mut self.neighbours, needed);
        let released = |(key, asked): (Key, Option<Instant>)| {
            (asked.is_some() && !self.neighbours.contains_key(&key)).then_some(key)
        };
        before.into_iter().filter_map(released).collect()
    }

    pub fn contains(&self, key: &Key) -> bool {
        self.neighbours.contains_key(key)
    }

    pub fn is_empty(&self) -> bool {
        self.neighbours.is_empty()
    }

    /// Those to be marked now; they count as asked for. `known` is what Linux has.
    pub fn due(&mut self, known: &HashMap<Key, Neighbour>, now: Instant) -> Vec<Key> {
        let due = self
            .neighbours
            .iter_mut()
            .filter_map(|(key, asked)| is_due(known.get(key), asked, now).then_some(*key));
        due.collect()
    }

    /// [`Kept::due`] for one of them, which somebody has packets for.
    pub fn is_due(&mut self, key: &Key, known: &HashMap<Key, Neighbour>, now: Instant) -> bool {
        self.neighbours.get_mut(key).is_some_and(|asked| is_due(known.get(key), asked, now))
    }
}

/// Whether a neighbour, of which Linux knows this much, is to be asked for; it counts as asked for then.
fn is_due(known: Option<&Neighbour>, asked: &mut Option<Instant>, now: Instant) -> bool {
    let pause = match known {
        Some(n) if n.settled || n.managed => return false,
        // It went unasked for too long: the next packet must not go to a host that has moved.
        Some(n) if n.stale => MISSING,
        Some(_) => UNMANAGED,
        None => MISSING,
    };
    let due = asked.is_none_or(|at| now >= at + pause);
    if due {
        *asked = Some(now);
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::network::{MacAddr, NextHop, PortId};

    const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9));
    const GATEWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));

    fn network() -> Network {
        let mut network = Network::default();
        network.set_routes([
            ("0.0.0.0/0".parse().unwrap(), Some(NextHop { port: PortId(0), gateway: Some(GATEWAY) })),
            ("192.0.2.0/24".parse().unwrap(), Some(NextHop { port: PortId(1), gateway: None })),
            ("10.0.0.0/8".parse().unwrap(), None),
        ]);
        network
    }

    fn neighbour() -> Neighbour {
        Neighbour {
            index: 2,
            address: SERVER,
            mac: Some(MacAddr([2, 0, 0, 0, 0, 9])),
            stale: false,
            settled: false,
            managed: false,
            learned: false,
        }
    }

    #[test]
    fn the_neighbour_is_the_gateway_or_the_server_itself() {
        let mut kept = Kept::default();
        let addresses = [SERVER, [203, 0, 113, 5].into(), [10, 0, 0, 1].into()].into();
        assert_eq!(kept.set(&addresses, std::iter::empty(), &network()), []);
        assert!(kept.contains(&(PortId(1), SERVER)) && kept.contains(&(PortId(0), GATEWAY)));
        assert_eq!(kept.neighbours.len(), 2);
        assert_eq!(kept.due(&HashMap::new(), Instant::now()).len(), 2);
        assert_eq!(kept.set(&[SERVER].into(), std::iter::empty(), &network()), [(PortId(0), GATEWAY)]);
        let gateway = [(PortId(0), GATEWAY)];
        assert_eq!(kept.set(&[].into(), gateway.into_iter(), &network()), [(PortId(1), SERVER)]);
        assert_eq!(kept.set(&[].into(), std::iter::empty(), &network()), [], "nobody was asked for it");
    }

    #[test]
    fn marking_is_repeated_until_linux_manages_the_neighbour() {
        let (mut kept, key, start) = (Kept::default(), (PortId(1), SERVER), Instant::now());
        kept.set(&[SERVER].into(), std::iter::empty(), &network());
        let mut known = HashMap::new();
        assert_eq!(kept.due(&known, start), [key]);
        assert_eq!(kept.due(&known, start), []);
        assert_eq!(kept.due(&known, start + MISSING), [key], "gone");
        known.insert(key, neighbour());
        assert_eq!(kept.due(&known, start + MISSING + MISSING), []);
        assert_eq!(kept.due(&known, start + MISSING + UNMANAGED), [key], "there, but not managed");
        known.insert(key, Neighbour { stale: true, ..neighbour() });
        assert_eq!(kept.due(&known, start + 2 * MISSING + UNMANAGED), [key], "stale");
        for other in [Neighbour { managed: true, ..neighbour() }, Neighbour { settled: true, ..neighbour() }]
        {
            known.insert(key, other);
            assert_eq!(kept.due(&known, start + Duration::from_secs(3600)), [], "{other:?}");
        }
    }

    #[test]
    fn one_that_packets_wait_for_is_due_without_looking_through_all() {
        let (mut kept, key, start) = (Kept::default(), (PortId(1), SERVER), Instant::now());
        let known = HashMap::new();
        assert!(!kept.is_due(&key, &known, start), "not one of them");
        kept.set(&[SERVER].into(), std::iter::empty(), &network());
        assert!(kept.is_due(&key, &known, start));
        assert!(!kept.is_due(&key, &known, start), "asked for a moment ago");
        assert_eq!(kept.due(&known, start), []);
        assert!(kept.is_due(&key, &known, start + MISSING));
    }

    #[test]
    fn working_it_out_anew_asks_nobody_twice() {
        let (mut kept, start) = (Kept::default(), Instant::now());
        kept.set(&[SERVER].into(), std::iter::empty(), &network());
        assert_eq!(kept.due(&HashMap::new(), start).len(), 1);
        kept.set(&[SERVER].into(), std::iter::empty(), &network());
        assert_eq!(kept.due(&HashMap::new(), start), []);
    }
}
