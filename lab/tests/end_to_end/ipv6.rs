//! HTTP over IPv6: neighbour discovery by Linux, requests shared out, a large download whole.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::ipv6::{CLIENT, SERVERS, SERVICE, VIP, add, rules};
use lab::{Director, Lab, Mode, Wire, list, process, wait_until};

use crate::Scene;

const REQUESTS: usize = 20;

fn by_ipv6(mode: Mode, forward: &str) -> Result<()> {
    let mut lab = Lab::new(mode)?;
    add(&mut lab)?;
    let director = Director::start(&lab, Wire::AfPacket)?;
    let scene = Scene { director, lab };
    scene.play(|scene| {
        for rule in rules(mode) {
            scene.director.lbctl(&rule)?;
        }
        let mut pages: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..REQUESTS {
            let page = scene.lab.client.run(&format!("curl -gsSf --max-time 10 http://[{VIP}]/"))?;
            *pages.entry(page).or_default() += 1;
        }
        assert_eq!(pages.into_values().collect::<Vec<_>>(), [REQUESTS / 2; 2], "pages at the client");
        for server in &scene.lab.servers {
            wait_until("nginx has logged its requests", Duration::from_secs(5), || {
                Ok(server.answered()? == REQUESTS / 2)
            })?;
            let seen = server.requests()?;
            assert!(seen.iter().all(|request| request.client == CLIENT), "the client's address: {seen:?}");
        }
        let shown = scene.director.list_at_rest()?;
        for server in SERVERS {
            let name = format!("[{server}]:80");
            let row = format!("  -> {name:<28} {forward:<7} 1      0          10        ");
            assert!(shown.lines().any(|line| line == row), "{shown}");
        }
        assert_eq!(list::connections(&scene.director.statistics()?)?, [10, 10]);
        let connections = scene.director.lbctl("-Lnc")?;
        let of_client = |line: &&str| line.contains(&format!("[{CLIENT}]:")) && line.contains(SERVICE);
        assert_eq!(connections.lines().filter(of_client).count(), REQUESTS, "{connections}");
        download(scene)?;
        let kept = scene.lab.director.ip("-6 neighbour show")?;
        ensure!(SERVERS.iter().all(|server| kept.contains(server)), "no neighbour is kept: {kept}");
        scene.director.check_counters().map(drop)
    })
}

fn download(scene: &Scene) -> Result<()> {
    let [first, second] = &scene.lab.servers;
    first.put_random_file("file", 20)?;
    second.put_copy_of(first, "file")?;
    let file = scene.lab.client.directory().join("got");
    let words = format!("curl -gsSf --max-time 60 -o {} http://[{VIP}]/file", file.display());
    scene.lab.client.run(&words)?;
    let line = process::run("sha256sum", [&file])?;
    ensure!(line.starts_with(&first.sha256("file")?), "the file arrived as {line}");
    Ok(())
}

#[test]
fn nat_balances_http_over_ipv6() -> Result<()> {
    by_ipv6(Mode::Nat, "Masq")
}

#[test]
fn direct_routing_balances_http_over_ipv6() -> Result<()> {
    by_ipv6(Mode::Dr, "Route")
}
