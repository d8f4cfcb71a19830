//! Who is wired to whom. The wires meet in a namespace of their own, `switch`, so that every frame can be captured on the wire
//! itself, outside of the hosts: its ports are named after the hosts at their other ends.
//!
//! NAT: director stands between the client and the servers, whose default gateway it is. Two segments, two ports.
//! ```text
//!   client ──── wan (198.51.100.0/24) ──── director ──── lan (192.0.2.0/24) ─┬── r1
//!   .100                              .1, VIP .8   .1                        └── r2
//! ```
//! DR: the servers answer the client themselves, so they must reach it without director. One segment with both networks on
//! it, director has one port and sends out where it received ("one-armed").
//! ```text
//!   client ─────────┬──── wan (198.51.100.0/24, 192.0.2.0/24) ─┬── r1  (VIP on lo)
//!   .100            │                                          └── r2  (VIP on lo)
//!                director .1, VIP .8 and 192.0.2.1
//! ```
//! FULLNAT: wired as DR, and the servers have neither the VIP nor any route to the client: they know director's local address.
//!
//! TUN: wired as DR. The servers take the packets out of their tunnels with a program of the lab's own (`decapsulate`), which hands
//! them to Linux by a TUN device: this works on kernels without tunnels, too.
//!
//! With no router in between, the MAC addresses on each wire are those of the hosts and can be read as such.
//!
//! It must never hand director a frame that no NIC would: a veth leaves checksums and segmentation undone unless told
//! otherwise, and director's DPDK port would see the unfinished packets.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::capture::Capture;
use crate::host::Host;
use crate::lifetime::Lease;
use crate::server::Server;

/// The virtual service of the lab: its address …
pub const VIP: &str = "198.51.100.8";
/// … and as `lbctl -t` takes it.
pub const SERVICE: &str = "198.51.100.8:80";
/// The address of director itself, which is not balanced.
pub const DIRECTOR: &str = "198.51.100.1";
/// The client's address.
pub const CLIENT: &str = "198.51.100.100";
/// The real servers' addresses: r1, r2.
pub const SERVERS: [&str; 2] = ["192.0.2.9", "192.0.2.10"];

/// What the servers take for their clients' address by FULLNAT.
pub const LOCAL: &str = "192.0.2.33";

/// The link-layer addresses, chosen to be told apart at a glance. The last byte is the last of the IP address.
const CLIENT_MAC: &str = "02:00:00:00:00:64";
const WAN_MAC: &str = "02:00:00:00:01:01";
const LAN_MAC: &str = "02:00:00:00:02:01";
/// That of a host that was added later.
const OTHER_MAC: &str = "02:00:00:00:00:fe";
const SERVER_MACS: [&str; 2] = ["02:00:00:00:00:09", "02:00:00:00:00:0a"];

/// How director forwards in this lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Masquerading (LVS/NAT, `-m`).
    Nat,
    /// Direct routing (LVS/DR, `-g`).
    Dr,
    /// Tunnelling (LVS/TUN, `-i`).
    Tun,
    /// Translation of both addresses (LVS/FULLNAT, `--fullnat`).
    FullNat,
}

impl Mode {
    /// The option of `lbctl -a` for it.
    pub fn option(self) -> &'static str {
        match self {
            Self::Nat => "-m",
            Self::Dr => "-g",
            Self::Tun => "-i",
            Self::FullNat => "--fullnat",
        }
    }

    /// Whether the servers answer the client past director.
    pub fn answers_go_past(self) -> bool {
        matches!(self, Self::Dr | Self::Tun)
    }
}

/// One of director's ports: a veth that DPDK takes, and the kernel interface that director makes for it.
#[derive(Debug, Clone)]
pub struct Port {
    /// The port's name in director's configuration.
    pub name: &'static str,
    /// The veth in director's namespace.
    pub device: &'static str,
    /// The kernel interface that director is to make.
    pub kernel_interface: &'static str,
    /// The addresses that Linux is to have there.
    pub addresses: Vec<&'static str>,
}

/// The lab: hosts, wires, two nginx servers that are running. Dropping it takes all of it down.
#[derive(Debug)]
pub struct Lab {
    // Fields are dropped in this order: servers end before their hosts go.
    /// The real servers, r1 and r2.
    pub servers: [Server; 2],
    /// Where requests come from.
    pub client: Host,
    /// Where director runs.
    pub director: Host,
    /// Where the wires meet. Its ports: `client`, `wan`, `lan` (NAT only), `r1`, `r2`.
    pub switch: Host,
    /// How director forwards here.
    pub mode: Mode,
    /// Director's ports.
    pub ports: Vec<Port>,
    lease: Lease,
}

