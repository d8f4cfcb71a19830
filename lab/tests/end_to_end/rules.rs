//! A table as large as they come, restored and listed while traffic goes through it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::topology::{SERVERS, SERVICE, VIP};
use lab::{Mode, Wire, list};
use rustix::process::Signal;

use crate::{Scene, play};

const SERVICES: usize = 1000;
const DESTINATIONS: usize = 20_000;

/// How long it may take, `lbctl` and all.
const RESTORED: Duration = Duration::from_secs(2);
const LISTED: Duration = Duration::from_secs(1);

/// Rules in the format of `ipvsadm-save`: the lab's own service among many others.
fn rules() -> Result<String> {
    let mut text = format!("-A -t {SERVICE} -s rr\n");
    for server in SERVERS {
        writeln!(text, "-a -t {SERVICE} -r {server}:80 -m -w 1")?;
    }
    for n in 1..SERVICES {
        let service = format!("-t 203.0.113.{}:{}", n % 250 + 1, 1000 + n / 250);
        writeln!(text, "-A {service} -s wlc")?;
        // The lab's own service has two.
        let more = if n == 1 { DESTINATIONS / SERVICES - SERVERS.len() } else { 0 };
        for server in 1..=DESTINATIONS / SERVICES + more {
            writeln!(text, "-a {service} -r 192.0.2.{}:{} -m -w {server}", 100 + server, 1000 + n)?;
        }
    }
    Ok(text)
}

fn sorted(rules: &str) -> BTreeSet<&str> {
    rules.lines().collect()
}

fn answered(scene: &Scene) -> Result<usize> {
    let [first, second] = &scene.lab.servers;
    Ok(first.answered()? + second.answered()?)
}

#[test]
fn a_thousand_services_and_twenty_thousand_destinations_are_restored_and_listed_under_traffic() -> Result<()>
{
    play(Mode::Nat, Wire::AfPacket, |scene| {
        let file = scene.lab.directory().join("rules");
        let rules = rules()?;
        fs::write(&file, &rules)?;
        let mut wrk = scene.lab.client.spawn(&format!("wrk -t1 -c16 -d300s --timeout 10s http://{VIP}/"))?;
        std::thread::sleep(Duration::from_secs(1));
        // In one step, and line by line as ipvsadm-restore does.
        for way in [format!("restore {}", file.display()), "-R".to_owned()] {
            scene.director.balance_http()?;
            let before = answered(scene)?;
            let started = Instant::now();
            if way == "-R" {
                scene.director.lbctl("-C")?;
            }
            scene.director.lbctl_reading(&way, &file)?;
            let restored = started.elapsed();
            let started = Instant::now();
            let listed = scene.director.lbctl("-Ln")?;
            let listing = started.elapsed();
            eprintln!("lbctl {way}: restored in {restored:?}, listed in {listing:?}");
            ensure!(list::destinations(&listed)?.len() == DESTINATIONS, "not all is listed");
            ensure!(restored < RESTORED && listing < LISTED, "{way}: {restored:?}, {listing:?}");
            let saved = scene.director.lbctl("-S -n")?;
            ensure!(sorted(&saved) == sorted(&rules), "what is saved is what was restored");
            std::thread::sleep(Duration::from_secs(1));
            ensure!(answered(scene)? > before + 100, "traffic goes on");
        }
        wrk.signal(Signal::INT)?;
        wrk.wait(Duration::from_secs(10))?;
        ensure!(!wrk.log().contains("Socket errors") && !wrk.log().contains("Non-2xx"), "{}", wrk.log());
        scene.director.check_counters().map(drop)
    })
}
