//! ICMP errors about balanced packets: who sent these hears of it, and path MTU discovery works through director both ways.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::director::Configuration;
use lab::router::Router;
use lab::topology::{CLIENT, LOCAL, SERVERS, SERVICE, VIP};
use lab::{Director, Lab, Mode, Wire, ipv6, process, wait_until};

use crate::tunnels::{Dump, upload_to};
use crate::{Scene, play};

/// Where nobody listens on the servers.
const NOBODY: u16 = 5353;

/// A client that is told by its socket what became of its datagram.
const ASK: &str = "import socket, sys\n\
    s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)\n\
    s.settimeout(5)\n\
    s.connect((sys.argv[1], int(sys.argv[2])))\n\
    s.send(b'question')\n\
    try:\n\
    \x20   print(s.recv(100))\n\
    except OSError as error:\n\
    \x20   print(type(error).__name__)\n";

fn ask(scene: &Scene, address: &str) -> Result<String> {
    let script = scene.lab.client.directory().join("ask.py");
    std::fs::write(&script, ASK)?;
    let said = scene.lab.client.run(&format!("/usr/bin/python3 {} {address} {NOBODY}", script.display()))?;
    Ok(said.trim().to_owned())
}

/// A lab with IPv6 beside IPv4.
fn both_families(mode: Mode) -> Result<Scene> {
    let mut lab = Lab::new(mode)?;
    ipv6::add(&mut lab)?;
    let director = Director::start(&lab, Wire::AfPacket)?;
    Ok(Scene { director, lab })
}

#[test]
fn a_client_hears_that_nobody_listens_on_the_server() -> Result<()> {
    both_families(Mode::Nat)?.play(|scene| {
        let ends = [(VIP.to_owned(), SERVERS[0].to_owned())];
        let ends6 = [(format!("[{}]", ipv6::VIP), format!("[{}]", ipv6::SERVERS[0]))];
        for (vip, server) in ends.iter().chain(&ends6) {
            scene.director.lbctl(&format!("-A -u {vip}:{NOBODY} -s rr"))?;
            scene.director.lbctl(&format!("-a -u {vip}:{NOBODY} -r {server}:{} -m", NOBODY + 1))?;
        }
        let dump = Dump::start(&scene.lab, "client")?;
        for vip in [VIP, ipv6::VIP] {
            wait_until("the client's socket is refused", Duration::from_secs(10), || {
                Ok(ask(scene, vip)? == "ConnectionRefusedError")
            })?;
        }
        let text = dump.finish(&scene.lab)?;
        for said in [
            format!("{VIP} > {CLIENT}: ICMP {VIP} udp port {NOBODY} unreachable"),
            format!("{} > {}: [icmp6 sum ok] ICMP6, destination unreachable, unreachable port, {} udp port {NOBODY}", ipv6::VIP, ipv6::CLIENT, ipv6::VIP),
        ] {
            ensure!(text.contains(&said), "the client was not told {said:?}:\n{text}");
        }
        scene.director.check_counters().map(drop)
    })
}

/// Before the client, on a link of 1300 bytes.
const BEFORE_CLIENT: Router = Router {
    name: "router",
    wire: "wan",
    near: ["198.51.100.254/24", "2001:db8:64::fe/64"],
    director: ["198.51.100.1", "2001:db8:64::1"],
    far: ["203.0.113.1/25", "2001:db8:cb::1/64"],
    host: ["203.0.113.9/25", "2001:db8:cb::9/64"],
    networks: ["203.0.113.0/25", "2001:db8:cb::/64"],
    mtu: 1300,
    ipv6: true,
};

/// Before the first server.
const BEFORE_SERVER: Router = Router {
    name: "gate",
    wire: "lan",
    near: ["192.0.2.254/24", "2001:db8:2::fe/64"],
    director: ["192.0.2.1", "2001:db8:2::1"],
    far: ["203.0.113.129/25", "2001:db8:ff::1/64"],
    host: ["203.0.113.130/25", "2001:db8:ff::9/64"],
    networks: ["203.0.113.128/25", "2001:db8:ff::/64"],
    mtu: 1300,
    ipv6: true,
};

/// One server behind each virtual address.
fn balance(scene: &Scene, servers: [&str; 2]) -> Result<[String; 2]> {
    let vips = [VIP.to_owned(), format!("[{}]", ipv6::VIP)];
    for (vip, server) in vips.iter().zip(servers) {
        let forward = scene.lab.mode.option();
        scene.director.lbctl(&format!("-A -t {vip}:80 -s rr"))?;
        scene.director.lbctl(&format!("-a -t {vip}:80 -r {server}:80 {forward}"))?;
    }
    Ok(vips)
}

