//! ICMP and ICMPv6 echo (RFC 792; RFC 4443 §4): a request and the replies to it, told from others by an identifier. That stands where
//! other protocols have a port: a request's is its sender's, a reply's its receiver's, and the other one is 0.

use super::checksum::Difference;
use super::tcp::Flags;
use super::{protocol, read_u16};

/// The header's length in bytes.
pub const HEADER: usize = 8;
/// Where the checksum is, and the identifier.
const CHECKSUM: usize = 2;
const IDENTIFIER: usize = 4;

/// True for a request or a reply of this protocol, ICMP or ICMPv6.
pub fn is_echo(protocol: u8, message: &[u8]) -> bool {
    ports(protocol, message).is_some()
}

/// Both ports as one number of twice 16 bits, the source's in the upper half. A request opens a connection, which SYN stands for.
/// `None` for any other message, and for one whose header is not whole.
pub fn ports(protocol: u8, message: &[u8]) -> Option<(u32, Flags)> {
    let header = message.first_chunk::<HEADER>()?;
    let identifier = u32::from(read_u16(header, IDENTIFIER));
    match (protocol, header[0], header[1]) {
        (protocol::ICMP, 8, 0) | (protocol::ICMPV6, 128, 0) => Some((identifier << 16, Flags(Flags::SYN))),
        (protocol::ICMP, 0, 0) | (protocol::ICMPV6, 129, 0) => Some((identifier, Flags::default())),
        _ => None,
    }
}

/// Writes the identifier that is one of these ports, the other being 0, and corrects the checksum, as far as there is one, as
/// [`set_identifier`] does.
pub fn set_ports(message: &mut [u8], protocol: u8, ports: u32, address_change: Difference) {
    set_identifier(message, protocol, (ports >> 16 | ports) as u16, address_change);
}

/// Writes the identifier, and corrects the checksum for it; ICMPv6's, which is also over the pseudo-header, for `address_change`, too.
pub fn set_identifier(message: &mut [u8], protocol: u8, identifier: u16, address_change: Difference) {
    let Some(header) = message.first_chunk_mut::<HEADER>() else { return };
    let change = if protocol == protocol::ICMPV6 { address_change } else { Difference::default() };
    let change = change.replace_u16(read_u16(header, IDENTIFIER), identifier);
    header[IDENTIFIER..IDENTIFIER + 2].copy_from_slice(&identifier.to_be_bytes());
    let check = change.apply(read_u16(header, CHECKSUM));
    header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&check.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::checksum;
    use proptest::prelude::*;

    #[test]
    fn requests_and_replies_have_their_identifiers_at_their_own_ends() {
        let message = |kind, code| [kind, code, 0, 0, 0x12, 0x34, 0, 1];
        for (protocol, kind, code, expected) in [
            (1, 8, 0, Some((0x1234_0000, Flags(Flags::SYN)))),
            (1, 0, 0, Some((0x1234, Flags(0)))),
            (58, 128, 0, Some((0x1234_0000, Flags(Flags::SYN)))),
            (58, 129, 0, Some((0x1234, Flags(0)))),
            (1, 8, 1, None),
            (1, 13, 0, None),
            (58, 135, 0, None),
            (58, 8, 0, None),
            (17, 8, 0, None),
        ] {
            assert_eq!(ports(protocol, &message(kind, code)), expected, "{protocol} {kind} {code}");
        }
        assert!(!is_echo(1, &message(8, 0)[..7]) && !is_echo(1, &[]));
    }

    proptest! {
        #[test]
        fn a_right_checksum_stays_right(mut message in prop::collection::vec(any::<u8>(), 8..40), identifier: u16) {
            message[..4].copy_from_slice(&[8, 0, 0, 0]);
            let check = checksum::verify(&message);
            message[2..4].copy_from_slice(&check.to_be_bytes());
            set_ports(&mut message, protocol::ICMP, identifier.into(), Difference::default().replace_u16(1, 2));
            prop_assert_eq!(checksum::verify(&message), 0);
            prop_assert_eq!(ports(protocol::ICMP, &message), Some((u32::from(identifier) << 16, Flags(Flags::SYN))));
        }
    }
}
