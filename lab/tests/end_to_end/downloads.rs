//! Downloads arrive whole: large ones, and slow ones during which the set of servers changes.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::topology::{SERVICE, VIP};
use lab::{Lab, Mode, Process, Wire, process, wait_until};

use crate::{Scene, play};

/// A curl that is running.
pub struct Download {
    curl: Process,
    file: PathBuf,
}

impl Download {
    pub fn start(lab: &Lab, name: &str, uri: &str) -> Result<Self> {
        let file = lab.client.directory().join(name);
        let curl = lab
            .client
            .spawn(&format!("curl -sSf --max-time 120 -o {} http://{VIP}/{uri}", file.display()))?;
        Ok(Self { curl, file })
    }

    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.curl.ended()?.is_none())
    }

    /// Waits for its end and checks the file against the servers' own.
    pub fn arrives_whole(mut self, sum: &str) -> Result<()> {
        let status = self.curl.wait(Duration::from_secs(130))?;
        ensure!(status.success(), "{}", self.curl.log());
        let line = process::run("sha256sum", [&self.file])?;
        std::fs::remove_file(&self.file)?;
        ensure!(line.starts_with(sum), "{line} is not {sum}");
        Ok(())
    }
}

pub fn put_on_both(scene: &Scene, megabytes: u32) -> Result<String> {
    let [first, second] = &scene.lab.servers;
    first.put_random_file("file", megabytes)?;
    second.put_copy_of(first, "file")?;
    first.sha256("file")
}

fn large_download(mode: Mode, wire: Wire) -> Result<()> {
    play(mode, wire, |scene| {
        let sum = put_on_both(scene, 100)?;
        Download::start(&scene.lab, "got", "file")?.arrives_whole(&sum)?;
        scene.director.check_counters()?;
        Ok(())
    })
}

#[test]
fn a_large_download_arrives_by_nat_over_af_packet() -> Result<()> {
    large_download(Mode::Nat, Wire::AfPacket)
}

#[test]
fn a_large_download_arrives_by_nat_over_af_xdp() -> Result<()> {
    large_download(Mode::Nat, Wire::AfXdp)
}

#[test]
fn a_large_download_arrives_by_direct_routing_over_af_packet() -> Result<()> {
    large_download(Mode::Dr, Wire::AfPacket)
}

#[test]
fn a_large_download_arrives_by_direct_routing_over_af_xdp() -> Result<()> {
    large_download(Mode::Dr, Wire::AfXdp)
}

/// Two downloads of five seconds, one on each server, well under way. Round robin puts them there.
fn slow_downloads(scene: &Scene) -> Result<(Vec<Download>, String)> {
    let sum = put_on_both(scene, 10)?;
    let downloads = ["one", "other"].map(|name| Download::start(&scene.lab, name, "file?rate=2m"));
    let downloads = downloads.into_iter().collect::<Result<Vec<_>>>()?;
    sleep(Duration::from_secs(1));
    Ok((downloads, sum))
}

fn all_running(downloads: &mut [Download]) -> Result<()> {
    for download in downloads {
        ensure!(
            download.is_running()?,
            "the download ended too early to show anything: {}",
            download.curl.log()
        );
    }
    Ok(())
}

/// Requests for the small page, by which server answered: r1's share.
fn share_of_first(scene: &Scene, requests: usize) -> Result<usize> {
    let first = &scene.lab.servers[0].address;
    let page = || scene.lab.client.run(&format!("curl -sSf --max-time 10 http://{VIP}/"));
    let pages = (0..requests).map(|_| page()).collect::<Result<Vec<_>>>()?;
    Ok(pages.iter().filter(|page| page.trim_end().ends_with(first)).count())
}

fn option(mode: Mode) -> &'static str {
    mode.option()
}

fn server_at_weight_zero(mode: Mode) -> Result<()> {
    play(mode, Wire::AfPacket, |scene| {
        let wire = scene.lab.capture("client")?;
        let (mut downloads, sum) = slow_downloads(scene)?;
        let first = &scene.lab.servers[0].address;
        scene.director.lbctl(&format!("-e -t {SERVICE} -r {first}:80 {} -w 0", option(mode)))?;
        assert_eq!(share_of_first(scene, 10)?, 0, "new connections go elsewhere");
        all_running(&mut downloads)?;
        downloads.into_iter().try_for_each(|download| download.arrives_whole(&sum))?;
        let [first, second] = &scene.lab.servers;
        wait_until("both logs are whole", Duration::from_secs(5), || {
            Ok(first.answered()? == 1 && second.answered()? == 11)
        })
        .with_context(|| format!("{:?}", [first.answered(), second.answered()]))?;
        assert!(wire.finish()?.iter().all(|frame| !frame.rst), "nothing resets");
        Ok(())
    })
}

#[test]
fn downloads_finish_on_a_server_at_weight_zero_under_nat() -> Result<()> {
    server_at_weight_zero(Mode::Nat)
}

#[test]
fn downloads_finish_on_a_server_at_weight_zero_under_direct_routing() -> Result<()> {
    server_at_weight_zero(Mode::Dr)
}

/// As in IPVS: a deleted server's packets are dropped in silence, and adding it again brings its connections back.
#[test]
fn a_deleted_server_is_silent_and_goes_on_when_it_is_added_again() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, |scene| {
        let wire = scene.lab.capture("client")?;
        let (mut downloads, sum) = slow_downloads(scene)?;
        let first = &scene.lab.servers[0].address;
        scene.director.lbctl(&format!("-d -t {SERVICE} -r {first}:80"))?;
        assert_eq!(share_of_first(scene, 10)?, 0, "new connections go elsewhere");
        all_running(&mut downloads)?;
        scene.director.lbctl(&format!("-a -t {SERVICE} -r {first}:80 -m -w 1"))?;
        downloads.into_iter().try_for_each(|download| download.arrives_whole(&sum))?;
        assert!(wire.finish()?.iter().all(|frame| !frame.rst), "nothing resets");
        Ok(())
    })
}

fn server_with_a_new_mac(mode: Mode) -> Result<()> {
    play(mode, Wire::AfPacket, |scene| {
        let (mut downloads, sum) = slow_downloads(scene)?;
        scene.lab.servers[0].change_mac("02:00:00:00:99:09")?;
        all_running(&mut downloads)?;
        downloads.into_iter().try_for_each(|download| download.arrives_whole(&sum))
    })
}

#[test]
fn a_download_goes_on_when_its_server_gets_a_new_mac_under_nat() -> Result<()> {
    server_with_a_new_mac(Mode::Nat)
}

#[test]
fn a_download_goes_on_when_its_server_gets_a_new_mac_under_direct_routing() -> Result<()> {
    server_with_a_new_mac(Mode::Dr)
}
