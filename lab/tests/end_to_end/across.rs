//! FULLNAT between families: curl over IPv6 with nginx over IPv4, and the other way about; what is sent arrives whole.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::wait_until;
use serde_json::Value;

use crate::Scene;
use crate::announce::{Side, mixes, play, transfer};
use crate::downloads::put_on_both;
use crate::tunnels::Dump;
use crate::udp::wrong_checksums;

const REQUESTS: usize = 10;
/// iperf3's own port.
const IPERF: u16 = 5201;

fn serve(scene: &Scene, side: &Side) -> Result<()> {
    let service = side.service;
    scene.director.lbctl("-C")?;
    scene.director.lbctl(&format!("-A -t {service} -s rr"))?;
    side.servers.iter().try_for_each(|server| {
        scene.director.lbctl(&format!("-a -t {service} -r {server}:80 --fullnat")).map(drop)
    })
}

#[test]
fn servers_of_the_other_family_answer() -> Result<()> {
    play(|scene| {
        put_on_both(scene, 10)?;
        let mut seen = [0, 0];
        for side in &mixes() {
            let what = || format!("{} and {}", side.service, side.servers[0]);
            serve(scene, side)?;
            let dumps = [Dump::start(&scene.lab, "client")?, Dump::start(&scene.lab, "r1")?];
            for _ in 0..REQUESTS {
                scene
                    .lab
                    .client
                    .run(&format!("curl -gsSf --max-time 10 http://{}/", side.host))
                    .with_context(what)?;
            }
            transfer(scene, side).with_context(what)?;
            for dump in dumps {
                dump.finish(&scene.lab).with_context(what)?;
            }
            for (server, seen) in scene.lab.servers.iter().zip(&mut seen) {
                let requests = server.requests()?;
                let new = &requests[*seen..];
                ensure!(new.len() > REQUESTS / 2, "{}: {new:?}", what());
                ensure!(new.iter().all(|request| request.client == side.local), "{}: {new:?}", what());
                *seen = requests.len();
            }
            let shown = scene.director.list_at_rest()?;
            for server in &side.servers {
                let row = format!("  -> {:<28} FullNat 1 ", format!("{server}:80"));
                ensure!(shown.contains(&row), "no {row:?}: {shown}");
            }
            let rows: Vec<Value> = serde_json::from_str(&scene.director.lbctl("connection list --json")?)?;
            let is_its = |row: &&Value| {
                let begins = |key: &str, address: &str| {
                    let address =
                        if address.contains(':') { format!("[{address}]:") } else { format!("{address}:") };
                    row[key].as_str().is_some_and(|text| text.starts_with(&address))
                };
                begins("client", side.client) && begins("local", side.local)
            };
            let count = rows.iter().filter(is_its).count();
            ensure!(count >= REQUESTS, "{}: {count} of {rows:?}", what());
        }
        let total = scene.director.check_counters()?.total();
        let dropped: Vec<_> = total.dropped.iter().filter(|(_, count)| **count > 0).collect();
        ensure!(dropped.is_empty(), "{dropped:?}");
        Ok(())
    })
}

#[test]
fn udp_arrives_with_right_checksums_both_ways_between_families() -> Result<()> {
    play(|scene| {
        let [first, _] = &scene.lab.servers;
        let _server = first.host.spawn(&format!("iperf3 -s -p {IPERF}"))?;
        wait_until("iperf3 listens", Duration::from_secs(10), || {
            let sockets = first.host.run("ss -Hltn")?;
            ensure!(sockets.contains(&format!(":{IPERF} ")), "{sockets}");
            Ok(true)
        })?;
        for side in &mixes() {
            let dumps = [Dump::start(&scene.lab, "client")?, Dump::start(&scene.lab, "r1")?];
            for protocol in ["-t", "-u"] {
                let (service, server) = (format!("{}:{IPERF}", side.host), &side.servers[0]);
                scene.director.lbctl(&format!("-A {protocol} {service} -s rr"))?;
                scene.director.lbctl(&format!("-a {protocol} {service} -r {server}:{IPERF} --fullnat"))?;
            }
            let address = side.host.trim_matches(['[', ']']);
            for direction in ["", "--reverse"] {
                let line =
                    format!("iperf3 --json -c {address} -p {IPERF} -u -l 1200 -b 10M -t 2 {direction}");
                let report: Value = serde_json::from_str(&scene.lab.client.run(&line)?)?;
                let sum = &report["end"]["sum"];
                let (packets, lost) = (sum["packets"].as_u64(), sum["lost_percent"].as_f64());
                ensure!(packets.is_some_and(|packets| packets > 1000), "{line}: {sum}");
                ensure!(lost.is_some_and(|percent| percent <= 1.0), "{line}: {sum}");
            }
            for dump in dumps {
                dump.finish(&scene.lab).with_context(|| address.to_owned())?;
            }
        }
        assert_eq!(wrong_checksums(&first.host)?, 0, "at the server");
        assert_eq!(wrong_checksums(&scene.lab.client)?, 0, "at the client");
        scene.director.check_counters().map(drop)
    })
}
