//! SNAT: servers behind director open connections to a host outside that knows no way to them.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::topology::{DIRECTOR, SERVERS};
use lab::{Director, Host, Lab, Mode, Process, Server, Wire, ipv6, process, wait_until};
use serde_json::Value;

use crate::Scene;
use crate::tunnels::Dump;

/// The host outside.
const OUTSIDE: [&str; 2] = ["198.51.100.200", "2001:db8:64::200"];
/// What it knows the servers by.
const POOL: [&str; 2] = ["198.51.100.40", "2001:db8:64::40"];
/// What it serves over UDP.
const PORT: u16 = 5353;

fn ask(host: &Host, words: &str) -> Result<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/end_to_end/ask.py");
    host.run(&format!("/usr/bin/python3 {script} {words}"))
}

fn answerer(host: &Host, address: &str) -> Result<Process> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/end_to_end/ask.py");
    let process = host.spawn(&format!("/usr/bin/python3 {script} serve {address} {PORT}"))?;
    wait_until("the host outside answers", Duration::from_secs(10), || Ok(process.log().contains("ready")))?;
    Ok(process)
}

/// Plays a story with a host outside that is a web server.
fn play(story: impl FnOnce(&mut Scene, &Server) -> Result<()>) -> Result<()> {
    let mut lab = Lab::new(Mode::Nat)?;
    ipv6::add(&mut lab)?;
    // Its Linux answers ARP and neighbour solicitations for them.
    lab.ports[0].addresses.extend(["198.51.100.40/32", "2001:db8:64::40/128"]);
    let outside = lab.add_server("outside", "wan", OUTSIDE[0])?;
    outside.host.enable_ipv6("eth0", &[&format!("{}/64", OUTSIDE[1])])?;
    let director = Director::start(&lab, Wire::AfPacket)?;
    Scene { director, lab }.play(|scene| story(scene, &outside))
}

fn rules(scene: &Scene) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&scene.director.lbctl("snat list --json")?)?)
}

#[test]
fn servers_reach_a_host_outside_that_knows_the_pool_only() -> Result<()> {
    play(|scene, outside| {
        outside.put_random_file("file", 10)?;
        let sum = outside.sha256("file")?;
        let _answerers = [answerer(&outside.host, OUTSIDE[0])?, answerer(&outside.host, OUTSIDE[1])?];
        for (pool, from) in POOL.into_iter().zip(["192.0.2.0/24", "2001:db8:2::/64"]) {
            scene.director.lbctl(&format!("snat add {pool} --from {from} --out-port wan"))?;
        }
        let dumps = [Dump::start(&scene.lab, "outside")?, Dump::start(&scene.lab, "r1")?];
        let [first, second] = &scene.lab.servers;
        for (address, pool) in OUTSIDE.into_iter().zip(POOL) {
            let url = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
            for server in [first, second] {
                let file = server.host.directory().join("got");
                let got = file.display();
                server.host.run(&format!("curl -gsSf --max-time 60 -o {got} http://{url}/file"))?;
                let line = process::run("sha256sum", [&file])?;
                ensure!(line.starts_with(&sum), "{line} is not {sum}");
                ensure!(ask(&server.host, &format!("ask {address} {PORT} 10"))?.trim() == pool);
                ensure!(ask(&server.host, &format!("refused {address} 9"))?.trim() == "refused");
                let pings = server.host.run(&format!("ping -n -c 3 -i 0.2 -W 5 {address}"))?;
                ensure!(pings.contains(" 0% packet loss"), "{pings}");
            }
        }
        let clients: Vec<_> = outside.requests()?.into_iter().map(|request| request.client).collect();
        ensure!(clients == [POOL[0], POOL[0], POOL[1], POOL[1]], "{clients:?}");
        let [at_outside, at_server] = dumps;
        let text = at_outside.finish(&scene.lab)?;
        ensure!(
            text.contains(&format!(" {}.", POOL[0])) && !text.contains(&format!(" {}.", SERVERS[0])),
            "{text}"
        );
        let text = at_server.finish(&scene.lab)?;
        ensure!(!text.contains(&format!(" {}.", POOL[0])), "{text}");

        let rules = rules(scene)?;
        for rule in &rules {
            // Of each server one by TCP, two by UDP, and one by ICMP.
            ensure!(
                rule["stats"]["connections"] == 8 && rule["stats"]["in_bytes"].as_u64() > Some(20_000_000),
                "{rule}"
            );
        }
        let connections: Vec<Value> = serde_json::from_str(&scene.director.lbctl("connection list --json")?)?;
        ensure!(
            connections.len() == 16 && connections.iter().all(|row| row["snat"] == true),
            "{connections:?}"
        );
        ensure!(scene.director.lbctl("-Lnc")?.lines().count() == 2, "ipvsadm's list has none of them");
        let total = scene.director.check_counters()?.total();
        ensure!(total.dropped.values().all(|count| *count == 0), "{total:?}");
        Ok(())
    })
}

#[test]
fn ports_run_out_by_name_and_masquerading_goes_on() -> Result<()> {
    play(|scene, outside| {
        let page = |limit: u32| {
            let server = &scene.lab.servers[0].host;
            server.run(&format!("curl -sSf --max-time {limit} http://{}/", OUTSIDE[0]))
        };
        let none = "snat add none --from 192.0.2.9 --to 203.0.113.0/24";
        scene.director.lbctl(none)?;
        scene.director.lbctl(&format!("snat add {} --ports 2000-2003 --protocol tcp", POOL[0]))?;
        (0..4).try_for_each(|_| page(10).map(drop))?;
        ensure!(page(2).is_err(), "a fifth connection found a port");
        let dropped = scene.director.check_counters()?.total().dropped["no_snat_port"];
        ensure!(dropped >= 1, "{dropped} drops by name");
        let mut ports: Vec<_> =
            outside.requests()?.into_iter().map(|request| (request.client, request.port)).collect();
        ports.sort();
        ensure!(ports == [2000, 2001, 2002, 2003].map(|port| (POOL[0].to_owned(), port)), "{ports:?}");
        // Restored without that rule, and with another.
        scene.director.lbctl("snat clear")?;
        scene.director.lbctl("snat add masquerade --out-port wan")?;
        page(10)?;
        let last = outside.requests()?.pop();
        ensure!(last.is_some_and(|last| last.client == DIRECTOR && last.port >= 61_000));
        ensure!(rules(scene)?[0]["stats"]["connections"] == 1);
        scene.director.check_counters().map(drop)
    })
}
