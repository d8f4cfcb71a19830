//! IPv6 beside IPv4, on the same wires: each host gets an address that ends as its IPv4 one does.
//!
//! Duplicate address detection is left out: it would keep each address waiting for a second or two.
//! Unlike [`Host::enable_ipv6`] on interfaces that are there, director's kernel interfaces get theirs from director itself.

use anyhow::{Result, bail};

use crate::host::Host;
use crate::topology::{Lab, Mode};

/// The virtual service: its address …
pub const VIP: &str = "2001:db8:64::8";
/// … and as `lbctl -t` takes it.
pub const SERVICE: &str = "[2001:db8:64::8]:80";
/// The client's address.
pub const CLIENT: &str = "2001:db8:64::100";
/// The real servers' addresses: r1, r2.
pub const SERVERS: [&str; 2] = ["2001:db8:2::9", "2001:db8:2::a"];

const DIRECTOR_WAN: [&str; 2] = ["2001:db8:64::1/64", "2001:db8:64::8/128"];
const DIRECTOR_LAN: &str = "2001:db8:2::1/64";
/// What the servers take for their clients' address by FULLNAT.
pub const LOCAL: &str = "2001:db8:2::33";

/// Adds it to a lab in which director is not running yet.
///
/// # Errors
/// When Linux takes an address or a route from none of the hosts: it may have no IPv6.
pub fn add(lab: &mut Lab) -> Result<()> {
    lab.client.enable_ipv6("eth0", &[&format!("{CLIENT}/64")])?;
    if lab.mode == Mode::Dr {
        lab.client.ip("-6 route add 2001:db8:2::/64 dev eth0")?;
    }
    // What director makes later follows the defaults.
    for scope in ["all", "default"] {
        lab.director.sysctl(&format!("net.ipv6.conf.{scope}.disable_ipv6"), "0")?;
    }
    lab.director.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
    lab.director.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    for port in &mut lab.ports {
        // The veths belong to DPDK, and Linux is to say nothing on them of its own.
        lab.director.sysctl(&format!("net.ipv6.conf.{}.disable_ipv6", port.device), "1")?;
        if port.name == "wan" {
            port.addresses.extend(DIRECTOR_WAN);
        }
        if port.name == "lan" || lab.mode != Mode::Nat {
            port.addresses.push(DIRECTOR_LAN);
        }
        if lab.mode == Mode::FullNat {
            port.addresses.push("2001:db8:2::33/128");
        }
    }
    for (server, address) in lab.servers.iter().zip(SERVERS) {
        address_server(&server.host, address, lab.mode)?;
    }
    Ok(())
}

fn address_server(server: &Host, address: &str, mode: Mode) -> Result<()> {
    server.enable_ipv6("eth0", &[&format!("{address}/64")])?;
    match mode {
        Mode::Nat => server.ip("-6 route add default via 2001:db8:2::1").map(drop),
        Mode::FullNat => Ok(()),
        Mode::Dr => {
            server.ip("-6 route add 2001:db8:64::/64 dev eth0")?;
            // Linux answers no solicitation for an address that another interface has: nothing else is to be set.
            server.enable_ipv6("lo", &[&format!("{VIP}/128")])
        }
        Mode::Tun => bail!("no real server of the lab takes tunnels over IPv6 alone"),
    }
}

/// The words that set up the service, round robin over both servers.
pub fn rules(mode: Mode) -> Vec<String> {
    let forward = mode.option();
    let destination = |server| format!("-a -t {SERVICE} -r [{server}]:80 {forward} -w 1");
    let mut rules = vec!["-C".to_owned(), format!("-A -t {SERVICE} -s rr")];
    rules.extend(SERVERS.map(destination));
    rules
}
