//! Debian's own scripts around ipvsadm, unchanged, with lbctl in ipvsadm's place.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Daemon, Printed, everything, finish};

const RULES: &str = "\
# ipvsadm.rules
-A -t 198.51.100.8:80 -s wrr -p 600

ipvsadm -a -t 198.51.100.8:80 -r 192.0.2.9:80 -m -w 3
#-a -t 198.51.100.8:80 -r 192.0.2.10:80 -m -w 3
  -A -f 7 -6 -s rr
";
const SAVED: &str = "\
-A -t 198.51.100.8:80 -s wrr -p 600
-a -t 198.51.100.8:80 -r 192.0.2.9:80 -m -w 3
-A -f 7 -6 -s rr
";

/// A machine of its own as far as files are concerned: /etc is a copy, and /sbin/ipvsadm is lbctl.
struct Machine {
    daemon: Daemon,
    directory: tempfile::TempDir,
}

impl Machine {
    /// `None`, with a word about it, where there is nothing to test with.
    fn new() -> Option<Self> {
        if !nix::unistd::Uid::effective().is_root() || !Path::new("/etc/init.d/ipvsadm").exists() {
            eprintln!("not run: needs root and Debian's package ipvsadm");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").args(["-a", "/etc"]).arg(directory.path().join("etc")).status();
        assert!(copied.unwrap().success());
        let machine = Self { daemon: Daemon::start(everything, |_| {}), directory };
        machine.write("ipvsadm.rules", RULES);
        machine.write("default/ipvsadm", "AUTO=\"true\"\nDAEMON=\"none\"\nIFACE=\"e1\"\n");
        Some(machine)
    }

    fn etc(&self, name: &str) -> PathBuf {
        self.directory.path().join("etc").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.etc(name), text).unwrap();
    }

    /// Runs `script` in sh on this machine.
    fn run(&self, script: &str, input: &str) -> Printed {
        let lbctl = self.directory.path().join("lbctl");
        std::fs::copy(env!("CARGO_BIN_EXE_lbctl"), &lbctl).unwrap();
        std::fs::set_permissions(&lbctl, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mounts = "mount --bind \"$1/etc\" /etc && mount --bind \"$1/lbctl\" /sbin/ipvsadm";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &format!("{mounts} && {script}"), "sh"]);
        command.arg(self.directory.path()).env("LBCTL_SOCKET", &self.daemon.socket);
        finish(command, input)
    }

    fn init(&self, word: &str) -> Printed {
        self.run(&format!("/etc/init.d/ipvsadm {word}"), "")
    }

    fn rules(&self) -> String {
        self.daemon.command("ipvsadm", &["-Sn".to_owned()], "").out
    }
}

#[test]
fn the_init_script_loads_shows_saves_and_clears() {
    let Some(machine) = Machine::new() else { return };
    let started = machine.init("start");
    assert_eq!((started.err.as_str(), started.status), ("", 0), "{}", started.out);
    assert!(started.out.contains("Loading IPVS configuration...done"), "{}", started.out);
    assert_eq!(machine.rules(), SAVED);
    let status = machine.init("status").out;
    assert!(status.contains("TCP  198.51.100.8:80 wrr persistent 600\n  -> 192.0.2.9:80 "), "{status}");
    assert!(machine.init("rate").out.contains("InPPS"));

    machine.daemon.lbctl("-e -t 198.51.100.8:80 -r 192.0.2.9:80 -m -w 4");
    assert_eq!(machine.init("save").err, "");
    let saved = format!("# ipvsadm.rules\n{}", SAVED.replace("-w 3", "-w 4"));
    assert_eq!(std::fs::read_to_string(machine.etc("ipvsadm.rules")).unwrap(), saved);
    assert_eq!((machine.init("stop").status, machine.rules().as_str()), (0, ""));
    assert_eq!((machine.init("load").status, machine.rules()), (0, SAVED.replace("-w 3", "-w 4")));
    assert_eq!((machine.init("reload").status, machine.rules()), (0, SAVED.replace("-w 3", "-w 4")));
    machine.daemon.stop();
}

#[test]
fn the_init_script_starts_and_stops_synchronisation() {
    let Some(machine) = Machine::new() else { return };
    machine.write("default/ipvsadm", "AUTO=\"false\"\nDAEMON=\"both\"\nIFACE=\"e1\"\nSYNCID=\"7\"\n");
    let daemons = || machine.daemon.command("ipvsadm", &["-L".to_owned(), "--daemon".to_owned()], "").out;
    assert_eq!(machine.init("start").err, "");
    assert_eq!(daemons().lines().filter(|line| line.contains("(mcast=e1, syncid=7, ")).count(), 2);
    assert_eq!(machine.init("start").err, "Daemon has already run\nDaemon has already run\n");
    assert_eq!((machine.init("stop").err.as_str(), daemons().as_str()), ("", ""));
    machine.daemon.stop();
}

#[test]
fn the_packages_save_and_restore_work_with_lbctl_too() {
    let Some(machine) = Machine::new() else { return };
    let restored = machine.run("ipvsadm-restore", RULES);
    assert_eq!((restored.err.as_str(), restored.status), ("", 0));
    assert_eq!(machine.run("ipvsadm-save -n", "").out, SAVED);
    // Ours are the same under their names.
    assert_eq!(machine.daemon.command("ipvsadm-restore", &[], RULES).err, "");
    assert_eq!(machine.daemon.command("ipvsadm-save", &["-n".to_owned()], "").out, SAVED);
    assert_eq!(machine.daemon.command("ipvsadm-save", &["-x".to_owned()], "").status, 1);
    // What is restored may be what is saved: the table is not cleared while it is still being read.
    let through = "ln -s lbctl $1/ipvsadm && ln -s lbctl $1/ipvsadm-restore && \
                   (sleep 0.3; $1/ipvsadm -Sn) | $1/ipvsadm-restore";
    assert_eq!(machine.run(through, "").err, "");
    assert_eq!(machine.rules(), SAVED);
    machine.daemon.stop();
}
