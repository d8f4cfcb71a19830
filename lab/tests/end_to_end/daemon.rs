//! The daemon's life: it starts, refuses to start with a reason, and leaves nothing behind.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lab::director::{Configuration, director_binary, last_core, refused};
use lab::process::{Finished, run};
use lab::topology::VIP;
use lab::{Director, Lab, Mode, Wire};
use serde_json::{Value, json};

use crate::play;

/// All files under the lab's directory, but for what the lab itself writes.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let found = run("find", [directory.as_os_str(), "-type".as_ref(), "f,s,p".as_ref()])?;
    let ours = |path: &&str| {
        path.ends_with(".log") || path.ends_with("director.toml") || path.ends_with("notify.sock")
    };
    Ok(found.lines().filter(|path| !ours(path)).map(PathBuf::from).collect())
}

#[test]
fn a_clean_stop_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new(Mode::Nat)?;
    let before = (lab.director.interfaces()?, files(lab.directory())?);
    let director = Director::start(&lab, Wire::AfPacket)?;
    director.balance_http()?;
    lab.client.run(&format!("curl -sSf --max-time 10 http://{VIP}/"))?;
    let socket = director.socket().to_owned();
    assert!(socket.exists());
    director.stop()?;
    assert!(!socket.exists());
    assert_eq!((lab.director.interfaces()?, files(lab.directory())?), before);
    assert!(!Path::new("/var/run/dpdk").join(lab.id()).exists());

    // And it can start again in the same place.
    let director = Director::start(&lab, Wire::AfPacket)?;
    director.balance_http()?;
    lab.client.run(&format!("curl -sSf --max-time 10 http://{VIP}/"))?;
    director.stop()
}

#[test]
fn an_unclean_end_does_not_keep_the_next_director_from_starting() -> Result<()> {
    let lab = Lab::new(Mode::Nat)?;
    let mut director = Director::start(&lab, Wire::AfPacket)?;
    director.kill()?;
    let director = Director::start(&lab, Wire::AfPacket)?;
    director.balance_http()?;
    lab.client.run(&format!("curl -sSf --max-time 10 http://{VIP}/"))?;
    director.stop()
}

#[test]
fn it_goes_on_without_huge_pages() -> Result<()> {
    let lab = Lab::new(Mode::Nat)?;
    let mut configuration = Configuration::new(&lab, Wire::AfPacket)?;
    configuration.set("/eal/huge_pages", json!("auto"))?;
    let director = Director::start_with(&lab, &configuration)?;
    director.balance_http()?;
    lab.client.run(&format!("curl -sSf --max-time 10 http://{VIP}/"))?;
    director.stop()
}

/// It fails, its last line has all the words, and it is no panic.
fn assert_refusal(case: &str, done: &Finished, words: &[&str]) {
    assert!(!done.status.success(), "{case}: it started");
    let said = format!("{}{}", done.stdout, done.stderr);
    assert!(!said.contains("panicked"), "{case}: {said}");
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_lowercase();
    for word in words {
        assert!(last.contains(&word.to_lowercase()), "{case}: `{word}` is not in the last line of: {said}");
    }
}

#[test]
fn a_wrong_configuration_is_refused_with_the_reason() -> Result<()> {
    let lab = Lab::new(Mode::Nat)?;
    let core = last_core()?;
    anyhow::ensure!(core > 0, "this test needs two cores");
    let cases: [(&str, &str, Value, &[&str]); 7] = [
        ("unknown key", "/control/sockett", json!("/tmp/x"), &["sockett"]),
        ("unknown section", "/conections", json!({ "capacity": 1 }), &["conections"]),
        (
            "missing device",
            "/port/0/device",
            json!("net_af_packet0,iface=absent"),
            &["wan", "net_af_packet0"],
        ),
        ("core not there", "/workers/cores", json!([1000]), &["core", "1000"]),
        ("core used twice", "/workers/cores", json!([core, core]), &["core", "twice"]),
        ("too few queues", "/workers/cores", json!([core, core - 1]), &["queue"]),
        ("not an address", "/port/0/addresses", json!(["198.51.100.300/24"]), &["198.51.100.300/24"]),
    ];
    let interfaces = lab.director.interfaces()?;
    for (case, pointer, value, words) in cases {
        let mut configuration = Configuration::new(&lab, Wire::AfPacket)?;
        configuration.set(pointer, value).context(case)?;
        let done = refused(&lab.director, &configuration.write(&lab)?).context(case)?;
        assert_refusal(case, &done, words);
        assert_eq!(lab.director.interfaces()?, interfaces, "{case}: interfaces were left");
    }
    Ok(())
}

#[test]
fn a_missing_or_broken_file_is_refused_with_its_name() -> Result<()> {
    let lab = Lab::new(Mode::Nat)?;
    assert_refusal("missing", &refused(&lab.director, Path::new("/nowhere.toml"))?, &["/nowhere.toml"]);
    let file = lab.directory().join("broken.toml");
    std::fs::write(&file, "[control\n")?;
    let done = refused(&lab.director, &file)?;
    assert!(!done.status.success() && done.stderr.contains("broken.toml"), "{}", done.stderr);
    Ok(())
}

#[test]
fn a_second_director_on_the_same_socket_is_refused() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, |scene| {
        let configuration = Configuration::new(&scene.lab, Wire::AfPacket)?;
        let done = refused(&scene.lab.director, &configuration.write(&scene.lab)?)?;
        assert_refusal("same socket", &done, &[&scene.director.socket().display().to_string()]);
        scene.director.check_alive()?;
        scene.lab.client.run(&format!("curl -sSf --max-time 10 http://{VIP}/"))?;
        Ok(())
    })
}

#[test]
fn it_refuses_to_run_as_somebody_else_than_root() -> Result<()> {
    let lab = Lab::new(Mode::Nat)?;
    let file = Configuration::new(&lab, Wire::AfPacket)?.write(&lab)?;
    // Where it was built, others may not look; and /run is often mounted noexec.
    let place = std::env::temp_dir().join(lab.id());
    std::fs::create_dir(&place)?;
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755))?;
    let program = place.join("director");
    std::fs::copy(director_binary()?, &program)?;
    let line = format!(
        "setpriv --reuid=65534 --regid=65534 --clear-groups {} --config {}",
        program.display(),
        file.display()
    );
    let done = lab.director.try_run(&line);
    std::fs::remove_dir_all(&place)?;
    assert_refusal("nobody", &done?, &["root"]);
    Ok(())
}