fn download(scene: &Scene, host: &str) -> Result<()> {
    let [first, _] = &scene.lab.servers;
    let file = scene.lab.client.directory().join("got");
    scene.lab.client.run(&format!("curl -gsSf --max-time 30 -o {} http://{host}/file", file.display()))?;
    let line = process::run("sha256sum", [&file])?;
    ensure!(line.starts_with(&first.sha256("file")?), "the file arrived as {line}");
    Ok(())
}

/// What Linux knows of the way to a network, with what it has learnt.
fn has_learnt(host: &lab::Host, to: &str) -> Result<bool> {
    Ok(host.ip(&format!("route get {to}"))?.contains("mtu 1300"))
}

/// The server's segments are too long for the way to the client, and must not be fragmented: it hears so from a router in front of
/// the client, who has them from the virtual address.
fn what_servers_send(mode: Mode) -> Result<()> {
    both_families(mode)?.play(|scene| {
        let [first, _] = &scene.lab.servers;
        let _router = BEFORE_CLIENT.put_before(&scene.lab.client, "wan0", &scene.lab)?;
        if mode == Mode::Dr {
            let [near, near6] = ["198.51.100.254", "2001:db8:64::fe"];
            first.host.ip(&format!("route add 203.0.113.0/25 via {near} dev eth0"))?;
            first.host.ip(&format!("-6 route add 2001:db8:cb::/64 via {near6} dev eth0"))?;
        }
        first.put_random_file("file", 1)?;
        let vips = balance(scene, [SERVERS[0], &format!("[{}]", ipv6::SERVERS[0])])?;
        let dump = Dump::start(&scene.lab, "r1")?;
        for vip in &vips {
            download(scene, vip).with_context(|| vip.clone())?;
        }
        let text = dump.finish(&scene.lab)?;
        ensure!(text.contains("unreachable - need to frag (mtu 1300)"), "no error reached the server");
        ensure!(text.contains("ICMP6, packet too big, mtu 1300"), "no ICMPv6 error reached the server");
        for client in ["203.0.113.9", "2001:db8:cb::9"] {
            ensure!(has_learnt(&first.host, client)?, "the server has not learnt the way to {client}");
        }
        scene.director.check_counters().map(drop)
    })
}

#[test]
fn a_server_learns_the_path_mtu_by_nat() -> Result<()> {
    what_servers_send(Mode::Nat)
}

#[test]
fn a_server_learns_the_path_mtu_by_direct_routing() -> Result<()> {
    what_servers_send(Mode::Dr)
}

/// The client's segments are too long for the way to the server: it hears so from the virtual address.
#[test]
fn a_client_learns_the_path_mtu_by_nat() -> Result<()> {
    both_families(Mode::Nat)?.play(|scene| {
        let [first, _] = &scene.lab.servers;
        let _gate = BEFORE_SERVER.put_before(&first.host, "lan0", &scene.lab)?;
        let vips = balance(scene, ["203.0.113.130", "[2001:db8:ff::9]"])?;
        let dump = Dump::start(&scene.lab, "client")?;
        for vip in &vips {
            upload_to(scene, vip).with_context(|| vip.clone())?;
        }
        let text = dump.finish(&scene.lab)?;
        let told = format!("{VIP} > {CLIENT}: ICMP {VIP} unreachable - need to frag (mtu 1300)");
        ensure!(text.contains(&told), "the client was not told {told:?}");
        ensure!(text.contains("ICMP6, packet too big, mtu 1300"), "no ICMPv6 error reached the client");
        for vip in [VIP, ipv6::VIP] {
            ensure!(has_learnt(&scene.lab.client, vip)?, "the client has not learnt the way to {vip}");
        }
        scene.director.check_counters().map(drop)
    })
}

/// What a route's MTU is where it has been learnt.
fn learnt(host: &lab::Host, to: &str) -> Result<String> {
    let route = host.ip(&format!("route get {to}"))?;
    let mtu = route.split(" mtu ").nth(1).and_then(|rest| rest.split_whitespace().next());
    mtu.map(str::to_owned).with_context(|| format!("nothing has been learnt of the way to {to}: {route}"))
}

