//! Datagrams larger than the MTU, there and back: whole, none lost, by whatever worker each fragment comes.
//!
//! Over XDP sockets: Linux puts IPv4's fragments together before `net_af_packet` sees them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::director::Configuration;
use lab::{Director, Lab, Mode, Wire, ipv6, topology, wait_until};
use serde_json::Value;

use crate::Scene;
use crate::udp::wrong_checksums;

/// Where servers send datagrams back.
const ECHO: u16 = 4000;
/// How many packets may find no room in the transmit queue of a busy machine before something is wrong.
const ROOMLESS: u64 = 5;
/// iperf3's own port.
const IPERF: u16 = 5201;

/// The virtual address and the first server's.
type Family = (&'static str, &'static str);
const IPV4: Family = (topology::VIP, topology::SERVERS[0]);
const IPV6: Family = (ipv6::VIP, ipv6::SERVERS[0]);

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// IPv6 clients and an IPv4 server, and the other way about.
const MIXES: [Family; 2] = [(ipv6::VIP, topology::SERVERS[0]), (topology::VIP, ipv6::SERVERS[0])];

fn scene(mode: Mode, wire: Wire, workers: usize) -> Result<Scene> {
    // The lab's tunnels are of IPv4.
    scene_of(mode, wire, workers, if mode == Mode::Tun { &[IPV4][..] } else { &[IPV4, IPV6] })
}

fn scene_of(mode: Mode, wire: Wire, workers: usize, families: &[Family]) -> Result<Scene> {
    let mut lab = Lab::new(mode)?;
    if mode != Mode::Tun {
        ipv6::add(&mut lab)?;
    }
    let mut configuration = Configuration::new(&lab, wire)?;
    if workers > 1 {
        configuration.set_workers(workers)?;
    }
    let director = Director::start_with(&lab, &configuration)?;
    for (vip, server) in families.iter().map(|(vip, server)| (bracketed(vip), bracketed(server))) {
        for (protocol, port) in [("-u", ECHO), ("-u", IPERF), ("-t", IPERF)] {
            director.lbctl(&format!("-A {protocol} {vip}:{port} -s rr"))?;
            let forward = mode.option();
            director.lbctl(&format!("-a {protocol} {vip}:{port} -r {server}:{port} {forward} -w 1"))?;
        }
    }
    Ok(Scene { director, lab })
}

/// The script, in a host's own directory.
fn script(host: &lab::Host) -> Result<String> {
    let path = host.directory().join("fragments.py");
    std::fs::write(&path, include_str!("fragments.py"))?;
    Ok(format!("/usr/bin/python3 {}", path.display()))
}

/// The address at which a server gets what the virtual one is sent.
fn own(mode: Mode, (vip, server): Family) -> &'static str {
    if matches!(mode, Mode::Nat | Mode::FullNat) { server } else { vip }
}

fn datagrams_come_back(scene: &mut Scene, families: &[Family]) -> Result<()> {
    let [first, _] = &scene.lab.servers;
    let serve = script(&first.host)?;
    let ask = script(&scene.lab.client)?;
    let mac = scene.lab.director.run("cat /sys/class/net/wan-veth/address")?;
    let mut servers = vec![];
    for family in families {
        servers.push(first.host.spawn(&format!("{serve} serve {} {ECHO}", own(scene.lab.mode, *family)))?);
    }
    for (vip, _) in families {
        wait_until("the echo is there", Duration::from_secs(10), || {
            let line = format!("{ask} ask {vip} {ECHO} 1");
            Ok(scene.lab.client.try_run(&line)?.stdout.trim() == "1")
        })?;
        for how in [format!("ask {vip} {ECHO} 200"), format!("shuffle {vip} {ECHO} 100 eth0 {}", mac.trim())]
        {
            let done = scene.lab.client.try_run(&format!("{ask} {how}"))?;
            let good: u64 = done.stdout.trim().parse().context("no number of datagrams")?;
            let count: u64 = how.split(' ').nth(3).context("no count")?.parse()?;
            // XDP sockets on veth take what Linux has time for: a datagram for each packet that found no room may be missing.
            let counters = scene.director.counters()?;
            let unsent = counters.total().dropped.get("tx_full").copied().unwrap_or_default();
            ensure!(
                good + unsent.min(ROOMLESS) >= count,
                "{how}: {good} came back: {}; {counters:?}",
                done.stderr
            );
        }
    }
    ensure!(wrong_checksums(&first.host)? == 0 && wrong_checksums(&scene.lab.client)? == 0);
    let total = scene.director.check_counters()?.total();
    let dropped: Vec<_> =
        total.dropped.iter().filter(|(name, count)| **count > 0 && *name != "tx_full").collect();
    ensure!(dropped.is_empty(), "{dropped:?}");
    Ok(())
}

