//! VLANs: clients in one, servers in another, on ports of their own and on one; and Linux in each.

use anyhow::{Context, Result, ensure};
use lab::director::Configuration;
use lab::topology::{CLIENT, DIRECTOR, SERVERS, VIP};
use lab::vlan::Tag;
use lab::{Lab, Mode, Process, Wire};
use serde_json::json;

use crate::Scene;
use crate::tunnels::{Dump, upload_to};

/// The clients' VLAN.
const CLIENTS: [Tag; 1] = [Tag { kind: 0x8100, id: 10 }];
/// The servers', where they have a port of their own: one within another. Packet sockets do not tell types of outer tags apart, so that
/// director receives both as 0x8100.
const SERVERS_WITHIN: [Tag; 2] = [Tag { kind: 0x88a8, id: 200 }, Tag { kind: 0x8100, id: 20 }];
/// The servers', where they share one with the clients.
const SERVERS_BESIDE: [Tag; 1] = [Tag { kind: 0x8100, id: 20 }];

/// Everybody of a lab in VLANs, each with the addresses that it had.
struct Vlans {
    lab: Lab,
    _access_ports: Vec<Process>,
}

impl Vlans {
    fn new(mode: Mode) -> Result<Self> {
        let lab = Lab::new(mode)?;
        let (wire, tags) = match mode {
            Mode::Nat => ("lan", &SERVERS_WITHIN[..]),
            _ => ("wan", &SERVERS_BESIDE[..]),
        };
        let mut access_ports = vec![lab.put_into_vlan(&lab.client, "wan", &CLIENTS)?];
        lab.client.ip(&format!("address add {CLIENT}/24 dev eth0"))?;
        for (server, address) in lab.servers.iter().zip(SERVERS) {
            access_ports.push(lab.put_into_vlan(&server.host, wire, tags)?);
            server.host.ip(&format!("address add {address}/24 dev eth0"))?;
            if mode == Mode::Nat {
                server.host.ip("route add default via 192.0.2.1")?;
            }
        }
        if mode == Mode::Nat {
            lab.make_room_for_tags("lan")?;
        }
        Ok(Self { lab, _access_ports: access_ports })
    }

    fn configuration(&self, wire: Wire) -> Result<Configuration> {
        let mut configuration = Configuration::new(&self.lab, wire)?;
        for port in 0..self.lab.ports.len() {
            configuration.set(&format!("/port/{port}/addresses"), json!([]))?;
        }
        let mut servers = json!({ "name": "servers", "id": 20, "addresses": ["192.0.2.1/24"] });
        match self.lab.mode {
            Mode::Nat => {
                let more = [
                    ("port", json!("lan")),
                    ("outer_id", json!(200)),
                    ("mtu", json!(1500)),
                    ("priority", json!(3)),
                ];
                servers
                    .as_object_mut()
                    .context("an object")?
                    .extend(more.map(|(key, value)| (key.to_owned(), value)));
            }
            _ => {
                servers["port"] = json!("wan");
                servers["addresses"] = json!(["192.0.2.1/24", "192.0.2.33/32"]);
            }
        }
        let clients = json!({
            "name": "clients", "port": "wan", "id": 10, "kernel_interface": "wan10",
            "addresses": ["198.51.100.1/24", "198.51.100.8/32"],
        });
        configuration.set("/vlan", json!([clients, servers]))?;
        Ok(configuration)
    }
}

/// Pages, a megabyte up and twenty down, Linux's ping, and what the wires have carried.
fn between_vlans(mode: Mode, wire: Wire, at_servers: &str) -> Result<()> {
    let vlans = Vlans::new(mode)?;
    let configuration = vlans.configuration(wire)?;
    let Vlans { lab, _access_ports } = vlans;
    Scene::with(lab, &configuration)?.play(|scene| {
        let client = &scene.lab.client;
        client.run(&format!("ping -c2 -W2 {DIRECTOR}")).context("Linux in the clients' VLAN")?;
        let port = if mode == Mode::Nat { "lan" } else { "wan" };
        let dumps = ["wan", port].map(|port| Dump::start(&scene.lab, port));
        for n in 0..10 {
            client
                .run(&format!("curl -sSf --max-time 10 http://{VIP}/"))
                .with_context(|| format!("page {n}"))?;
        }
        upload_to(scene, VIP)?;
        let [wan, servers] = dumps;
        let (wan, servers) = (wan?.finish_with(&scene.lab, "-e")?, servers?.finish_with(&scene.lab, "-e")?);
        let to_client = format!("{VIP}.80 > {CLIENT}");
        ensure!(wan.contains("vlan 10, p 0") && wan.contains(&to_client), "{wan}");
        ensure!(servers.contains(at_servers), "no {at_servers:?} in {servers}");

        let [first, second] = &scene.lab.servers;
        first.put_random_file("big", 20)?;
        second.put_copy_of(first, "big")?;
        let got = client.directory().join("big");
        client.run(&format!("curl -sSf --max-time 60 -o {} http://{VIP}/big", got.display()))?;
        let sum = client.run(&format!("sha256sum {}", got.display()))?;
        ensure!(sum.split(' ').next() == Some(first.sha256("big")?.as_str()), "the file is another one");
        let total = scene.director.check_counters()?.total();
        let unexpected: Vec<_> =
            total.dropped.iter().filter(|(name, n)| **n > 0 && *name != "tx_full").collect();
        ensure!(unexpected.is_empty(), "{unexpected:?}");
        let ports = scene.director.lbctl("ports")?;
        ensure!(ports.contains("VLAN 10 of wan") && ports.contains("kernel interface wan10"), "{ports}");
        let network = scene.director.lbctl("network list")?;
        ensure!(network.contains("servers"), "{network}");
        Ok(())
    })
}

/// The servers' VLAN is within another one, on a port of their own.
#[test]
fn masquerading_leads_from_one_vlan_into_another_within_a_third() -> Result<()> {
    between_vlans(Mode::Nat, Wire::AfPacket, "vlan 200, p 3")
}

/// One port for all, which is where a director mostly stands.
#[test]
fn one_port_serves_the_vlans_of_clients_and_servers() -> Result<()> {
    between_vlans(Mode::FullNat, Wire::AfPacket, "vlan 20, p 0")
}