impl Lab {
    /// Builds the lab and starts the servers. Director is not running yet.
    ///
    /// # Errors
    /// When a step fails; what was built until then is taken down.
    pub fn new(mode: Mode) -> Result<Self> {
        let lease = Lease::take()?;
        let build = || -> Result<_> {
            let [switch, client, director, r1, r2] =
                ["switch", "client", "director", "r1", "r2"].map(|name| Host::new(&lease, name));
            Ok((switch?, client?, director?, [r1?, r2?]))
        };
        let (switch, client, director, [r1, r2]) = build().context("cannot make the hosts")?;

        let ports = ports(mode);
        for port in &ports {
            switch.ip(&format!("link add br-{0} type bridge forward_delay 0 mcast_snooping 0", port.name))?;
            switch.ip(&format!("link set br-{} up", port.name))?;
        }
        // Where Linux is set to filter what bridges carry, it drops the frames that director is to be tested with.
        let filters =
            ["arp", "ip", "ip6"].map(|family| format!("net.bridge.bridge-nf-call-{family}tables=0"));
        switch.run(&format!("sysctl -qe -w {}", filters.join(" ")))?;
        let servers_segment = ports[ports.len() - 1].name;
        plug(&switch, "br-wan", "client", &client, "eth0", CLIENT_MAC)?;
        for (port, mac) in ports.iter().zip([WAN_MAC, LAN_MAC]) {
            plug(&switch, &format!("br-{}", port.name), port.name, &director, port.device, mac)?;
        }
        for (server, mac) in [&r1, &r2].into_iter().zip(SERVER_MACS) {
            plug(&switch, &format!("br-{servers_segment}"), server.name(), server, "eth0", mac)?;
        }

        address_client(&client, mode)?;
        address_director(&director, &ports)?;
        for (server, address) in [&r1, &r2].into_iter().zip(SERVERS) {
            address_server(server, address, mode)?;
        }
        let [first, second] = SERVERS;
        let mut servers = [Server::start(r1, first)?, Server::start(r2, second)?];
        if mode == Mode::Tun {
            servers.iter_mut().try_for_each(Server::end_tunnels)?;
        }
        Ok(Self { servers, client, director, switch, mode, ports, lease })
    }

    /// A host more, whose `eth0` is on the wire of one of director's ports, without an address.
    ///
    /// # Errors
    /// When a step fails.
    pub fn add_host(&self, name: &str, wire: &str) -> Result<Host> {
        let host = Host::new(&self.lease, name)?;
        plug(&self.switch, &format!("br-{wire}"), name, &host, "eth0", OTHER_MAC)?;
        Ok(host)
    }

    /// The same, with an address and a web server on it.
    ///
    /// # Errors
    /// When a step fails.
    pub fn add_server(&self, name: &str, wire: &str, address: &str) -> Result<Server> {
        let host = self.add_host(name, wire)?;
        host.ip(&format!("address add {address}/24 dev eth0"))?;
        Server::start(host, address)
    }

    /// A second cable from director to a wire, under this name in the switch: for a bond. Gives director's end, which is DPDK's as
    /// those of the ports are.
    ///
    /// # Errors
    /// When a step fails.
    pub fn add_cable(&self, name: &str, wire: &str) -> Result<String> {
        let device = format!("{name}-veth");
        plug(&self.switch, &format!("br-{wire}"), name, &self.director, &device, OTHER_MAC)?;
        leave_to_dpdk(&self.director, name, &device)?;
        Ok(device)
    }

    /// Where the lab keeps its files.
    pub fn directory(&self) -> &Path {
        self.lease.directory()
    }

    /// The lab's id, `dl<pid>-<n>`.
    pub fn id(&self) -> &str {
        self.lease.id()
    }

    /// Captures what passes on the wire of a switch port (`client`, `wan`, `lan`, `r1`, `r2`).
    ///
    /// # Errors
    /// When tcpdump does not start.
    pub fn capture(&self, port: &str) -> Result<Capture> {
        Capture::start(&self.switch, port)
    }

    /// Leaves everything standing and running when this process ends. [`crate::lifetime::remove`] takes it down.
    ///
    /// # Errors
    /// When the lab cannot be marked; it is taken down then.
    pub fn keep(mut self) -> Result<()> {
        self.lease.keep()?;
        std::mem::forget(self);
        Ok(())
    }
}

