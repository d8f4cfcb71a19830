//! A service for many addresses and ports: HTTP through several of them, by NAT and by direct routing.

use anyhow::{Result, ensure};
use lab::topology::{CLIENT, SERVERS, VIP};
use lab::{Director, Lab, Mode, Wire};

use crate::Scene;

const NETWORK: &str = "198.51.100.128/25";
/// As many addresses as there are ports: each is asked once.
const ADDRESSES: [u8; 4] = [128, 130, 200, 254];
const PORTS: [u16; 4] = [8000, 8001, 8050, 8099];

fn by_range(mode: Mode, ports: &str, endpoints: &[(u8, u16)]) -> Result<()> {
    let lab = Lab::new(mode)?;
    let director = Director::start(&lab, Wire::AfPacket)?;
    // Linux answers ARP for what is local to it.
    lab.director.ip(&format!("route add local {NETWORK} dev {}", lab.ports[0].kernel_interface))?;
    if mode == Mode::Dr {
        for server in &lab.servers {
            server.host.ip(&format!("route add local {NETWORK} dev lo"))?;
        }
    }
    Scene { director, lab }.play(|scene| {
        let service = format!("-t {NETWORK}:{ports}");
        scene.director.lbctl(&format!("-A {service} -s rr"))?;
        for server in SERVERS {
            scene.director.lbctl(&format!("-a {service} -r {server}:80 {}", mode.option()))?;
        }
        for (address, port) in endpoints {
            let page = format!("http://198.51.100.{address}:{port}/");
            scene.lab.client.run(&format!("curl -sSf --max-time 10 --interface {CLIENT} {page}"))?;
        }
        let shown = scene.director.list_at_rest()?;
        ensure!(shown.contains(&format!("TCP  {NETWORK}:{ports} rr\n")), "{shown}");
        let half = endpoints.len() / 2;
        let rows = shown.lines().filter(|line| line.ends_with(&format!("1      0          {half:<10}")));
        ensure!(rows.count() == SERVERS.len(), "{shown}");
        let connections = scene.director.lbctl("-Lnc")?;
        for (address, port) in endpoints {
            let endpoint = format!(" 198.51.100.{address}:{port} ");
            ensure!(connections.matches(&endpoint).count() == 1, "{endpoint}: {connections}");
        }
        // A service for less takes what is for it; what is for none is Linux's.
        ensure!(
            !scene.lab.client.try_run(&format!("curl -sSf --max-time 5 http://{VIP}:81/"))?.status.success()
        );
        scene.director.check_counters().map(drop)
    })
}

#[test]
fn nat_balances_every_address_and_port_of_a_range() -> Result<()> {
    let endpoints: Vec<_> = ADDRESSES.into_iter().zip(PORTS).collect();
    by_range(Mode::Nat, "8000-8099", &endpoints)
}

#[test]
fn direct_routing_balances_every_address_of_a_network() -> Result<()> {
    by_range(Mode::Dr, "80", &ADDRESSES.map(|address| (address, 80)))
}
