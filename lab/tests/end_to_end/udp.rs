//! UDP through a UDP service: every datagram's checksum is right at whoever receives it.

use anyhow::{Context, Result, ensure};
use lab::topology::{CLIENT, SERVERS, VIP};
use lab::{Host, Mode, Wire};
use serde_json::Value;

use crate::{Scene, play};

/// iperf3's own port. Its control connection is TCP.
const PORT: u16 = 5201;
/// How much of what is sent may be lost by a busy machine; iperf3 does not send anything again.
const MOST_LOST_PERCENT: f64 = 1.0;

fn balance_iperf(scene: &Scene) -> Result<()> {
    let ([first, _], forward) = (SERVERS, scene.lab.mode.option());
    ["-t", "-u"].into_iter().try_for_each(|protocol| {
        scene.director.lbctl(&format!("-A {protocol} {VIP}:{PORT} -s rr"))?;
        scene
            .director
            .lbctl(&format!("-a {protocol} {VIP}:{PORT} -r {first}:{PORT} {forward} -w 1"))
            .map(drop)
    })
}

/// Datagrams that a host's Linux has thrown away for a wrong checksum.
pub(crate) fn wrong_checksums(host: &Host) -> Result<u64> {
    let table = host.run("cat /proc/net/snmp")?;
    let mut rows = table.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, numbers) = rows.next().zip(rows.next()).context("no UDP counters")?;
    let column = names.split(' ').position(|name| name == "InCsumErrors").context("no InCsumErrors")?;
    Ok(numbers.split(' ').nth(column).context("too few UDP counters")?.parse()?)
}

fn iperf(scene: &Scene, options: &str) -> Result<()> {
    let said = scene
        .lab
        .client
        .run(&format!("iperf3 --json -c {VIP} -p {PORT} -u -l 1200 -b 10M -t 3 {options}"))?;
    let report: Value = serde_json::from_str(&said)?;
    let sum = &report["end"]["sum"];
    let (packets, lost) = (sum["packets"].as_u64(), sum["lost_percent"].as_f64());
    ensure!(packets.is_some_and(|packets| packets > 2000), "iperf3 {options}: {sum}");
    ensure!(lost.is_some_and(|percent| percent <= MOST_LOST_PERCENT), "iperf3 {options}: {sum}");
    Ok(())
}

/// iperf3 from the client to a server and back, by a service of its own.
pub(crate) fn both_ways(scene: &Scene) -> Result<()> {
    balance_iperf(scene)?;
    let [first, _] = &scene.lab.servers;
    let _server = first.host.spawn(&format!("iperf3 -s -p {PORT}"))?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    iperf(scene, "")?;
    iperf(scene, "--reverse")?;
    assert_eq!(wrong_checksums(&first.host)?, 0, "at the server");
    assert_eq!(wrong_checksums(&scene.lab.client)?, 0, "at the client");
    Ok(())
}

/// One datagram from the client's own address whose checksum is wrong from the start.
fn send_a_wrong_checksum(scene: &Scene) -> Result<()> {
    let script = scene.lab.client.directory().join("wrong.py");
    let text = format!(
        "from scapy.all import IP, UDP, Raw, send\n\
         send(IP(dst='{VIP}') / UDP(sport=4000, dport={PORT}, chksum=0x1234) / Raw(b'x' * 100), verbose=False)\n"
    );
    std::fs::write(&script, text)?;
    scene.lab.client.run(&format!("/usr/bin/python3 {}", script.display())).map(drop)
}

#[test]
fn udp_arrives_with_right_checksums_both_ways_by_nat() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, |scene| {
        balance_iperf(scene)?;
        let [first, _] = &scene.lab.servers;
        let _server = first.host.spawn(&format!("iperf3 -s -p {PORT}"))?;
        std::thread::sleep(std::time::Duration::from_millis(500));
        iperf(scene, "")?;

        // As IPVS lists it. The five minutes begin anew with every packet.
        let list = scene.director.lbctl("-Lnc")?;
        let rows: Vec<_> = list.lines().filter(|line| line.starts_with("UDP")).collect();
        let [row] = rows[..] else { anyhow::bail!("one row of UDP is expected: {list}") };
        let (expires, rest) = row.split_at("UDP 05:00".len());
        ensure!(["UDP 05:00", "UDP 04:59", "UDP 04:58"].contains(&expires), "{row}");
        let ports =
            rest.strip_prefix(&format!("  UDP         {CLIENT}:")).and_then(|rest| rest.split_once(' '));
        let (_, rest) = ports.with_context(|| row.to_owned())?;
        assert_eq!(rest.trim_start(), format!("{VIP}:{PORT}  {}:{PORT}", first.address), "{row}");

        iperf(scene, "--reverse")?;
        assert_eq!(wrong_checksums(&first.host)?, 0, "at the server");
        assert_eq!(wrong_checksums(&scene.lab.client)?, 0, "at the client");

        // The server does look; and director does not make a wrong checksum right.
        send_a_wrong_checksum(scene)?;
        lab::wait_until("the server has seen the wrong checksum", std::time::Duration::from_secs(5), || {
            Ok(wrong_checksums(&first.host)? == 1)
        })?;
        scene.director.check_counters()?;
        Ok(())
    })
}
