//! LVS/FULLNAT: servers that know neither the client nor a route to it answer requests, over both families; nothing leaves director
//! with a wrong checksum.

use anyhow::{Result, ensure};
use lab::topology::{LOCAL, SERVERS, SERVICE, VIP};
use lab::{Director, Lab, Mode, Wire, ipv6, list};

use crate::Scene;
use crate::balance::get;
use crate::downloads::{Download, put_on_both};
use crate::play;
use crate::tunnels::{Dump, upload_to};
use crate::udp;

#[test]
fn servers_without_a_route_to_the_client_answer_it() -> Result<()> {
    play(Mode::FullNat, Wire::AfPacket, |scene| {
        let dumps = [Dump::start(&scene.lab, "client")?, Dump::start(&scene.lab, "r1")?];
        let pages = get(scene, 20)?;
        assert_eq!(pages.into_values().collect::<Vec<_>>(), [10, 10], "pages at the client");
        upload_to(scene, VIP)?;
        for dump in dumps {
            let text = dump.finish(&scene.lab)?;
            // With a dot and a port behind it: everybody hears who asks for the address.
            let knows = |address: &str| text.contains(&format!(" {address}."));
            ensure!(knows(VIP) != knows(LOCAL), "one end knows both addresses: {text}");
        }
        for server in &scene.lab.servers {
            let seen = server.requests()?;
            assert!(!seen.is_empty() && seen.iter().all(|request| request.client == LOCAL), "{seen:?}");
        }
        let sum = put_on_both(scene, 20)?;
        Download::start(&scene.lab, "got", "file")?.arrives_whole(&sum)?;

        let shown = scene.director.list_at_rest()?;
        ensure!(list::destinations(&shown)?.len() == 2 && shown.matches(" FullNat ").count() == 2, "{shown}");
        let connections = scene.director.lbctl("connection list --json")?;
        let rows: Vec<serde_json::Value> = serde_json::from_str(&connections)?;
        let is_local = |row: &serde_json::Value| {
            row["local"].as_str().is_some_and(|local| local.starts_with(&format!("{LOCAL}:")))
        };
        ensure!(rows.len() >= 22 && rows.iter().all(is_local), "{connections}");
        scene.director.check_counters().map(drop)
    })
}

#[test]
fn ipv6_servers_answer_it_too() -> Result<()> {
    let mut lab = Lab::new(Mode::FullNat)?;
    ipv6::add(&mut lab)?;
    let director = Director::start(&lab, Wire::AfPacket)?;
    Scene { director, lab }.play(|scene| {
        ipv6::rules(Mode::FullNat).iter().try_for_each(|rule| scene.director.lbctl(rule).map(drop))?;
        let dumps = [Dump::start(&scene.lab, "client")?, Dump::start(&scene.lab, "r1")?];
        for _ in 0..10 {
            scene.lab.client.run(&format!("curl -gsSf --max-time 10 http://[{}]/", ipv6::VIP))?;
        }
        upload_to(scene, &format!("[{}]", ipv6::VIP))?;
        for dump in dumps {
            dump.finish(&scene.lab)?;
        }
        for server in &scene.lab.servers {
            let seen = server.requests()?;
            assert!(!seen.is_empty() && seen.iter().all(|request| request.client == ipv6::LOCAL), "{seen:?}");
        }
        scene.director.check_counters().map(drop)
    })
}

#[test]
fn udp_arrives_with_right_checksums_both_ways() -> Result<()> {
    play(Mode::FullNat, Wire::AfPacket, |scene| {
        let dump = Dump::start(&scene.lab, "client")?;
        udp::both_ways(scene)?;
        dump.finish(&scene.lab)?;
        scene.director.check_counters().map(drop)
    })
}

/// Two servers with four ports each take eight connections, and the ninth client hears nothing.
#[test]
fn ports_run_out_by_name_and_come_back() -> Result<()> {
    play(Mode::FullNat, Wire::AfPacket, |scene| {
        scene.director.lbctl("local-address clear")?;
        scene.director.lbctl(&format!("laddr add {LOCAL} --ports 2000-2003 --service tcp:{SERVICE}"))?;
        let page = |limit: u32| scene.lab.client.run(&format!("curl -sSf --max-time {limit} http://{VIP}/"));
        (0..8).try_for_each(|_| page(10).map(drop))?;
        ensure!(page(2).is_err(), "a ninth connection found a port");
        let dropped = scene.director.check_counters()?.total().dropped["no_local_port"];
        ensure!(dropped >= 1, "{dropped} drops by name");
        // Other ports are in use at once.
        scene.director.lbctl(&format!("laddr add {LOCAL} --ports 3000-3003 --service tcp:{SERVICE}"))?;
        (0..8).try_for_each(|_| page(10).map(drop))?;
        for server in SERVERS {
            let of_server = format!("connection list --destination {server} --json");
            let rows: Vec<serde_json::Value> = serde_json::from_str(&scene.director.lbctl(&of_server)?)?;
            let mut locals: Vec<_> = rows.iter().map(|row| row["local"].to_string()).collect();
            locals.sort();
            locals.dedup();
            ensure!(locals.len() == 8, "{server}: {locals:?}");
        }
        scene.director.check_counters().map(drop)
    })
}
