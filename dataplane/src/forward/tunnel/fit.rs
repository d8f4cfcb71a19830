//! Whether a packet still fits its way with the outer headers around it.

use super::Encapsulation;
use crate::packet::ipv4::{self, Ipv4};
use crate::packet::ipv6::{self, Ipv6};
use crate::packet::protocol;

/// The least that IPv4 can have left inside (RFC 791: what every link carries).
const IPV4_MIN_MTU: usize = 68;

/// What a tunnel's length means to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It goes as it is.
    Whole,
    /// Its outer packet is longer than the link takes and has to be fragmented, as Linux does where the sender did not say
    /// otherwise.
    Fragment,
    /// Its sender is to be told that no more than this would do, in bytes with the inner IP header: "fragmentation needed" or "packet too
    /// big".
    TooBig {
        /// The longest inner packet.
        mtu: u16,
    },
}

/// A link on which a tunnel has no room for packets at all; Linux drops what should go there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a link of {mtu} bytes leaves {left} inside the tunnel, which needs {least}; raise the link's MTU")]
pub struct LinkTooSmall {
    mtu: usize,
    left: usize,
    least: usize,
}

impl Encapsulation {
    /// The longest packet that goes through the tunnel unfragmented where links carry `mtu` bytes, IP header included.
    pub fn inner_mtu(&self, mtu: usize) -> Result<u16, LinkTooSmall> {
        let left = mtu.saturating_sub(self.overhead());
        let least = if self.over_ipv4 { IPV4_MIN_MTU } else { ipv6::MIN_MTU };
        if left < least {
            return Err(LinkTooSmall { mtu, left, least });
        }
        Ok(u16::try_from(left).unwrap_or(u16::MAX))
    }

    /// What is to become of `packet`, which begins with the inner IP header, where links carry `mtu` bytes. IPv4's
    /// don't-fragment counts where `pmtu_disc` (the sysctl) is on, and never in ICMP: nobody is told about an error.
    #[inline]
    pub fn fit(&self, packet: &[u8], mtu: usize, pmtu_disc: bool) -> Result<Fit, LinkTooSmall> {
        let mtu = self.inner_mtu(mtu)?;
        let (length, must_not) = match packet.first().map(|byte| byte >> 4) {
            Some(4) if packet.len() >= ipv4::MIN_HEADER => {
                // The length as it was received: it is checked where the packet is encapsulated.
                let Ok(ip) = Ipv4::new(packet, usize::MAX) else { return Ok(Fit::Whole) };
                let must_not = pmtu_disc && packet[6] & 0x40 != 0 && ip.protocol() != protocol::ICMP;
                (usize::from(ip.total_length()), must_not)
            }
            Some(6) => match Ipv6::new(packet, usize::MAX) {
                Ok(ip) => (ip.total_length(), true),
                Err(_) => return Ok(Fit::Whole),
            },
            _ => return Ok(Fit::Whole),
        };
        Ok(match length <= usize::from(mtu) {
            true => Fit::Whole,
            false if must_not => Fit::TooBig { mtu },
            false => Fit::Fragment,
        })
    }
}
