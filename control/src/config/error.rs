//! What can be wrong with a configuration file, in one line that says where, what, and what to do.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use dataplane::schedule::TableSizes;
use thiserror::Error;

use crate::refusal::Refusal;
use crate::suggest::nearest;

/// A configuration file that cannot be used. Prints as `director.toml:12: what is wrong; what to do`.
#[derive(Debug)]
pub struct ConfigError {
    file: PathBuf,
    line: Option<usize>,
    problem: Problem,
}

impl ConfigError {
    pub(super) fn new(file: &Path, problem: Problem) -> Self {
        Self { file: file.to_owned(), line: None, problem }
    }

    pub(super) fn at(file: &Path, text: &str, span: Option<Range<usize>>, problem: Problem) -> Self {
        let line = span.and_then(|s| text.get(..s.start)).map(|before| 1 + before.matches('\n').count());
        Self { file: file.to_owned(), line, problem }
    }

    pub(super) fn from_toml(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        Self::at(file, text, error.span(), Problem::from_toml(error.message()))
    }

    /// The line, counted from 1, where it is known.
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// What is wrong.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.problem),
            None => write!(f, "{}: {}", self.file.display(), self.problem),
        }
    }
}

impl std::error::Error for ConfigError {}

/// What is wrong with a configuration file, and what to do about it.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each message says what the variant is")]
pub enum Problem {
    #[error("cannot be read: {0}; does it exist, and may this user read it?")]
    Unreadable(String),
    #[error("{0}")]
    Syntax(String),
    #[error("unknown key \"{key}\"{}", suggest(.nearest))]
    UnknownKey { key: String, nearest: Option<String> },
    #[error("key \"{0}\" is missing; add it to this section")]
    MissingKey(String),
    #[error(
        "socket \"{0}\" is not an absolute path of at most 107 bytes; write it as \"/run/director/director.sock\""
    )]
    Socket(String),
    #[error("mode \"{0}\" is not an octal file mode; write it as \"0660\"")]
    Mode(String),
    #[error("{0} cannot be a user or a group; give a name in quotes, or a number from 0 to 4294967294")]
    Account(String),
    #[error("no cores for workers; add a section [workers] with cores = [{}]", .0.map_or("1".to_owned(), |c| c.to_string()))]
    NoCores(Option<usize>),
    #[error("{0}")]
    Mark(String),
    #[error("core {0} is listed twice; a worker needs a core of its own")]
    CoreTwice(i64),
    #[error(
        "core {core} is not on this machine or not in this process's affinity; choose from {}, or widen it (taskset, cpuset)",
        list(.usable)
    )]
    CoreUnusable { core: i64, usable: Vec<usize> },
    #[error("{key} = {value} is out of range; give a number from {min} to {max}")]
    Range { key: &'static str, value: i64, min: i64, max: i64 },
    #[error("{key} = {value} is no size that the table can have; give {}", slots(.key))]
    Slots { key: &'static str, value: i64 },
    #[error("{0}")]
    Sysctl(Refusal),
    #[error("no port; add at least one [[port]] with a name and a device")]
    NoPort,
    #[error("more than {0} ports; remove some")]
    TooManyPorts(usize),
    #[error("more than {0} VLANs; remove some")]
    TooManyVlans(usize),
    #[error("a bond needs members = [...], the devices that it is made of")]
    NoMembers,
    #[error("only a bond has members; give it device = \"net_bonding0,mode=4\"")]
    MembersWithoutBond,
    #[error("{0} is empty; give it a value")]
    Empty(&'static str),
    #[error("{what} \"{value}\" is already used by port \"{port}\"; each port needs its own")]
    Duplicate { what: &'static str, value: String, port: String },
    #[error(
        "\"{0}\" cannot name an interface: Linux takes 1 to 15 bytes without spaces, '/', ':' and '%'; set kernel_interface to such a name, or to false for none"
    )]
    InterfaceName(String),
    #[error("port \"{0}\" has addresses but no kernel interface to put them on; remove one of the two keys")]
    AddressesWithoutInterface(String),
    #[error("\"{0}\" is not an address with the length of its prefix; write it as \"198.51.100.8/24\"")]
    Network(String),
    #[error("\"{given}\" has bits set after its prefix; write it as \"{meant}\"")]
    HostBits { given: String, meant: ipnet::IpNet },
    #[error("\"{0}\" is not an IP address; write it as \"198.51.100.1\" or \"2001:db8::1\"")]
    Address(String),
    #[error("\"{0}\" cannot be a neighbour's address; give the address of one host")]
    NotAHost(String),
    #[error("\"{0}\" is not the MAC address of one host; write it as \"02:00:00:00:00:01\"")]
    Mac(String),
    #[error("an IPv6 destination cannot be reached by the IPv4 gateway {0}; give an IPv6 address")]
    GatewayFamily(std::net::IpAddr),
    #[error("packets to this prefix cannot have the source {0}; give an address of its family")]
    SourceFamily(std::net::IpAddr),
    #[error("no port is called \"{name}\"{}", suggest(.nearest))]
    UnknownPort { name: String, nearest: Option<String> },
    #[error(
        "port \"{port}\" has a kernel interface, so Linux decides; use \"{command}\", or set kernel_interface = false"
    )]
    LinuxDecides { port: String, command: String },
    #[error("{0} is given twice for the same port or prefix; remove one of them")]
    GivenTwice(String),
}

impl Problem {
    /// Serde's and TOML's own words, with the nearest known key where the key is what is wrong.
    fn from_toml(message: &str) -> Self {
        let mut quoted = message.split('`').skip(1).step_by(2).map(str::to_owned);
        if message.starts_with("unknown field") {
            if let Some(key) = quoted.next() {
                let nearest = nearest(&key, quoted);
                return Self::UnknownKey { key, nearest };
            }
        } else if message.starts_with("missing field")
            && let Some(key) = quoted.next()
        {
            return Self::MissingKey(key);
        }
        Self::Syntax(message.split('\n').map(str::trim).collect::<Vec<_>>().join("; "))
    }
}

fn suggest(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or("; docs/configuration.md lists what there is".to_owned(), |n| {
        format!("; did you mean \"{n}\"?")
    })
}

/// What a scheduler's table may have, in words.
fn slots(key: &str) -> String {
    match key {
        "mh_slots" => format!("one of {}", list(&TableSizes::MH_SLOTS)),
        _ => format!("a power of two from {} to {}", TableSizes::LEAST, TableSizes::MOST),
    }
}

fn list<N: ToString>(numbers: &[N]) -> String {
    numbers.iter().map(N::to_string).collect::<Vec<_>>().join(", ")
}