fn iperf(scene: &mut Scene, families: &[Family]) -> Result<()> {
    let [first, _] = &scene.lab.servers;
    for &family in families {
        let bind = own(scene.lab.mode, family);
        let _server = first.host.spawn(&format!("iperf3 -s -p {IPERF} -B {bind}"))?;
        std::thread::sleep(Duration::from_millis(500));
        for direction in ["", "--reverse"] {
            let line = format!("iperf3 --json -c {} -p {IPERF} -u -l 8000 -b 20M -t 2 {direction}", family.0);
            let report: Value = serde_json::from_str(&scene.lab.client.run(&line)?)?;
            let sum = &report["end"]["sum"];
            let (packets, lost) = (sum["packets"].as_u64(), sum["lost_packets"].as_u64());
            ensure!(packets.is_some_and(|packets| packets > 500) && lost == Some(0), "{line}: {sum}");
        }
    }
    scene.director.check_counters().map(drop)
}

#[test]
fn large_datagrams_come_back_whole_by_nat() -> Result<()> {
    scene(Mode::Nat, Wire::AfXdp, 1)?.play(|scene| datagrams_come_back(scene, &[IPV4, IPV6]))
}

#[test]
fn large_datagrams_come_back_whole_by_direct_routing() -> Result<()> {
    scene(Mode::Dr, Wire::AfXdp, 1)?.play(|scene| datagrams_come_back(scene, &[IPV4, IPV6]))
}

#[test]
fn iperf_loses_no_large_datagram_by_nat() -> Result<()> {
    scene(Mode::Nat, Wire::AfXdp, 1)?.play(|scene| iperf(scene, &[IPV4, IPV6]))
}

#[test]
fn iperf_loses_no_large_datagram_by_direct_routing() -> Result<()> {
    scene(Mode::Dr, Wire::AfXdp, 1)?.play(|scene| iperf(scene, &[IPV4, IPV6]))
}

/// Over IPv6 a fragment is longer: those of IPv4 that fill its links go in two.
#[test]
fn large_datagrams_come_back_whole_between_families() -> Result<()> {
    let scene = || scene_of(Mode::FullNat, Wire::AfXdp, 1, &MIXES);
    scene()?.play(|scene| datagrams_come_back(scene, &MIXES))?;
    scene()?.play(|scene| iperf(scene, &MIXES))
}

#[test]
fn large_datagrams_come_back_whole_through_tunnels() -> Result<()> {
    // Each fragment is too long for a tunnel, and travels in two.
    scene(Mode::Tun, Wire::AfXdp, 1)?.play(|scene| datagrams_come_back(scene, &[IPV4]))
}

/// What Linux spreads over the queues by: of a fragment only the addresses, of a whole packet the ports, too. So connections are
/// opened by either worker, and fragments come to one.
#[test]
fn large_datagrams_come_back_whole_with_two_workers() -> Result<()> {
    for mode in [Mode::Nat, Mode::Dr] {
        scene(mode, Wire::AfPacket, 2)?.play(|scene| {
            datagrams_come_back(scene, &[IPV6])?;
            let [first, _] = &scene.lab.servers;
            let bind = own(mode, IPV6);
            let _server = first.host.spawn(&format!("{} serve {bind} {ECHO}", script(&first.host)?))?;
            let ask = format!("{} ask {} {ECHO} 10", script(&scene.lab.client)?, IPV6.0);
            // Each time from another port: one in two connections has its fragments at the worker that did not open it.
            wait_until("the echo is there", Duration::from_secs(10), || {
                Ok(scene.lab.client.run(&ask)?.trim() == "10")
            })?;
            for _ in 0..20 {
                let good = scene.lab.client.run(&ask)?;
                ensure!(good.trim() == "10", "{good} of 10 came back: {:?}", scene.director.counters()?);
            }
            let counters = scene.director.check_counters()?;
            ensure!(counters.workers.iter().all(|worker| worker.forwarded > 10), "{counters:?}");
            Ok(())
        })?;
    }
    Ok(())
}
