//! What a neighbour message of Linux says (rtnetlink(7), `linux/neighbour.h`).

use std::net::IpAddr;

use dataplane::network::MacAddr;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};

/// A neighbour as Linux has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// The index of the interface whose link it is on.
    pub index: u32,
    pub address: IpAddr,
    /// Its MAC address, if it may be sent to.
    pub mac: Option<MacAddr>,
    /// Not asked for a while: Linux will not ask by itself, because it does not see what workers send.
    pub stale: bool,
    /// Set by hand or needing no resolution: it must not be asked for, which would make it an ordinary entry.
    pub settled: bool,
    /// Linux keeps it resolved for ever (`NTF_EXT_MANAGED`).
    pub managed: bool,
    /// Somebody else's mark (`NTF_EXT_LEARNED`), which a message of ours would take away if it did not repeat it.
    pub learned: bool,
}

impl Neighbour {
    /// `None` for what is no neighbour of ours: bridge entries, proxies, multicast and broadcast.
    pub fn read(message: &NeighbourMessage) -> Option<Self> {
        let header = &message.header;
        if header.flags.contains(NeighbourFlags::Proxy) {
            return None;
        }
        let (mut address, mut mac, mut managed) = (None, None, false);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(IpAddr::V4(*a)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => address = Some(IpAddr::V6(*a)),
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr);
                }
                NeighbourAttribute::ExtFlags(flags) => managed = flags.contains(NeighbourExtFlags::Managed),
                _ => {}
            }
        }
        let address = address.filter(|a| !a.is_multicast())?;
        if mac == Some(MacAddr([0xff; 6])) {
            return None;
        }
        use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
        let usable = matches!(header.state, Reachable | Stale | Delay | Probe | Permanent | Noarp);
        Some(Self {
            index: header.ifindex,
            address,
            mac: mac.filter(|m| usable && *m != MacAddr::default()),
            stale: header.state == Stale,
            settled: matches!(header.state, Permanent | Noarp),
            managed,
            learned: header.flags.contains(NeighbourFlags::ExtLearned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::AddressFamily;

    fn message(state: NeighbourState, mac: &[u8]) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = 7;
        message.header.state = state;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet([192, 0, 2, 9].into())),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        message
    }

    #[test]
    fn only_states_with_a_valid_address_are_usable() {
        use NeighbourState::*;
        let mac = [2, 0, 0, 0, 0, 9];
        for (state, usable) in [
            (Reachable, true),
            (Stale, true),
            (Delay, true),
            (Probe, true),
            (Permanent, true),
            (Noarp, true),
            (Incomplete, false),
            (Failed, false),
            (None, false),
        ] {
            let neighbour = Neighbour::read(&message(state, &mac)).unwrap();
            assert_eq!(neighbour.mac, usable.then_some(MacAddr(mac)), "{state}");
            assert_eq!((neighbour.index, neighbour.address), (7, IpAddr::from([192, 0, 2, 9])));
            assert_eq!(neighbour.settled, matches!(state, Permanent | Noarp), "{state}");
            assert_eq!(neighbour.stale, state == Stale, "{state}");
        }
    }

    #[test]
    fn addresses_that_are_no_host_of_an_ethernet_are_left_out() {
        let read = |mac: &[u8]| Neighbour::read(&message(NeighbourState::Noarp, mac));
        assert_eq!(read(&[0xff; 6]), None);
        assert_eq!(read(&[0; 6]).unwrap().mac, None);
        assert_eq!(read(&[1, 2, 3, 4]).unwrap().mac, None);
        let mut proxy = message(NeighbourState::Permanent, &[2, 0, 0, 0, 0, 9]);
        proxy.header.flags = NeighbourFlags::Proxy;
        assert_eq!(Neighbour::read(&proxy), None);
        let mut group = message(NeighbourState::Noarp, &[0x01, 0, 0x5e, 0, 0, 1]);
        group.attributes[0] = NeighbourAttribute::Destination(NeighbourAddress::Inet([224, 0, 0, 1].into()));
        assert_eq!(Neighbour::read(&group), None);
    }
}
