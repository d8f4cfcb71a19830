//! 10,000 requests, 64 at once, and not one of them fails or is forgotten in a counter.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::director::Configuration;
use lab::topology::VIP;
use lab::{Lab, Mode, Wire, list, wait_until};
use rustix::process::Signal;
use serde_json::json;

use crate::Scene;

const REQUESTS: usize = 10_000;
const AT_ONCE: u64 = 64;
/// One for each request, those that stay idle, and one with which wrk tries the address before it begins.
const CONNECTIONS: u64 = REQUESTS as u64 + AT_ONCE + 1;

/// With the buckets that director would choose for the capacity: the lab's own choice is for how lists look.
fn roomy_scene(mode: Mode) -> Result<Scene> {
    let lab = Lab::new(mode)?;
    let mut configuration = Configuration::new(&lab, Wire::AfPacket)?;
    configuration.set("/connections", json!({ "capacity": 65536 }))?;
    Scene::with(lab, &configuration)
}

fn ten_thousand_requests(scene: &Scene) -> Result<()> {
    let script = scene.lab.client.directory().join("ten_thousand.lua");
    std::fs::write(&script, include_str!("ten_thousand.lua"))?;
    let [first, second] = &scene.lab.servers;
    let line = format!("wrk -t1 -c{AT_ONCE} -d300s --timeout 10s -s {} http://{VIP}/", script.display());
    let mut wrk = scene.lab.client.spawn(&line)?;
    wait_until("10,000 requests are answered", Duration::from_secs(120), || {
        Ok(first.answered()? + second.answered()? >= REQUESTS)
    })
    .with_context(|| format!("{:?} answered", [first.answered(), second.answered()]))?;
    // The last answers are on their way to the client, and it opens its idle connections.
    let accepted = || -> Result<_> { Ok([first.accepted()?, second.accepted()?]) };
    wait_until("the idle connections stand", Duration::from_secs(10), || {
        Ok(accepted()?.iter().sum::<u64>() == CONNECTIONS)
    })
    .with_context(|| format!("{:?} connections accepted", accepted()))?;
    wrk.signal(Signal::INT)?;
    wrk.wait(Duration::from_secs(10))?;
    assert!(wrk.log().contains(&format!("requests={REQUESTS} errors=0\n")), "{}", wrk.log());

    let counted = list::connections(&scene.director.statistics()?)?;
    match scene.lab.mode {
        Mode::Nat | Mode::FullNat => {
            assert_eq!(counted, accepted()?, "connections of each server, by director and by nginx")
        }
        Mode::Dr | Mode::Tun => reused_ports_stay(scene, &counted)?,
    }
    assert_eq!(first.answered()? + second.answered()?, REQUESTS);
    assert!(counted[0].abs_diff(counted[1]) <= 1, "round robin is exact: {counted:?}");
    // A port that wrk's host used again is there once.
    let servers = list::destinations(&scene.director.list_at_rest()?)?;
    let inactive: u64 = servers.iter().map(|server| server.inactive).sum();
    assert!((1..=CONNECTIONS).contains(&inactive), "{inactive}");
    let listed = scene.director.lbctl("-Lnc")?.lines().count() as u64 - 2;
    assert_eq!(listed, inactive, "connections in the list, and in the counters");
    scene.director.check_counters()?;
    Ok(())
}

/// wrk's host takes ports again that it has used. Under NAT the old connection is in TIME_WAIT by then and the new one is
/// scheduled anew. Under direct routing director does not see the server's FIN, the old connection is in FIN_WAIT, and as in
/// IPVS (conn_reuse_mode 1) the new one is a part of it: it goes to the same server and is not counted again.
fn reused_ports_stay(scene: &Scene, counted: &[u64]) -> Result<()> {
    let mut ports = Vec::new();
    for server in &scene.lab.servers {
        ports.push(server.requests()?.iter().map(|request| request.port).collect::<BTreeSet<_>>());
    }
    assert!(ports[0].is_disjoint(&ports[1]), "a port has been at both servers");
    // A connection without a request is in no log.
    let logged: Vec<_> = ports.iter().map(|ports| ports.len() as u64).collect();
    let idle: Vec<_> =
        counted.iter().zip(&logged).map(|(counted, logged)| counted.checked_sub(*logged)).collect();
    let idle = idle.iter().copied().sum::<Option<u64>>();
    assert!(
        idle.is_some_and(|idle| idle <= AT_ONCE + 1),
        "{counted:?} connections, {logged:?} ports at the servers"
    );
    Ok(())
}

/// Two labs at once, which also shows that they do not disturb each other.
#[test]
fn ten_thousand_requests_by_nat_and_by_direct_routing_and_none_is_left_after_its_timeout() -> Result<()> {
    let scenes = [roomy_scene(Mode::Nat)?, roomy_scene(Mode::Dr)?];
    for scene in &scenes {
        ten_thousand_requests(scene).with_context(|| format!("{:?}", scene.lab.mode))?;
    }
    for scene in &scenes {
        // TIME_WAIT and FIN_WAIT last two minutes.
        wait_until("every connection has expired", Duration::from_secs(150), || {
            let servers = list::destinations(&scene.director.lbctl("-Ln")?)?;
            Ok(servers.iter().all(|server| server.active + server.inactive == 0))
        })
        .with_context(|| format!("{:?}", scene.lab.mode))?;
        assert_eq!(scene.director.lbctl("-Lnc")?.lines().count(), 2, "only the titles");
        scene.director.check_counters()?;
    }
    scenes.into_iter().try_for_each(Scene::end)
}