fn ports(mode: Mode) -> Vec<Port> {
    let wan = Port {
        name: "wan",
        device: "wan-veth",
        kernel_interface: "wan0",
        addresses: vec!["198.51.100.1/24", "198.51.100.8/32"],
    };
    let servers = vec!["192.0.2.1/24"];
    match mode {
        Mode::Nat => {
            let lan = Port { name: "lan", device: "lan-veth", kernel_interface: "lan0", addresses: servers };
            vec![wan, lan]
        }
        Mode::Dr | Mode::Tun => vec![Port { addresses: [wan.addresses, servers].concat(), ..wan }],
        Mode::FullNat => {
            let local = vec!["192.0.2.33/32"];
            vec![Port { addresses: [wan.addresses, servers, local].concat(), ..wan }]
        }
    }
}

/// A cable from `host` to the bridge.
fn plug(switch: &Host, bridge: &str, port: &str, host: &Host, interface: &str, mac: &str) -> Result<()> {
    switch.ip(&format!(
        "link add {port} type veth peer name {interface} netns {} address {mac}",
        host.namespace()
    ))?;
    // Finished packets, as a NIC would deliver them.
    switch.run(&format!("ethtool -K {port} tx off tso off gso off gro off"))?;
    host.run(&format!("ethtool -K {interface} tx off tso off gso off gro off"))?;
    switch.ip(&format!("link set {port} master {bridge} up"))?;
    host.ip(&format!("link set {interface} up")).map(drop)
}

fn address_client(client: &Host, mode: Mode) -> Result<()> {
    client.ip(&format!("address add {CLIENT}/24 dev eth0"))?;
    if mode.answers_go_past() {
        client.ip("route add 192.0.2.0/24 dev eth0")?;
    }
    Ok(())
}

fn address_director(director: &Host, ports: &[Port]) -> Result<()> {
    director.sysctl("net.ipv4.ip_forward", "1")?;
    // One-armed, each forwarded packet would look like a detour to the kernel.
    for scope in ["all", "default"] {
        director.sysctl(&format!("net.ipv4.conf.{scope}.send_redirects"), "0")?;
    }
    ports.iter().try_for_each(|Port { name, device, .. }| leave_to_dpdk(director, name, device))
}

/// Director's veths belong to DPDK, but the kernel hears their frames as well and would answer them: they get no address, no
/// ARP, and everything that comes in is dropped, behind the point where af_packet and XDP take their copies.
fn leave_to_dpdk(director: &Host, name: &str, device: &str) -> Result<()> {
    director.ip(&format!("link set {device} arp off"))?;
    let hook = format!("type filter hook ingress device {device} priority 0; policy drop;");
    let rules = format!("table netdev {name} {{ chain ingress {{ {hook} }}; }}");
    crate::process::run_command(director.command("nft").arg(rules)).map(drop)
}

fn address_server(server: &Host, address: &str, mode: Mode) -> Result<()> {
    server.ip(&format!("address add {address}/24 dev eth0"))?;
    match mode {
        Mode::Nat => server.ip("route add default via 192.0.2.1").map(drop),
        // Director's local address is on the link, and nothing else is asked of it.
        Mode::FullNat => Ok(()),
        Mode::Dr | Mode::Tun => {
            server.ip("route add 198.51.100.0/24 dev eth0")?;
            // The VIP is everybody's here, so only director may answer ARP requests for it, and a server must not ask with it.
            server.sysctl("net.ipv4.conf.all.arp_ignore", "1")?;
            server.sysctl("net.ipv4.conf.all.arp_announce", "2")?;
            server.ip(&format!("address add {VIP}/32 dev lo")).map(drop)
        }
    }
}

impl Lab {
    /// Who has this link-layer address in the lab, by name.
    ///
    /// # Errors
    /// When an interface is not there.
    pub fn owner_of(&self, mac: [u8; 6]) -> Result<String> {
        for server in &self.servers {
            if server.host.mac("eth0")? == mac {
                return Ok(server.host.name().to_owned());
            }
        }
        for port in &self.ports {
            if self.director.mac(port.device)? == mac {
                return Ok("director".to_owned());
            }
        }
        ensure!(self.client.mac("eth0")? == mac, "a frame of nobody in the lab: {mac:02x?}");
        Ok("client".to_owned())
    }
}
