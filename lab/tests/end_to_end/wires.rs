//! The lab without director: Linux forwards in its place. What fails here is the lab's fault, not director's.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::topology::{CLIENT, SERVERS, VIP};
use lab::{Lab, Mode, wait_until};

/// Puts the kernel where director would be. DR picks the server by the client's port, so the split is not even.
fn let_linux_forward(lab: &Lab) -> Result<()> {
    let director = &lab.director;
    director.run("nft flush ruleset")?;
    for port in &lab.ports {
        director.ip(&format!("link set {} arp on", port.device))?;
        for address in &port.addresses {
            director.ip(&format!("address add {address} dev {}", port.device))?;
        }
    }
    let [first, second] = SERVERS;
    let rules = match lab.mode {
        Mode::Nat => format!(
            "table ip nat {{ chain prerouting {{ type nat hook prerouting priority dstnat;
                ip daddr {VIP} tcp dport 80 dnat to numgen inc mod 2 map {{ 0 : {first}, 1 : {second} }}; }}; }}"
        ),
        Mode::Dr => {
            let mac = |host: &lab::Host, interface: &str| host.run(&format!("cat /sys/class/net/{interface}/address"));
            let [first, second] = &lab.servers;
            format!(
                "table netdev dr {{ chain ingress {{ type filter hook ingress device wan-veth priority 0;
                    ip daddr {VIP} tcp dport 80 ether saddr set {}
                    ether daddr set jhash tcp sport mod 2 map {{ 0 : {}, 1 : {} }} fwd to wan-veth; }}; }}",
                mac(director, "wan-veth")?.trim(),
                mac(&first.host, "eth0")?.trim(),
                mac(&second.host, "eth0")?.trim(),
            )
        }
        Mode::Tun | Mode::FullNat => anyhow::bail!("not every Linux has them"),
    };
    lab::process::run_command(director.command("nft").arg(rules)).map(drop)
}

#[test]
fn linux_can_do_nat_in_the_lab() -> Result<()> {
    let lab = Lab::new(Mode::Nat)?;
    let_linux_forward(&lab)?;
    for _ in 0..10 {
        lab.client.run(&format!("curl -sf --max-time 5 http://{VIP}/"))?;
    }
    let [first, second] = &lab.servers;
    wait_until("both logs are whole", Duration::from_secs(5), || {
        Ok(first.answered()? + second.answered()? == 10)
    })?;
    assert_eq!((first.answered()?, second.answered()?), (5, 5));
    assert_eq!((first.accepted()?, second.accepted()?), (5, 5));
    assert_eq!((first.accepted()?, second.accepted()?), (5, 5), "asking does not count");
    ensure!(first.requests()?.iter().all(|request| request.client == CLIENT));
    Ok(())
}

#[test]
fn linux_can_do_direct_routing_in_the_lab() -> Result<()> {
    let lab = Lab::new(Mode::Dr)?;
    let_linux_forward(&lab)?;
    let [at_client, at_director] = [lab.capture("client")?, lab.capture("wan")?];
    let [first, second] = &lab.servers;
    for _ in 0..40 {
        lab.client.run(&format!("curl -sf --max-time 5 http://{VIP}/"))?;
    }
    wait_until("both logs are whole", Duration::from_secs(5), || {
        Ok(first.answered()? + second.answered()? == 40)
    })?;
    ensure!(first.answered()? > 0 && second.answered()? > 0);

    let replies = |frames: &[lab::Frame]| frames.iter().filter(|frame| frame.source_port == 80).count();
    let [at_client, at_director] = [at_client.finish()?, at_director.finish()?];
    ensure!(replies(&at_client) >= 120 && replies(&at_director) == 0);
    let opening = at_director
        .iter()
        .find(|frame| frame.syn && lab.owner_of(frame.source_mac).is_ok_and(|name| name == "director"));
    ensure!(opening.is_some_and(|frame| frame.ttl == 64 && frame.source.to_string() == CLIENT));
    Ok(())
}

#[test]
fn a_file_arrives_whole_over_the_labs_wires() -> Result<()> {
    let lab = Lab::new(Mode::Nat)?;
    let_linux_forward(&lab)?;
    let [first, second] = &lab.servers;
    first.put_random_file("big", 20)?;
    second.put_copy_of(first, "big")?;
    let got = lab.client.directory().join("big");
    lab.client.run(&format!("curl -sf --max-time 60 -o {} http://{VIP}/big", got.display()))?;
    let sum = lab.client.run(&format!("sha256sum {}", got.display()))?;
    assert_eq!(sum.split(' ').next(), Some(first.sha256("big")?.as_str()));

    let slow = lab
        .client
        .run(&format!("curl -sf --max-time 60 -o /dev/null -w %{{time_total}} http://{VIP}/big?rate=10m"))?;
    ensure!(slow.parse::<f64>()? > 0.9, "the rate is held: {slow} s for 20 MB at 10 MB/s");
    Ok(())
}

#[test]
fn two_labs_stand_side_by_side_and_leave_nothing() -> Result<()> {
    let [one, other] = [Lab::new(Mode::Nat)?, Lab::new(Mode::Nat)?];
    ensure!(one.id() != other.id());
    let places = [one.directory().to_owned(), other.directory().to_owned()];
    let namespaces = [one.client.namespace().to_owned(), other.servers[0].host.namespace().to_owned()];
    drop(one);
    ensure!(!places[0].exists() && places[1].exists());
    other.client.run("true")?;
    drop(other);
    ensure!(!places[1].exists());
    let left = lab::process::run("ip", ["netns", "list"])?;
    ensure!(namespaces.iter().all(|namespace| !left.contains(namespace)), "{left}");
    Ok(())
}

#[test]
fn a_servers_new_mac_reaches_its_neighbours() -> Result<()> {
    let lab = Lab::new(Mode::Nat)?;
    let_linux_forward(&lab)?;
    let [first, _] = &lab.servers;
    lab.director.run(&format!("ping -c1 -W2 {}", first.address))?;
    first.change_mac("02:00:00:00:99:09")?;
    wait_until("the new MAC is known", Duration::from_secs(2), || {
        Ok(lab.director.ip("neighbour show dev lan-veth")?.contains("02:00:00:00:99:09"))
    })
}
