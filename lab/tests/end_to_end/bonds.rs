//! Bonds: two cables to a switch that speaks LACP are one port, and one of them may be taken out while files are under way.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::director::Configuration;
use lab::topology::VIP;
use lab::{Lab, Mode, Process, Wire, wait_until};
use rustix::process::Signal;
use serde_json::json;

use crate::Scene;
use crate::downloads::{Download, put_on_both};
use crate::tunnels::Dump;

/// The switch's ends of the bond's cables.
const CABLES: [&str; 2] = ["wan", "wan2"];

/// A lab in which director's first port bonds two packet sockets, and the switch's end of that.
fn scene(mode: Mode) -> Result<(Scene, Process)> {
    let lab = Lab::new(mode)?;
    let second = lab.add_cable(CABLES[1], "wan")?;
    let mut configuration = Configuration::new(&lab, Wire::AfPacket)?;
    configuration.set("/port/0/device", json!("net_bonding0,mode=4,xmit_policy=l34"))?;
    let members = [lab.ports[0].device, &second];
    let members: Vec<_> =
        (0..).zip(members).map(|(n, device)| format!("net_af_packet1{n},iface={device}")).collect();
    configuration.set("/port/0/members", json!(members))?;
    let script = lab.switch.directory().join("lacp.py");
    std::fs::write(&script, include_str!("lacp.py"))?;
    let switch = lab.switch.spawn(&format!("/usr/bin/python3 {} {}", script.display(), CABLES.join(" ")))?;
    let scene = Scene::with(lab, &configuration)?;
    wait_until("both cables carry frames", Duration::from_secs(30), || {
        let log = switch.log();
        let carries =
            |cable: &&str| log.lines().any(|line| line == format!("{cable} sync collecting distributing"));
        Ok(CABLES.iter().all(carries))
    })?;
    Ok((scene, switch))
}

/// How many frames of director's carried data for a service on each cable.
fn sent(scene: &Scene, dumps: [Dump; 2]) -> Result<[usize; 2]> {
    let [first, second] = dumps.map(|dump| dump.finish_with(&scene.lab, "-e"));
    let of_director = |dump: &str| {
        dump.lines().filter(|line| line.contains(" 02:00:00:00:01:01 > ") && line.contains("IPv4")).count()
    };
    Ok([of_director(&first?), of_director(&second?)])
}

fn files_arrive(mode: Mode) -> Result<()> {
    let (scene, mut switch) = scene(mode)?;
    scene.play(|scene| {
        let sum = put_on_both(scene, 20)?;
        let dumps = [Dump::start(&scene.lab, CABLES[0])?, Dump::start(&scene.lab, CABLES[1])?];
        Download::start(&scene.lab, "got", "file")?.arrives_whole(&sum)?;
        // Which cable a connection takes is in its ports; by itself Linux chooses even ones.
        for port in 40_000..40_020 {
            scene.lab.client.run(&format!("curl -sSf --max-time 10 --local-port {port} http://{VIP}/"))?;
        }
        let sent = sent(scene, dumps)?;
        ensure!(sent.iter().all(|&frames| frames > 30), "frames of director's on each cable: {sent:?}");

        let slow = ["one", "other"].map(|name| Download::start(&scene.lab, name, "file?rate=4m"));
        std::thread::sleep(Duration::from_secs(1));
        switch.signal(Signal::USR1)?;
        wait_until("one cable is left", Duration::from_secs(10), || {
            let log = switch.log();
            let last = log.lines().rfind(|line| line.starts_with("wan2")).unwrap_or_default();
            Ok(!last.contains("distributing"))
        })?;
        scene.lab.switch.ip(&format!("link set {} down", CABLES[1]))?;
        for download in slow {
            download?.arrives_whole(&sum)?;
        }
        Download::start(&scene.lab, "last", "file")?.arrives_whole(&sum)?;
        scene.director.check_counters()?;
        Ok(())
    })
}

#[test]
fn files_arrive_by_a_bond_and_by_what_is_left_of_it_by_nat() -> Result<()> {
    files_arrive(Mode::Nat)
}

#[test]
fn files_arrive_by_a_bond_and_by_what_is_left_of_it_by_direct_routing() -> Result<()> {
    files_arrive(Mode::Dr)
}
