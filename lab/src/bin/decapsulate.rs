//! The tunnels' end at a real server, for kernels without `ip tunnel` and `ip fou`: takes packets out of IP in IP, GRE and GUE and
//! hands them to Linux by a TUN device, as if they had come from a tunnel device.
//!
//! Linux puts fragments together and checks UDP's checksum first; everything else is checked here, and what is wrong is said
//! on standard error and goes no further.

use std::net::UdpSocket;
use std::num::NonZeroU32;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use lab::decapsulate::{Wrong, behind_ipv4, gre, gue, ipip};
use rustix::fd::OwnedFd;
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
const IPIP: u8 = 4;
const GRE: u8 = 47;

/// The longest packet there is.
const LONGEST: usize = 65_535;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let name = &arguments.device;
    let device = DeviceBuilder::new().name(name).layer(Layer::L3).build_sync();
    let device = Arc::new(device.with_context(|| format!("cannot make the TUN device {name}"))?);
    let raw = |protocol: u8| -> Result<OwnedFd> {
        let number = NonZeroU32::new(protocol.into()).map(Protocol::from_raw);
        socket(AddressFamily::INET, SocketType::RAW, number)
            .with_context(|| format!("cannot open a raw socket for protocol {protocol}; are we root?"))
    };
    let (ipip_socket, gre_socket) = (raw(IPIP)?, raw(GRE)?);
    let gue_socket = UdpSocket::bind(("0.0.0.0", arguments.port))
        .with_context(|| format!("cannot bind UDP port {}", arguments.port))?;
    println!("ready");
    let (for_ipip, for_gre) = (device.clone(), device.clone());
    std::thread::spawn(move || {
        let receive = |buffer: &mut [u8]| Ok(recv(&ipip_socket, buffer, RecvFlags::empty())?.0);
        carry("ipip", &for_ipip, receive, |packet| ipip(IPIP, behind_ipv4(packet)?))
    });
    std::thread::spawn(move || {
        let receive = |buffer: &mut [u8]| Ok(recv(&gre_socket, buffer, RecvFlags::empty())?.0);
        carry("gre", &for_gre, receive, |packet| gre(behind_ipv4(packet)?))
    });
    carry("gue", &device, |buffer| Ok(gue_socket.recv(buffer)?), gue)
}

/// Hands on what is received, for as long as that can be.
fn carry(
    kind: &str,
    device: &SyncDevice,
    receive: impl Fn(&mut [u8]) -> Result<usize>,
    take_out: impl Fn(&mut [u8]) -> Result<&mut [u8], Wrong>,
) -> Result<()> {
    let mut buffer = vec![0; LONGEST];
    loop {
        let length = receive(&mut buffer)?;
        let Some(received) = buffer.get_mut(..length) else { continue };
        let taken = take_out(received).map_err(|wrong| anyhow::anyhow!("{wrong}"));
        let done = taken.and_then(|packet| device.send(packet).context("Linux does not take it"));
        if let Err(error) = done {
            eprintln!("{kind}: a packet of {length} bytes is wrong: {error:#}");
        }
    }
}
