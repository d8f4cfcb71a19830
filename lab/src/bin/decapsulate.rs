//! The tunnels' end at a real server, for kernels without `ip tunnel` and `ip fou`: takes packets out of IP in IP, GRE and GUE, over IPv4
//! and IPv6, and hands them to Linux by a TUN device, as if they had come from a tunnel device.
//!
//! Linux puts fragments together and checks UDP's checksum first; everything else is checked here, and what is wrong is said
//! on standard error and goes no further.

use std::net::{Ipv6Addr, UdpSocket};
use std::num::NonZeroU32;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use lab::decapsulate::{Wrong, behind_ipv4, gre, gue, ipip, unchecked_udp};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketType, recv, socket};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// Takes packets out of tunnels and hands them to Linux.
#[derive(Debug, Parser)]
struct Arguments {
    /// The TUN device to make.
    #[arg(long, default_value = "tun0")]
    device: String,
    /// The UDP port of GUE.
    #[arg(long, default_value_t = 6080)]
    port: u16,
}

/// IP protocol numbers of what is carried.
const IPV4: u8 = 4;
const UDP: u8 = 17;
const IPV6: u8 = 41;
const GRE: u8 = 47;

/// The longest packet there is.
const LONGEST: usize = 65_535;

/// Bytes of a socket's buffer: more than a TCP connection has under way in the lab.
const ROOM: usize = 16 << 20;

/// Gives the next packet's length.
type Receive = Box<dyn FnMut(&mut [u8]) -> Result<usize> + Send>;
/// Takes the packet out of what was received. `None` for what is none of ours.
type TakeOut = Box<dyn Fn(&mut [u8]) -> Result<Option<&mut [u8]>, Wrong> + Send>;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let name = &arguments.device;
    let device = DeviceBuilder::new().name(name).layer(Layer::L3).build_sync();
    let device = Arc::new(device.with_context(|| format!("cannot make the TUN device {name}"))?);
    let port = arguments.port;
    let mut ends: Vec<(&str, Receive, TakeOut)> = Vec::new();
    for inside in [IPV4, IPV6] {
        ends.push((
            "ipip",
            raw(AddressFamily::INET, inside)?,
            Box::new(move |p| ipip(inside, behind_ipv4(p)?).map(Some)),
        ));
        // Of IPv6, raw sockets give what follows the header.
        ends.push((
            "ipip over IPv6",
            raw(AddressFamily::INET6, inside)?,
            Box::new(move |p| ipip(inside, p).map(Some)),
        ));
    }
    ends.push(("gre", raw(AddressFamily::INET, GRE)?, Box::new(|p| gre(behind_ipv4(p)?).map(Some))));
    ends.push(("gre over IPv6", raw(AddressFamily::INET6, GRE)?, Box::new(|p| gre(p).map(Some))));
    // Of both families.
    let socket = udp(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)), port)?;
    ends.push(("gue", socket, Box::new(|p| gue(p).map(Some))));
    // Linux drops UDP over IPv6 without a checksum, unless it is told that a tunnel needs it (RFC 6935).
    ends.push((
        "gue over IPv6 without a checksum",
        raw(AddressFamily::INET6, UDP)?,
        Box::new(move |p| unchecked_udp(port, p).map(gue).transpose()),
    ));
    let threads = ends.into_iter().map(|(kind, receive, take_out)| {
        let device = device.clone();
        std::thread::spawn(move || carry(kind, &device, receive, &take_out))
    });
    let threads: Vec<_> = threads.collect();
    println!("ready");
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread has panicked"))?)
}

fn raw(family: AddressFamily, protocol: u8) -> Result<Receive> {
    let number = NonZeroU32::new(protocol.into()).map(Protocol::from_raw);
    let socket: OwnedFd = socket(family, SocketType::RAW, number)
        .with_context(|| format!("cannot open a raw socket for protocol {protocol}; are we root?"))?;
    let socket = with_room(socket)?;
    Ok(Box::new(move |buffer| Ok(recv(&socket, buffer, RecvFlags::empty())?.0)))
}

fn udp(socket: std::io::Result<UdpSocket>, port: u16) -> Result<Receive> {
    let socket = with_room(socket.with_context(|| format!("cannot bind UDP port {port}"))?)?;
    Ok(Box::new(move |buffer| Ok(socket.recv(buffer)?)))
}

/// Gives the socket room for all that may come while this program waits for a processor. Of what finds no room on its only raw
/// socket, Linux tells the sender that nobody here speaks the protocol, which is not true.
fn with_room<S: AsFd>(socket: S) -> Result<S> {
    set_socket_recv_buffer_size_force(&socket, ROOM)
        .context("cannot enlarge a socket's buffer; are we root?")?;
    Ok(socket)
}

/// Hands on what is received, for as long as that can be.
fn carry(kind: &str, device: &SyncDevice, mut receive: Receive, take_out: &TakeOut) -> Result<()> {
    let mut buffer = vec![0; LONGEST];
    loop {
        let length = receive(&mut buffer)?;
        let Some(received) = buffer.get_mut(..length) else { continue };
        let done = match take_out(received) {
            Ok(Some(packet)) => device.send(packet).map(drop).context("Linux does not take it"),
            Ok(None) => Ok(()),
            Err(wrong) => Err(anyhow!("{wrong}")),
        };
        if let Err(error) = done {
            eprintln!("{kind}: a packet of {length} bytes is wrong: {error:#}");
        }
    }
}