/// What IPv4 carries in 1300 bytes takes 1320 over IPv6; and what IPv6 does, 1280.
#[test]
fn both_ends_learn_the_path_mtu_between_families() -> Result<()> {
    const GATE: Router = Router { wire: "wan", ..BEFORE_SERVER };
    both_families(Mode::FullNat)?.play(|scene| {
        let [first, _] = &scene.lab.servers;
        let _gate = GATE.put_before(&first.host, "wan0", &scene.lab)?;
        let vips = balance(scene, ["[2001:db8:ff::9]", "203.0.113.130"])?;
        let dump = Dump::start(&scene.lab, "client")?;
        for vip in &vips {
            upload_to(scene, vip).with_context(|| vip.clone())?;
        }
        let text = dump.finish(&scene.lab)?;
        let told = format!("{VIP} > {CLIENT}: ICMP {VIP} unreachable - need to frag (mtu 1280)");
        ensure!(text.contains(&told), "the client was not told {told:?}");
        ensure!(text.contains("ICMP6, packet too big, mtu 1320"), "no ICMPv6 error reached the client");
        let client = &scene.lab.client;
        assert_eq!([learnt(client, VIP)?, learnt(client, ipv6::VIP)?], ["1280", "1320"]);
        scene.director.check_counters().map(drop)
    })?;
    both_families(Mode::FullNat)?.play(|scene| {
        let [first, _] = &scene.lab.servers;
        let _router = BEFORE_CLIENT.put_before(&scene.lab.client, "wan0", &scene.lab)?;
        first.put_random_file("file", 1)?;
        let vips = balance(scene, [&format!("[{}]", ipv6::SERVERS[0]), SERVERS[0]])?;
        let dump = Dump::start(&scene.lab, "r1")?;
        for vip in &vips {
            download(scene, vip).with_context(|| vip.clone())?;
        }
        let text = dump.finish(&scene.lab)?;
        let told = format!("{LOCAL} > {}: ICMP {LOCAL} unreachable - need to frag (mtu 1280)", SERVERS[0]);
        ensure!(text.contains(&told), "the server was not told {told:?}");
        ensure!(text.contains("ICMP6, packet too big, mtu 1320"), "no ICMPv6 error reached the server");
        assert_eq!([learnt(&first.host, LOCAL)?, learnt(&first.host, ipv6::LOCAL)?], ["1280", "1320"]);
        scene.director.check_counters().map(drop)
    })
}

/// A lab by NAT in which director's port of this number sends packets of at most 1300 bytes; the one server sends longer ones.
fn narrow_port(number: usize) -> Result<(Scene, [String; 2])> {
    let mut lab = Lab::new(Mode::Nat)?;
    ipv6::add(&mut lab)?;
    let mut configuration = Configuration::new(&lab, Wire::AfPacket)?;
    configuration.set(&format!("/port/{number}/mtu"), 1300.into())?;
    let director = Director::start_with(&lab, &configuration)?;
    let scene = Scene { director, lab };
    let vips = balance(&scene, [SERVERS[0], &format!("[{}]", ipv6::SERVERS[0])])?;
    Ok((scene, vips))
}

/// Director itself is the router whose next link is narrow.
#[test]
fn a_client_learns_the_mtu_of_directors_port() -> Result<()> {
    let (scene, vips) = narrow_port(1)?;
    scene.play(|scene| {
        for vip in &vips {
            upload_to(scene, vip).with_context(|| vip.clone())?;
        }
        for vip in [VIP, ipv6::VIP] {
            ensure!(has_learnt(&scene.lab.client, vip)?, "the client has not learnt the way to {vip}");
        }
        scene.director.check_counters().map(drop)
    })
}

#[test]
fn a_server_learns_the_mtu_of_directors_port() -> Result<()> {
    let (scene, vips) = narrow_port(0)?;
    scene.play(|scene| {
        let [first, _] = &scene.lab.servers;
        first.put_random_file("file", 1)?;
        let dump = Dump::start(&scene.lab, "r1")?;
        for vip in &vips {
            download(scene, vip).with_context(|| vip.clone())?;
        }
        for client in [CLIENT, ipv6::CLIENT] {
            ensure!(has_learnt(&first.host, client)?, "the server has not learnt the way to {client}");
        }
        let text = dump.finish(&scene.lab)?;
        let told = format!("192.0.2.1 > {}: ICMP {CLIENT} unreachable - need to frag (mtu 1300)", SERVERS[0]);
        ensure!(text.contains(&told), "the server was not told {told:?}");
        ensure!(
            text.contains("2001:db8:2::1 > 2001:db8:2::9: [icmp6 sum ok] ICMP6, packet too big, mtu 1300")
        );
        scene.director.check_counters().map(drop)
    })
}

