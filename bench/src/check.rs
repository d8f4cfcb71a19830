//! Checks what comes out of the director, byte by byte where it matters, with a packet library that is not the
//! director's own: a figure for frames that nobody could use would be worth nothing.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use anyhow::{Context, ensure};
use dataplane::network::MacAddr;
use etherparse::TransportHeader;

use crate::Mode;
use crate::traffic::{self, DIRECTOR, GATEWAY, LOCALS, SERVER_PORT, SERVICE, TTL, server};

/// True where `frame` is what a director in this mode makes of what the generator sends. `turns` are the servers that the
/// flows have been given to, in turn; flows that were `refused` when it was their turn may be anywhere.
pub fn check(frame: &[u8], mode: Mode, turns: &[u8], refused: &HashSet<u32>) -> anyhow::Result<()> {
    let headers = traffic::headers(frame)?;
    let (ip, payload) = (&headers.ip, headers.payload);
    let (source_port, destination_port) = headers.ports();
    let (check, expected) = match &headers.transport {
        TransportHeader::Udp(udp) => (udp.checksum, udp.calc_checksum_ipv4(ip, payload)?),
        TransportHeader::Tcp(tcp) => (tcp.checksum, tcp.calc_checksum_ipv4(ip, payload)?),
        _ => anyhow::bail!("neither UDP nor TCP"),
    };
    ensure!(check == expected, "transport checksum {check:#06x} and not {expected:#06x}");
    ensure!(ip.header_checksum == ip.calc_header_checksum(), "the IP header's checksum is wrong");

    let (source, destination) = ((ip.source, source_port), (ip.destination, destination_port));
    let number = if mode == Mode::FullnatIn {
        // Nothing in it says whose it is.
        let answer = headers.answer().context("not to a server")?;
        let first = u32::from(LOCALS.0);
        let locals = first..first + u32::from(LOCALS.1);
        ensure!(locals.contains(&answer.address.into()), "{} is no local address", answer.address);
        ensure!(answer.port >= 1024, "{} is no local port", answer.port);
        answer.server
    } else {
        let client = if matches!(mode, Mode::NatOut | Mode::FullnatOut) { destination } else { source };
        let flow = traffic::flow_of(client.0, client.1).context("not of a client")?;
        if refused.contains(&flow) {
            return Ok(());
        }
        *turns.get(flow as usize % turns.len().max(1)).context("no servers")?
    };
    let (address, mac) = server(number);
    let octets = |(address, port): (Ipv4Addr, u16)| (address.octets(), port);
    let (other, other_is, next, ttl): (_, _, MacAddr, _) = match mode {
        Mode::Macswap | Mode::Limit | Mode::LimitBare => (destination, octets(SERVICE), GATEWAY, TTL),
        // What came out of the tunnel: [`crate::generator::Unwrapping`].
        Mode::Dr | Mode::Tun => (destination, octets(SERVICE), mac, TTL - 1),
        Mode::NatIn => (destination, octets((address, SERVER_PORT)), mac, TTL - 1),
        Mode::FullnatIn => (destination, octets((address, SERVICE.1)), mac, TTL - 1),
        Mode::NatOut | Mode::FullnatOut => (source, octets(SERVICE), GATEWAY, TTL - 1),
    };
    ensure!(other == other_is, "{other:?} in the place of {other_is:?}");
    ensure!(ip.time_to_live == ttl, "time to live {} and not {ttl}", ip.time_to_live);
    let macs = (MacAddr(headers.ethernet.destination), MacAddr(headers.ethernet.source));
    ensure!(macs == (next, DIRECTOR), "to {} from {}, and not to {next} from {DIRECTOR}", macs.0, macs.1);
    Ok(())
}
