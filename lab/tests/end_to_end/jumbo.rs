//! Jumbo frames: whole both ways, and where a way takes fewer bytes, its senders are told.
//!
//! By ports of `net_pcap`, the only driver for an interface of Linux's that takes an MTU over 1500 in DPDK 22.11.

use anyhow::{Result, ensure};
use lab::director::Configuration;
use lab::topology::{Port, VIP};
use lab::{Lab, Mode, Wire};
use serde_json::json;

use crate::Scene;
use crate::downloads::{Download, put_on_both};
use crate::tunnels::{Dump, lengths, upload_megabytes};

const MTU: u16 = 9000;

/// A lab in which every wire takes jumbo frames.
fn scene(mode: Mode) -> Result<Scene> {
    let lab = Lab::new(mode)?;
    let mut configuration = Configuration::new(&lab, Wire::AfPacket)?;
    for (number, Port { name, device, .. }) in lab.ports.iter().enumerate() {
        lab.switch.ip(&format!("link set {name} mtu {MTU}"))?;
        lab.director.ip(&format!("link set {device} mtu {MTU}"))?;
        let device = format!("net_pcap{number},rx_iface_in={device},tx_iface={device}");
        configuration.set(&format!("/port/{number}/device"), json!(device))?;
        configuration.set(&format!("/port/{number}/mtu"), json!(MTU))?;
    }
    for host in [&lab.client, &lab.servers[0].host, &lab.servers[1].host] {
        lab.switch.ip(&format!("link set {} mtu {MTU}", host.name()))?;
        host.ip(&format!("link set eth0 mtu {MTU}"))?;
    }
    Scene::with(lab, &configuration)
}

/// The longest IP packet between the virtual address and its clients or servers that a dump tells of.
fn longest(dump: &str) -> usize {
    let lengths =
        dump.lines().filter_map(|line| line.split_once(", length ")?.1.strip_suffix(')')?.parse().ok());
    lengths.max().unwrap_or_default()
}

fn files_arrive(scene: &mut Scene) -> Result<()> {
    let dumps =
        [Dump::start(&scene.lab, "client")?, Dump::start(&scene.lab, "r1")?, Dump::start(&scene.lab, "r2")?];
    let sum = put_on_both(scene, 20)?;
    for name in ["one", "other"] {
        Download::start(&scene.lab, name, "file")?.arrives_whole(&sum)?;
    }
    upload_megabytes(scene, VIP, 5)?;
    for dump in dumps {
        let longest = longest(&dump.finish(&scene.lab)?);
        ensure!(longest == usize::from(MTU), "the longest packet has {longest} bytes");
    }
    let total = scene.director.check_counters()?.total();
    ensure!(total.dropped.values().all(|count| *count == 0), "{total:?}");
    Ok(())
}

#[test]
fn files_arrive_in_jumbo_frames_by_nat() -> Result<()> {
    scene(Mode::Nat)?.play(files_arrive)
}

#[test]
fn files_arrive_in_jumbo_frames_by_full_translation() -> Result<()> {
    scene(Mode::FullNat)?.play(files_arrive)
}

/// The client's packets are as long as its wire takes, and longer than the tunnel does.
#[test]
fn files_arrive_in_jumbo_frames_through_tunnels() -> Result<()> {
    scene(Mode::Tun)?.play(|scene| {
        files_arrive(scene)?;
        let (told, fragments) = lengths(scene)?;
        ensure!(told > 0 && fragments == 0, "{told} told, {fragments} fragments");
        Ok(())
    })
}