/// As traceroute does: the virtual address is the first hop, and director's own one for a server.
#[test]
fn a_socket_hears_that_the_time_to_live_has_run_out() -> Result<()> {
    const PROBE: &str = "import socket, sys\n\
        v6 = ':' in sys.argv[1]\n\
        s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)\n\
        s.setsockopt(41 if v6 else 0, 25 if v6 else 11, 1) # IPV6_RECVERR, IP_RECVERR\n\
        s.setsockopt(41 if v6 else 0, 16 if v6 else 2, 1) # IPV6_UNICAST_HOPS, IP_TTL\n\
        s.settimeout(5)\n\
        s.connect((sys.argv[1], int(sys.argv[2])))\n\
        s.send(b'question')\n\
        try:\n\
        \x20   print(s.recv(100))\n\
        except OSError as error:\n\
        \x20   print(error.errno)\n";
    both_families(Mode::Dr)?.play(|scene| {
        let [server, server6] = [SERVERS[0].to_owned(), format!("[{}]", ipv6::SERVERS[0])];
        for (vip, server) in [(VIP.to_owned(), server), (format!("[{}]", ipv6::VIP), server6)] {
            scene.director.lbctl(&format!("-A -u {vip}:{NOBODY} -s rr"))?;
            scene.director.lbctl(&format!("-a -u {vip}:{NOBODY} -r {server}:{NOBODY} -g"))?;
        }
        let script = scene.lab.client.directory().join("probe.py");
        std::fs::write(&script, PROBE)?;
        let dump = Dump::start(&scene.lab, "client")?;
        for vip in [VIP, ipv6::VIP] {
            wait_until("the client's socket is told", Duration::from_secs(10), || {
                let line = format!("/usr/bin/python3 {} {vip} {NOBODY}", script.display());
                // EHOSTUNREACH
                Ok(scene.lab.client.run(&line)?.trim() == "113")
            })?;
        }
        let text = dump.finish(&scene.lab)?;
        for said in [
            format!("{VIP} > {CLIENT}: ICMP time exceeded in-transit"),
            format!("{} > {}: [icmp6 sum ok] ICMP6, time exceeded in-transit", ipv6::VIP, ipv6::CLIENT),
        ] {
            ensure!(text.contains(&said), "the client was not told {said:?}:\n{text}");
        }
        scene.director.check_counters().map(drop)
    })
}

/// Between director and the first server, on whose wires all are by tunnels.
const BEFORE_TUNNEL: Router = Router { wire: "wan", ipv6: false, ..BEFORE_SERVER };

/// The way to the server at the tunnel's end takes less than director's port sends: director hears so from the router, and
/// the client from director.
#[test]
fn a_client_learns_the_path_mtu_of_a_tunnel() -> Result<()> {
    play(Mode::Tun, Wire::AfPacket, |scene| {
        let [first, _] = &scene.lab.servers;
        let gate = BEFORE_TUNNEL.put_before(&first.host, "wan0", &scene.lab)?;
        // Answers go past director.
        gate.ip("route add 198.51.100.0/24 dev eth0")?;
        let server = "203.0.113.130";
        for (kind, overhead) in [("ipip", 20), ("gre --tun-csum", 28), ("gue --tun-port 6080 --tun-csum", 32)]
        {
            scene.director.lbctl("-C")?;
            scene.director.lbctl(&format!("-A -t {SERVICE} -s rr"))?;
            scene.director.lbctl(&format!("-a -t {SERVICE} -r {server}:80 -i --tun-type {kind}"))?;
            scene.lab.client.ip("route flush cache")?;
            let dump = Dump::start(&scene.lab, "client")?;
            upload_to(scene, VIP).context(kind)?;
            let text = dump.finish(&scene.lab)?;
            let told =
                format!("{VIP} > {CLIENT}: ICMP {VIP} unreachable - need to frag (mtu {})", 1300 - overhead);
            ensure!(text.contains(&told), "{kind}: the client was not told {told:?}:\n{text}");
            // Another client would be told by director itself: a packet that is too long goes no further than that any more.
            scene.lab.client.ip("route flush cache")?;
            let dump = Dump::start(&scene.lab, "gate")?;
            upload_to(scene, VIP).context(kind)?;
            let text = dump.finish(&scene.lab)?;
            ensure!(!text.contains("need to frag"), "{kind}: the router had to tell again:\n{text}");
        }
        scene.director.check_counters().map(drop)
    })
}
