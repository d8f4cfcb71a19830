//! What DPDK's environment abstraction layer is started with: cores, memory, devices.

use anyhow::{Context, bail};
use control::config::{Config, HugePages};
use dpdk_sys::Eal;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tracing::warn;

use crate::ports;

/// Starts the EAL for the workers and ports of `config`. The calling thread, and the threads it starts from now on, run
/// on those of `cores` that no worker has.
pub fn start(config: &Config, cores: &[usize]) -> anyhow::Result<Eal> {
    let control = control_cores(config, cores);
    keep_to(&control)?;
    let arguments = arguments(config, &control)?;
    tracing::debug!(?arguments, "starting the EAL");
    Eal::init(&arguments).context("DPDK does not start; its own words are above")
}

/// Keeps this process to `cores`: the EAL puts its own threads on those of the process that it was not told of.
fn keep_to(cores: &[usize]) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    let all = cores.iter().try_for_each(|core| set.set(*core));
    all.and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).context("cannot keep off the workers' cores")
}

fn arguments(config: &Config, control: &[usize]) -> anyhow::Result<Vec<String>> {
    let mut arguments = config.eal.arguments.clone();
    let given = |names: &[&str]| {
        let is = |argument: &String, name: &str| {
            argument == name || argument.strip_prefix(name).is_some_and(|rest| rest.starts_with('='))
        };
        config.eal.arguments.iter().any(|argument| names.iter().any(|name| is(argument, name)))
    };
    if !given(&["-l", "-c", "--lcores"]) {
        arguments.extend(["--lcores".into(), format!("0@({})", list(control))]);
    }
    // Its socket would outlive us: the library that makes it removes it only when the process exits.
    if !given(&["--telemetry", "--no-telemetry"]) {
        arguments.push("--no-telemetry".into());
    }
    if given(&["--no-huge"]) && config.eal.huge_pages == HugePages::Require {
        bail!(
            "[eal] huge_pages = \"require\" and --no-huge in its arguments contradict each other; remove one"
        );
    }
    let huge_pages = !given(&["--no-huge"]) && wants_huge_pages(config.eal.huge_pages)?;
    if huge_pages {
        // Nothing is left behind in the file system, and no hugetlbfs need be mounted.
        if !given(&["--in-memory", "--file-prefix", "--huge-dir", "--proc-type"]) {
            arguments.push("--in-memory".into());
        }
    } else {
        // The EAL refuses these two together. Without huge pages it has no files in memory anyway.
        arguments.retain(|argument| argument != "--in-memory");
        if !given(&["--no-huge"]) {
            arguments.push("--no-huge".into());
        }
        if !given(&["--no-shconf"]) {
            arguments.push("--no-shconf".into());
        }
        if !given(&["-m", "--memory"]) {
            arguments.extend(["-m".into(), ports::memory(config).to_string()]);
        }
    }
    let is_pci = |device: &str| device.split(',').next().is_some_and(|name| name.contains(':'));
    let mut pci = config.ports.iter().map(|port| &port.device).filter(|device| is_pci(device)).peekable();
    if !given(&["--no-pci", "-a", "--allow", "-b", "--block"]) {
        // Other devices are other programs' business.
        if pci.peek().is_none() {
            arguments.push("--no-pci".into());
        }
        arguments.extend(pci.flat_map(|device| ["-a".into(), device.clone()]));
    }
    Ok(arguments)
}

/// The cores for everything but workers. Where workers have all, they are shared.
fn control_cores(config: &Config, cores: &[usize]) -> Vec<usize> {
    let free: Vec<_> = cores.iter().copied().filter(|core| !config.cores.contains(core)).collect();
    if free.is_empty() { cores.to_vec() } else { free }
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn wants_huge_pages(wish: HugePages) -> anyhow::Result<bool> {
    if wish == HugePages::Off {
        return Ok(false);
    }
    let free = dpdk_sys::free_huge_pages();
    match wish {
        _ if free > 0 => Ok(true),
        HugePages::Require => bail!(
            "there are no free huge pages, and [eal] huge_pages = \"require\"; \
             reserve some (echo 1024 > /proc/sys/vm/nr_hugepages)"
        ),
        _ => {
            warn!(
                "there are no free huge pages; going on without, which costs speed \
                 (echo 1024 > /proc/sys/vm/nr_hugepages reserves some)"
            );
            Ok(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn arguments_for(eal: &str, devices: &[&str]) -> Vec<String> {
        let ports = devices.iter().enumerate();
        let ports = ports.map(|(n, device)| format!("[[port]]\nname = \"p{n}\"\ndevice = \"{device}\"\n"));
        let text = format!("[eal]\n{eal}\n[workers]\ncores = [1]\n{}", ports.collect::<String>());
        let config = Config::parse(&text, Path::new("test.toml"), &[0, 1, 3]).unwrap();
        arguments(&config, &control_cores(&config, &[0, 1, 3])).unwrap()
    }

    #[test]
    fn without_huge_pages_memory_is_asked_for_by_size() {
        let arguments = arguments_for("huge_pages = \"off\"\narguments = [\"--in-memory\"]", &["net_null0"]);
        let memory = arguments.iter().position(|a| a == "-m").unwrap();
        assert!(arguments[memory + 1].parse::<u32>().unwrap() >= 64);
        for expected in ["--no-huge", "--no-shconf", "--no-pci"] {
            assert!(arguments.iter().any(|a| a == expected), "{expected}: {arguments:?}");
        }
        assert!(!arguments.iter().any(|a| a == "--in-memory"), "{arguments:?}");
    }

    #[test]
    fn only_the_ports_of_the_file_are_taken() {
        let arguments =
            arguments_for("huge_pages = \"off\"", &["0000:3b:00.0", "net_null0", "0000:3b:00.1,x=1"]);
        let text = arguments.join(" ");
        assert!(text.contains("-a 0000:3b:00.0 -a 0000:3b:00.1,x=1"), "{text}");
        assert!(!text.contains("--no-pci"), "{text}");
    }

    #[test]
    fn what_the_file_says_is_not_said_twice() {
        let arguments = arguments_for(
            "huge_pages = \"off\"\narguments = [\"-m\", \"99\", \"--lcores=0@2\"]",
            &["net_null0"],
        );
        assert_eq!(arguments.iter().filter(|a| *a == "-m").count(), 1);
        assert!(!arguments.iter().any(|a| a == "--lcores"));
    }

    #[test]
    fn control_keeps_off_the_workers_cores() {
        let arguments = arguments_for("huge_pages = \"off\"", &["net_null0"]);
        let lcores = arguments.iter().position(|a| a == "--lcores").unwrap();
        assert_eq!(arguments[lcores + 1], "0@(0,3)");
    }
}
