//! Two workers, each with its own queues of every port. The kernel spreads packets over queues by a hash of addresses and
//! ports, so under NAT a connection's replies often come to the other worker than its requests.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::director::Configuration;
use lab::topology::VIP;
use lab::{Lab, Mode, Wire, list, wait_until};

use crate::Scene;
use crate::balance::get;
use crate::downloads::{Download, put_on_both};

/// A request by curl takes at least SYN, ACK, GET and FIN one way and SYN, page and FIN the other.
const LEAST_FROM_A_SERVER: u64 = 3;

fn scene(mode: Mode) -> Result<Scene> {
    let lab = Lab::new(mode)?;
    let mut configuration = Configuration::new(&lab, Wire::AfPacket)?;
    configuration.set_workers(2)?;
    Scene::with(lab, &configuration)
}

fn received(scene: &Scene) -> Result<[u64; 2]> {
    let counters = scene.director.check_counters()?;
    let [first, second] = &counters.workers[..] else { anyhow::bail!("not two workers: {counters:?}") };
    Ok([first.received, second.received])
}

fn share_out_200_requests(scene: &mut Scene) -> Result<()> {
    let pages = get(scene, 200)?;
    assert_eq!(pages.into_values().collect::<Vec<_>>(), [100, 100], "pages at the client");
    for server in &scene.lab.servers {
        wait_until(
            "nginx has logged 100 requests",
            Duration::from_secs(5),
            || Ok(server.answered()? == 100),
        )?;
    }
    scene.director.list_at_rest()?;
    assert_eq!(list::connections(&scene.director.statistics()?)?, [100, 100]);
    let received = received(scene)?;
    assert!(received.iter().all(|&received| received > 100), "both workers have their share: {received:?}");

    let sum = put_on_both(scene, 20)?;
    Download::start(&scene.lab, "got", "file")?.arrives_whole(&sum)?;
    scene.director.check_counters()?;
    Ok(())
}

#[test]
fn two_workers_share_out_requests_exactly_by_nat() -> Result<()> {
    scene(Mode::Nat)?.play(share_out_200_requests)
}

#[test]
fn two_workers_share_out_requests_exactly_by_direct_routing() -> Result<()> {
    scene(Mode::Dr)?.play(share_out_200_requests)
}

#[test]
fn two_workers_share_out_requests_exactly_by_full_translation() -> Result<()> {
    scene(Mode::FullNat)?.play(share_out_200_requests)
}

/// Each connection has its own hash, so one in two is split between the workers; none of forty is unthinkable.
#[test]
fn replies_that_come_to_the_other_worker_find_their_connection() -> Result<()> {
    scene(Mode::Nat)?.play(|scene| {
        let mut split = 0;
        for _ in 0..40 {
            let before = received(scene)?;
            scene.lab.client.run(&format!("curl -sSf --max-time 10 http://{VIP}/"))?;
            let after = received(scene)?;
            let both =
                before.into_iter().zip(after).all(|(before, after)| after - before >= LEAST_FROM_A_SERVER);
            split += u32::from(both);
        }
        ensure!(split > 0, "no connection had packets at both workers");
        Ok(())
    })
}
