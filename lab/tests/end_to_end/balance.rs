//! Requests are shared out as the scheduler says, and the list, the servers and the client agree on it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::topology::{CLIENT, SERVERS, VIP};
use lab::{Director, Lab, Mode, Wire, list, process, steps, wait_until};

use crate::{Scene, play};

/// The list that the demo began with.
fn expected_list(forward: &str) -> String {
    format!(
        "IP Virtual Server version 1.2.1 (size=4096)\n\
         Prot LocalAddress:Port Scheduler Flags\n  \
           -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n\
         TCP  198.51.100.8:80 rr\n  \
           -> 192.0.2.9:80                 {forward:<7} 1      0          33        \n  \
           -> 192.0.2.10:80                {forward:<7} 1      0          33        \n"
    )
}

/// Asks for the small page again and again; how often each one came.
pub fn get(scene: &Scene, requests: usize) -> Result<BTreeMap<String, usize>> {
    let mut pages = BTreeMap::new();
    for _ in 0..requests {
        *pages
            .entry(scene.lab.client.run(&format!("curl -sSf --max-time 10 http://{VIP}/"))?)
            .or_default() += 1;
    }
    Ok(pages)
}

fn share_out_66_requests(scene: &Scene, forward: &str) -> Result<()> {
    let pages = get(scene, 66)?;
    assert_eq!(pages.into_values().collect::<Vec<_>>(), [33, 33], "pages at the client");
    for server in &scene.lab.servers {
        wait_until("nginx has logged 33 requests", Duration::from_secs(5), || Ok(server.answered()? == 33))?;
        assert!(
            server.requests()?.iter().all(|request| request.client == CLIENT),
            "servers see the client's address"
        );
    }
    assert_eq!(scene.director.list_at_rest()?, expected_list(forward));
    assert_eq!(list::connections(&scene.director.statistics()?)?, [33, 33]);
    scene.director.check_counters()?;
    Ok(())
}

#[test]
fn nat_shares_out_66_requests() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, |scene| share_out_66_requests(scene, "Masq"))
}

#[test]
fn nat_shares_out_66_requests_over_xdp() -> Result<()> {
    play(Mode::Nat, Wire::AfXdp, |scene| share_out_66_requests(scene, "Masq"))
}

#[test]
fn direct_routing_shares_out_66_requests_and_changes_no_address_but_macs() -> Result<()> {
    play(Mode::Dr, Wire::AfPacket, |scene| {
        let watch = steps::Watch::start(&scene.lab)?;
        share_out_66_requests(scene, "Route")?;
        watch.finish()?.check()
    })
}

#[test]
fn direct_routing_shares_out_66_requests_over_xdp() -> Result<()> {
    play(Mode::Dr, Wire::AfXdp, |scene| share_out_66_requests(scene, "Route"))
}

#[test]
fn nat_decrements_the_ttl_and_hides_the_servers() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, |scene| {
        let [at_client, at_servers] = [scene.lab.capture("client")?, scene.lab.capture("lan")?];
        get(scene, 4)?;
        let [at_client, at_servers] = [at_client.finish()?, at_servers.finish()?];
        for frame in &at_client {
            let addresses = [frame.source.to_string(), frame.destination.to_string()];
            assert!(
                addresses.contains(&CLIENT.to_owned()) && addresses.contains(&VIP.to_owned()),
                "{frame:?}"
            );
            assert!(!frame.rst, "{frame:?}");
        }
        let from_client = |frame: &&lab::Frame| frame.source.to_string() == CLIENT;
        let sent = at_client.iter().find(from_client).context("nothing from the client")?;
        let arrived = at_servers.iter().find(from_client).context("nothing at the servers")?;
        assert_eq!(arrived.ttl, sent.ttl - 1);
        Ok(())
    })
}

#[test]
fn lbctl_is_a_drop_in_under_the_name_ipvsadm() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, |scene| {
        let ipvsadm = scene.lab.directory().join("ipvsadm");
        std::os::unix::fs::symlink(lab::director::lbctl_binary()?, &ipvsadm)?;
        let run = |words: &str| {
            let mut command = std::process::Command::new(&ipvsadm);
            process::run_command(command.args(words.split(' ')).env("LBCTL_SOCKET", scene.director.socket()))
        };
        run("-e -t 198.51.100.8:80 -r 192.0.2.9:80 -m -w 7")?;
        assert_eq!(run("-Ln")?, scene.director.lbctl("-Ln")?);
        let saved = run("-S -n")?;
        assert_eq!(
            saved,
            "-A -t 198.51.100.8:80 -s rr\n\
         -a -t 198.51.100.8:80 -r 192.0.2.9:80 -m -w 7\n\
         -a -t 198.51.100.8:80 -r 192.0.2.10:80 -m -w 1\n"
        );
        Ok(())
    })
}

#[test]
fn a_client_hears_at_once_that_there_is_no_server() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, |scene| {
        for server in ["192.0.2.9", "192.0.2.10"] {
            scene.director.lbctl(&format!("-d -t {VIP}:80 -r {server}:80"))?;
        }
        // Of curl's exit statuses, 7 says that nobody listens, and 28 that the time was up.
        let done = scene.lab.client.try_run(&format!("curl -sS --max-time 10 http://{VIP}/"))?;
        assert_eq!(done.status.code(), Some(7), "{}", done.stderr);
        scene.director.check_counters().map(drop)
    })
}

/// Each port has a virtual address of its own: clients of the one are balanced by NAT, those of the other by direct routing.
#[test]
fn ports_have_virtual_addresses_of_their_own() -> Result<()> {
    const INSIDE_VIP: &str = "192.0.2.8";
    let mut lab = Lab::new(Mode::Nat)?;
    lab.ports[1].addresses.push("192.0.2.8/32");
    let inside = lab.add_host("inside", "lan")?;
    inside.ip("address add 192.0.2.50/24 dev eth0")?;
    for server in &lab.servers {
        server.host.sysctl("net.ipv4.conf.all.arp_ignore", "1")?;
        server.host.sysctl("net.ipv4.conf.all.arp_announce", "2")?;
        server.host.ip(&format!("address add {INSIDE_VIP}/32 dev lo"))?;
    }
    let director = Director::start(&lab, Wire::AfPacket)?;
    director.balance_http()?;
    director.lbctl(&format!("-A -t {INSIDE_VIP}:80 -s rr"))?;
    for server in SERVERS {
        director.lbctl(&format!("-a -t {INSIDE_VIP}:80 -r {server}:80 -g"))?;
    }
    Scene { director, lab }.play(|scene| {
        for _ in 0..10 {
            scene.lab.client.run(&format!("curl -sSf --max-time 10 http://{VIP}/"))?;
            inside.run(&format!("curl -sSf --max-time 10 http://{INSIDE_VIP}/"))?;
        }
        for server in &scene.lab.servers {
            wait_until("nginx has logged 10 requests", Duration::from_secs(5), || {
                Ok(server.answered()? == 10)
            })?;
            for client in [CLIENT, "192.0.2.50"] {
                let of_client =
                    server.requests()?.into_iter().filter(|request| request.client == client).count();
                assert_eq!(of_client, 5, "requests of {client} at {}", server.host.name());
            }
        }
        scene.director.list_at_rest()?;
        assert_eq!(list::connections(&scene.director.statistics()?)?, [5, 5, 5, 5]);
        scene.director.check_counters()?;
        Ok(())
    })
}
