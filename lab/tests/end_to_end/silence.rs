//! A worker under load makes no system call: strace watches its thread while packets come and control is busy. The wire is
//! shared memory (memif), whose driver makes none either, and packets leave by a port that takes them all and sends none.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::director::Configuration;
use lab::{Director, Lab, Mode, Process, Wire, wait_until};
use serde_json::json;

const MAC: &str = "02:00:00:00:00:01";
const SERVICE: &str = "198.51.100.8:53";

/// How long each thread is watched.
const WATCHED: Duration = Duration::from_secs(3);

/// Packets that a worker forwards in that time, at the very least.
const PACKETS: u64 = 100_000;

/// testpmd sends UDP to the service, from 256 clients and without end. It is the memif's server, because net_memif of DPDK
/// 22.11 crashes when a server closes.
fn start_sender(lab: &Lab, socket: &Path) -> Result<Process> {
    let mut command = lab.client.command("dpdk-testpmd");
    command.args(["--no-pci", "--no-huge", "-m", "128", "--no-shconf", "--no-telemetry"]);
    command.arg(format!("--file-prefix={}-sender", lab.id())).args(["--lcores", "0@0,1@0"]);
    command.arg(format!("--vdev=net_memif0,role=server,socket-abstract=no,socket={}", socket.display()));
    command.args([
        "--",
        "--auto-start",
        "--forward-mode=txonly",
        "--txonly-multi-flow",
        "--stats-period=3600",
    ]);
    command.args(["--tx-ip=203.0.113.10,198.51.100.8", "--tx-udp=4000,53", "--total-num-mbufs=4096"]);
    command.arg(format!("--eth-peer=0,{MAC}"));
    let sender = lab.client.start(command, "testpmd")?;
    wait_until("testpmd listens", Duration::from_secs(20), || Ok(socket.exists()))
        .with_context(|| format!("testpmd's log ends so:\n{}", sender.log_tail()))?;
    Ok(sender)
}

fn configuration(lab: &Lab, socket: &Path) -> Result<Configuration> {
    let mut configuration = Configuration::new(lab, Wire::AfPacket)?;
    let memif = format!("net_memif0,role=client,socket-abstract=no,mac={MAC},socket={}", socket.display());
    configuration.set(
        "/port",
        json!([
            { "name": "in", "device": memif, "kernel_interface": false },
            { "name": "out", "device": "net_null0,no-rx=1", "kernel_interface": false },
        ]),
    )?;
    configuration.set("/route", json!([{ "to": "0.0.0.0/0", "via": "192.0.2.1", "port": "out" }]))?;
    configuration
        .set("/neighbour", json!([{ "address": "192.0.2.1", "mac": "02:00:00:00:00:02", "port": "out" }]))?;
    Ok(configuration)
}

/// Director with packets coming. A memif's client asks once to be connected, and a server whose port has not started yet refuses it; so
/// where none come, it is started anew.
fn start_receiver(lab: &Lab, configuration: &Configuration) -> Result<Director> {
    let mut starts = 0;
    loop {
        starts += 1;
        let director = Director::start_with(lab, configuration)?;
        director.lbctl(&format!("-A -u {SERVICE} -s rr"))?;
        director.lbctl(&format!("-a -u {SERVICE} -r 192.0.2.9 -g"))?;
        let flow = wait_until("packets flow", Duration::from_secs(10), || {
            Ok(director.counters()?.total().forwarded > 0)
        });
        match flow {
            Ok(()) => return Ok(director),
            Err(error) if starts == 3 => return Err(director.blame(&error)),
            Err(_) => director.stop()?,
        }
    }
}

/// What strace sees of a thread while `meanwhile` goes on over and over.
fn system_calls(lab: &Lab, thread: u32, mut meanwhile: impl FnMut() -> Result<()>) -> Result<String> {
    let seen = lab.directory().join(format!("strace-{thread}"));
    let mut command = lab.director.command("strace");
    command.arg("-p").arg(thread.to_string()).arg("-o").arg(&seen);
    let mut strace = lab.director.start(command, "strace")?;
    wait_until("strace is attached", Duration::from_secs(5), || Ok(strace.log().contains("attached")))
        .with_context(|| strace.log())?;
    let end = Instant::now() + WATCHED;
    while Instant::now() < end {
        meanwhile()?;
    }
    strace.stop()?;
    fs::read_to_string(&seen).with_context(|| format!("cannot read {}", seen.display()))
}

#[test]
fn a_worker_under_load_makes_no_system_call() -> Result<()> {
    let lab = Lab::new(Mode::Dr)?;
    let socket = lab.directory().join("memif.sock");
    let mut sender = start_sender(&lab, &socket)?;
    let director = start_receiver(&lab, &configuration(&lab, &socket)?)
        .with_context(|| format!("testpmd's log ends so:\n{}", sender.log_tail()))?;
    let forwarded = || -> Result<u64> { Ok(director.counters()?.total().forwarded) };

    let before = forwarded()?;
    // New snapshots, lists of all there is, and statistics; and connections that lose their destination.
    let calls = system_calls(&lab, director.thread("worker-")?, || {
        director.lbctl(&format!("-a -u {SERVICE} -r 192.0.2.10 -g"))?;
        director.lbctl("-Lnc")?;
        director.lbctl("-Ln --stats")?;
        director.lbctl(&format!("-d -u {SERVICE} -r 192.0.2.10"))?;
        director.lbctl("-Z").map(drop)
    })?;
    let flowed = forwarded()? - before;
    ensure!(calls.is_empty(), "the worker made system calls:\n{calls}");
    ensure!(flowed > PACKETS, "only {flowed} packets flowed meanwhile");

    // The thread that serves Linux's side rests between two looks: strace must see that, or it would see nothing at all.
    let calls = system_calls(&lab, director.thread("kernel")?, || {
        sleep(Duration::from_millis(100));
        Ok(())
    })?;
    ensure!(!calls.is_empty(), "strace sees no system call of a thread that makes them");
    // In this order: net_memif unmaps a ring under the thread that reads it when the other side goes.
    director.stop()?;
    sender.stop().map(drop)
}
