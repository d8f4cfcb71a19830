//! Neighbours and routes are Linux's, and what changes there is followed at once.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::topology::{CLIENT, SERVERS, SERVICE, VIP};
use lab::{Frame, Mode, Wire, wait_until};

use crate::downloads::{Download, put_on_both};
use crate::{Scene, play};

/// A TCP segment that is sent again is sent after a second; a connection that took less has lost none.
const AT_ONCE: f64 = 0.5;

/// Has director's Linux forget every neighbour.
fn forget_neighbours(scene: &Scene) -> Result<()> {
    for port in &scene.lab.ports {
        scene.lab.director.ip(&format!("neighbour flush dev {}", port.kernel_interface))?;
    }
    Ok(())
}

fn unknown_neighbours(scene: &mut Scene) -> Result<()> {
    for round in 1..=4 {
        // A server is not asked for twice within a second, and one that no packet waits for is asked for within a second
        // of being forgotten: after two, the question of the last round is long enough ago.
        sleep(Duration::from_millis(2200));
        forget_neighbours(scene)?;
        let curl = format!("curl -sSf --max-time 10 -o /dev/null -w %{{time_total}} http://{VIP}/");
        let took: f64 = scene.lab.client.run(&curl)?.parse()?;
        ensure!(took < AT_ONCE, "round {round}: {took} s");
    }
    let dropped = scene.director.check_counters()?.total().dropped;
    ensure!(dropped.values().all(|&count| count == 0), "{dropped:?}");
    Ok(())
}

#[test]
fn packets_wait_for_a_neighbour_that_is_unknown_under_nat() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, unknown_neighbours)
}

#[test]
fn packets_wait_for_a_neighbour_that_is_unknown_under_direct_routing() -> Result<()> {
    play(Mode::Dr, Wire::AfPacket, unknown_neighbours)
}

/// How many of these frames from the client to the first server were sent to each of the two servers' interfaces.
fn to_first_server(scene: &Scene, frames: &[Frame]) -> Result<[usize; 2]> {
    let wanted: Vec<_> = frames
        .iter()
        .filter(|frame| frame.source.to_string() == CLIENT && frame.destination.to_string() == SERVERS[0])
        .collect();
    let [first, second] = &scene.lab.servers;
    let macs = [first.host.mac("eth0")?, second.host.mac("eth0")?];
    Ok(macs.map(|mac| wanted.iter().filter(|frame| frame.destination_mac == mac).count()))
}

/// The second server serves as a router to the first for a while.
#[test]
fn a_download_goes_on_when_the_route_to_its_server_changes() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, |scene| {
        let [_, router] = &scene.lab.servers;
        router.host.sysctl("net.ipv4.ip_forward", "1")?;
        for scope in ["all", "eth0"] {
            router.host.sysctl(&format!("net.ipv4.conf.{scope}.send_redirects"), "0")?;
        }
        let sum = put_on_both(scene, 16)?;
        scene.director.lbctl(&format!("-e -t {SERVICE} -r {}:80 -m -w 0", SERVERS[1]))?;
        let client = scene.lab.capture("client")?;
        let mut download = Download::start(&scene.lab, "got", "file?rate=2m")?;
        sleep(Duration::from_secs(1));

        let route = format!("{}/32 via {} dev lan0", SERVERS[0], SERVERS[1]);
        scene.lab.director.ip(&format!("route add {route}"))?;
        sleep(Duration::from_millis(200));
        let detour = scene.lab.capture("lan")?;
        sleep(Duration::from_secs(1));
        let detour = detour.finish()?;
        let [by_old, by_new] = to_first_server(scene, &detour)?;
        ensure!(by_new > 0 && by_old == 0, "new route: {by_new} packets, old route: {by_old}");

        scene.lab.director.ip(&format!("route del {route}"))?;
        sleep(Duration::from_millis(200));
        let direct = scene.lab.capture("lan")?;
        sleep(Duration::from_millis(500));
        ensure!(download.is_running()?, "the download ended too early to show anything");
        let direct = direct.finish()?;
        let [by_old, by_new] = to_first_server(scene, &direct)?;
        ensure!(by_old > 0 && by_new == 0, "old route again: {by_old} packets, new route: {by_new}");

        download.arrives_whole(&sum)?;
        ensure!(client.finish()?.iter().all(|frame| !frame.rst), "nothing resets");
        scene.director.check_counters()?;
        Ok(())
    })
}

fn server_that_does_not_answer(scene: &mut Scene) -> Result<()> {
    let [first, _] = &scene.lab.servers;
    first.host.ip("link set eth0 arp off")?;
    forget_neighbours(scene)?;
    let mac = first.host.mac("eth0")?;
    let wires = match scene.lab.mode {
        Mode::Nat => ["client", "lan"],
        Mode::Dr | Mode::Tun | Mode::FullNat => ["client", "wan"],
    };
    let [client, servers] = [scene.lab.capture(wires[0])?, scene.lab.capture(wires[1])?];
    // Round robin: one of the two is the first server's. Its SYN is sent at 0, 1 and 3 s.
    let curl = || scene.lab.client.try_run(&format!("curl -sS --connect-timeout 4 http://{VIP}/"));
    let ended = [curl()?, curl()?];
    let answered = ended.iter().filter(|done| done.status.success()).count();
    ensure!(answered == 1, "the other server answers, and nobody else: {ended:?}");

    let given_up =
        || Ok::<_, anyhow::Error>(scene.director.check_counters()?.total().dropped["neighbour_timeout"]);
    wait_until("the last packet is given up", Duration::from_secs(3), || Ok(given_up()? >= 3))?;
    let client = client.finish()?;
    let opening = |frame: &&Frame| frame.syn && !frame.ack && frame.destination.to_string() == VIP;
    let unanswered = |frame: &&Frame| {
        let is_answer = |other: &Frame| other.syn && other.ack && other.destination_port == frame.source_port;
        !client.iter().any(is_answer)
    };
    let lost = client.iter().filter(opening).filter(unanswered).count() as u64;
    assert_eq!(given_up()?, lost, "SYNs to the server that does not answer");
    let servers = servers.finish()?;
    ensure!(!servers.is_empty(), "nothing was captured");
    for frame in servers {
        ensure!(
            frame.destination_mac != mac && frame.destination.to_string() != SERVERS[0],
            "sent to a neighbour that is unknown: {frame:?}"
        );
    }

    // It is back, and so is its share.
    first.host.ip("link set eth0 arp on")?;
    wait_until("the first server gets requests again", Duration::from_secs(10), || {
        let page = scene.lab.client.try_run(&format!("curl -sS --connect-timeout 1 http://{VIP}/"))?;
        Ok(page.stdout.contains(SERVERS[0]))
    })
    .with_context(|| format!("{:?}", scene.director.counters()))
}

#[test]
fn nothing_is_sent_to_a_server_that_does_not_answer_arp_under_nat() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, server_that_does_not_answer)
}

#[test]
fn nothing_is_sent_to_a_server_that_does_not_answer_arp_under_direct_routing() -> Result<()> {
    play(Mode::Dr, Wire::AfPacket, server_that_does_not_answer)
}
