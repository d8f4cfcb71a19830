//! Linux's own addresses, as far as packets that the director itself makes may have them as their source.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// The interface's index.
    pub index: u32,
    /// The address, with the length of its network's prefix.
    pub network: IpNet,
}

impl Address {
    /// `None` for what Linux itself would not choose: secondary and temporary addresses, those that are not yet or no longer
    /// good, and the host's own (loopback).
    pub fn read(message: &AddressMessage) -> Option<Self> {
        use AddressHeaderFlags as Flags;
        let header = &message.header;
        let unfit = Flags::Secondary | Flags::Deprecated | Flags::Tentative | Flags::Dadfailed;
        if header.flags.intersects(unfit)
            || matches!(header.scope, AddressScope::Host | AddressScope::Nowhere)
        {
            return None;
        }
        let (mut own, mut peer): (Option<IpAddr>, Option<IpAddr>) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(address) => own = Some(*address),
                AddressAttribute::Address(address) => peer = Some(*address),
                _ => {}
            }
        }
        let network = IpNet::new(own.or(peer)?, header.prefix_len).ok()?;
        Some(Self { index: header.index, network })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(scope: AddressScope, flags: AddressHeaderFlags) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = 7;
        message.header.prefix_len = 24;
        message.header.scope = scope;
        message.header.flags = flags;
        // Both, and not the same, on a link between two points.
        message.attributes.push(AddressAttribute::Address([192, 0, 2, 254].into()));
        message.attributes.push(AddressAttribute::Local([192, 0, 2, 1].into()));
        message
    }

    #[test]
    fn only_addresses_to_send_with_are_read() {
        use AddressHeaderFlags as Flags;
        let expected = Some(Address { index: 7, network: "192.0.2.1/24".parse().unwrap() });
        for (scope, flags, expected) in [
            (AddressScope::Universe, Flags::Permanent, expected),
            (AddressScope::Link, Flags::empty(), expected),
            (AddressScope::Host, Flags::Permanent, None),
            (AddressScope::Universe, Flags::Permanent | Flags::Secondary, None),
            (AddressScope::Universe, Flags::Tentative, None),
            (AddressScope::Universe, Flags::Deprecated, None),
        ] {
            assert_eq!(Address::read(&message(scope, flags)), expected, "{scope:?} {flags:?}");
        }
    }
}
