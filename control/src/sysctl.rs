//! IPVS's sysctls: the one table of their names, defaults, ranges and meanings.
//!
//! Names and ranges are those of the kernel's `net.ipv4.vs`, so that whatever it takes is taken here. This module must
//! not say which of them the dataplane heeds; [`crate::supported`] does.

use std::fmt;

use dataplane::sysctl::Sysctls;
use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;
use crate::suggest::nearest;

/// What the kernel puts before every name.
pub const PREFIX: &str = "net.ipv4.vs.";

/// What a sysctl holds: a number, or the two of `sync_threshold`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, or two in brackets")]
pub enum Value {
    /// One number.
    Number(i64),
    /// Two numbers.
    Pair([i64; 2]),
}

impl fmt::Display for Value {
    /// As sysctl(8) prints it: the numbers of a pair with a tabulator between them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => n.fmt(f),
            Self::Pair([a, b]) => write!(f, "{a}\t{b}"),
        }
    }
}

impl std::str::FromStr for Value {
    type Err = NoValue;

    /// One whole decimal number, or two with white space between them.
    fn from_str(text: &str) -> Result<Self, NoValue> {
        let numbers: Result<Vec<i64>, _> = text.split_whitespace().map(str::parse).collect();
        match numbers.as_deref() {
            Ok([n]) => Ok(Self::Number(*n)),
            Ok([a, b]) => Ok(Self::Pair([*a, *b])),
            _ => Err(NoValue(text.to_owned())),
        }
    }
}

/// The text is no value of a sysctl.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a value: give a whole number, or two for sync_threshold")]
pub struct NoValue(String);

/// What a sysctl takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// A number of this range, ends included.
    Range(i64, i64),
    /// A power of two up to this.
    PowerOfTwo(i64),
    /// Two numbers of at least 0, the first below the second or the second 0.
    Threshold,
}

const I32: Takes = Takes::Range(i32::MIN as i64, i32::MAX as i64);
/// 0, 1 or 2 (when memory is scarce), 3.
const MODE: Takes = Takes::Range(0, 3);
/// The kernel counts them in jiffies, of which there are 250 a second, in an int.
const SECONDS: Takes = Takes::Range(-(i32::MAX as i64 / 250), i32::MAX as i64 / 250);

impl fmt::Display for Takes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(least, most) => write!(f, "it takes a number from {least} to {most}"),
            Self::PowerOfTwo(most) => write!(f, "it takes a power of two from 1 to {most}"),
            Self::Threshold => {
                f.write_str("it takes two numbers of at least 0, the first below the second, or the second 0")
            }
        }
    }
}

impl Takes {
    fn takes(self, value: Value) -> bool {
        match (self, value) {
            (Self::Range(least, most), Value::Number(n)) => (least..=most).contains(&n),
            (Self::PowerOfTwo(most), Value::Number(n)) => {
                (1..=most).contains(&n) && n.unsigned_abs().is_power_of_two()
            }
            (Self::Threshold, Value::Pair([first, period])) => {
                let int = 0..=i64::from(i32::MAX);
                int.contains(&first) && int.contains(&period) && (first < period || period == 0)
            }
            _ => false,
        }
    }
}

/// A sysctl.
#[derive(Debug)]
pub struct Definition {
    /// Its name, without [`PREFIX`].
    pub name: &'static str,
    /// What it has to begin with.
    pub default: Value,
    /// What it takes.
    pub takes: Takes,
    /// The unit of its value; empty for none.
    pub unit: &'static str,
    /// What it does, in a few words.
    pub what: &'static str,
    /// Puts a value, which must be one it takes, where workers look for it.
    publish: fn(&mut Sysctls, Value),
}

const fn define(
    name: &'static str,
    default: i64,
    takes: Takes,
    unit: &'static str,
    what: &'static str,
    publish: fn(&mut Sysctls, Value),
) -> Definition {
    Definition { name, default: Value::Number(default), takes, unit, what, publish }
}

impl Value {
    fn number(self) -> i64 {
        match self {
            Self::Number(n) | Self::Pair([n, _]) => n,
        }
    }
    fn is_set(self) -> bool {
        self.number() != 0
    }
    fn int(self) -> i32 {
        self.number() as i32
    }
    fn small(self) -> u8 {
        self.number() as u8
    }
}

/// How many there are.
const COUNT: usize = 29;

/// Every sysctl, by name.
#[rustfmt::skip]
pub static DEFINITIONS: [Definition; COUNT] = [
    define("am_droprate", 10, I32, "packets", "one packet in so many is dropped while drop_packet is 3", |s, v| s.am_droprate = v.int()),
    define("amemthresh", 1024, I32, "pages", "memory left for connections below which it is scarce, for modes 1 and 2 of drop_entry, drop_packet and secure_tcp", |s, v| s.amemthresh = v.int()),
    define("backup_only", 0, I32, "", "1: a synchronisation backup leaves packets alone (there is none yet)", |s, v| s.backup_only = v.is_set()),
    define("cache_bypass", 0, I32, "", "1: without a destination, a packet for a service by mark goes on to its own address", |s, v| s.cache_bypass = v.is_set()),
    define("conn_reuse_mode", 1, I32, "", "0: a SYN on an existing connection belongs to it; 1: is scheduled anew after its end; 3: also after the client's end, where replies go past director", |s, v| s.conn_reuse_mode = v.int()),
    define("conntrack", 0, I32, "", "1: netfilter tracks the connections (it sees none of them here)", |s, v| s.conntrack = v.is_set()),
    define("drop_entry", 0, MODE, "", "dropping of connections: 0 never, 1 and 2 when memory is scarce, 3 always", |s, v| s.drop_entry = v.small()),
    define("drop_packet", 0, MODE, "", "dropping of packets: 0 never, 1 and 2 when memory is scarce, 3 always", |s, v| s.drop_packet = v.small()),
    define("expire_nodest_conn", 0, I32, "", "1: connections end when their destination is deleted, and at a SYN while it has weight 0", |s, v| s.expire_nodest_conn = v.is_set()),
    define("expire_quiescent_template", 0, I32, "", "1: persistence ends with a destination's weight", |s, v| s.expire_quiescent_template = v.is_set()),
    define("ignore_tunneled", 0, I32, "", "1: packets that came by a tunnel are not balanced (nor are they otherwise: Linux has them)", |s, v| s.ignore_tunneled = v.is_set()),
    define("lblc_expiration", 86_400, SECONDS, "seconds", "life of an entry of lblc's table", |s, v| s.lblc_expiration = v.int()),
    define("lblcr_expiration", 86_400, SECONDS, "seconds", "life of an entry of lblcr's table", |s, v| s.lblcr_expiration = v.int()),
    define("nat_icmp_send", 0, I32, "", "1: a server by NAT is told of its packets that belong to no connection", |s, v| s.nat_icmp_send = v.is_set()),
    define("pmtu_disc", 1, I32, "", "0: no path MTU discovery for what is tunnelled", |s, v| s.pmtu_disc = v.is_set()),
    define("run_estimation", 1, I32, "", "0: statistics and rates are not summed up and stay as they are", |s, v| s.run_estimation = v.is_set()),
    define("schedule_icmp", 0, I32, "", "1: ICMP errors about packets of no connection are scheduled", |s, v| s.schedule_icmp = v.is_set()),
    define("secure_tcp", 0, MODE, "", "strict TCP states: 0 never, 1 and 2 when memory is scarce, 3 always", |s, v| s.secure_tcp = v.small()),
    define("sloppy_sctp", 0, I32, "", "1: an SCTP connection may begin with any chunk", |s, v| s.sloppy_sctp = v.is_set()),
    define("sloppy_tcp", 0, I32, "", "1: a TCP connection may begin with any segment", |s, v| s.sloppy_tcp = v.is_set()),
    define("snat_reroute", 1, I32, "", "0: a masqueraded reply of a real server on this host goes where Linux has routed it, and not by its virtual address", |s, v| s.snat_reroute = v.is_set()),
    define("sync_persist_mode", 0, I32, "", "1: templates are synchronised without their connections", |s, v| s.sync_persist_mode = v.is_set()),
    define("sync_ports", 1, Takes::PowerOfTwo(1 << 30), "threads", "threads and UDP ports of the synchronisation", |s, v| s.sync_ports = v.int() as u32),
    define("sync_qlen_max", 7157, Takes::Range(0, i64::MAX), "messages", "messages that may wait to be sent", |s, v| s.sync_qlen_max = v.number() as u64),
    define("sync_refresh_period", 0, SECONDS, "seconds", "a connection is synchronised anew after this; 0: never", |s, v| s.sync_refresh_period = v.int()),
    define("sync_retries", 0, Takes::Range(0, 3), "", "further attempts at sending a connection", |s, v| s.sync_retries = v.small()),
    define("sync_sock_size", 0, I32, "bytes", "buffer of the synchronisation's socket; 0: the system's", |s, v| s.sync_sock_size = v.int()),
    Definition { name: "sync_threshold", default: Value::Pair([3, 50]), takes: Takes::Threshold, unit: "packets", what: "packets before a connection is synchronised, and the period after that", publish: |s, v| if let Value::Pair([a, b]) = v { s.sync_threshold = (a as u32, b as u32) } },
    define("sync_version", 1, Takes::Range(0, 1), "", "version of the synchronisation's messages", |s, v| s.sync_version = v.small()),
];

/// The sysctl `name`, which may have [`PREFIX`] before it, with dots or slashes.
pub fn find(name: &str) -> Option<&'static Definition> {
    index(name).map(|i| &DEFINITIONS[i])
}

fn index(name: &str) -> Option<usize> {
    let dotted = name.replace('/', ".");
    let short = dotted.strip_prefix(PREFIX).unwrap_or(&dotted);
    DEFINITIONS.iter().position(|d| d.name == short)
}

/// The refusal of a name that no sysctl has.
pub fn unknown(name: &str) -> Refusal {
    let short = name.strip_prefix(PREFIX).unwrap_or(name);
    Refusal::NoSuchSysctl {
        name: name.to_owned(),
        nearest: nearest(short, DEFINITIONS.iter().map(|d| d.name)),
    }
}

/// A value for every sysctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values([Value; COUNT]);

impl Default for Values {
    fn default() -> Self {
        Self(std::array::from_fn(|i| DEFINITIONS[i].default))
    }
}

impl Values {
    /// Sets `name`, or refuses a name or a value that the kernel would refuse.
    pub fn set(&mut self, name: &str, value: Value) -> Result<(), Refusal> {
        let i = index(name).ok_or_else(|| unknown(name))?;
        let Definition { name, takes, .. } = &DEFINITIONS[i];
        if !takes.takes(value) {
            let name = format!("{PREFIX}{name}");
            let value = value.to_string().replace('\t', " ");
            return Err(Refusal::BadSysctl { name, value, takes: takes.to_string() });
        }
        self.0[i] = value;
        Ok(())
    }

    /// Turns an automatic mode of defence into the one of 1 and 2 that says whether memory is scarce, as the kernel does
    /// every second.
    pub fn follow_memory(&mut self, is_scarce: bool) {
        for mode in ["drop_entry", "drop_packet", "secure_tcp"].into_iter().filter_map(index) {
            if matches!(self.0[mode], Value::Number(1 | 2)) {
                self.0[mode] = Value::Number(1 + i64::from(is_scarce));
            }
        }
    }

    /// What `name` has.
    pub fn get(&self, name: &str) -> Option<Value> {
        index(name).map(|i| self.0[i])
    }

    /// Each sysctl with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Definition, Value)> {
        DEFINITIONS.iter().zip(self.0)
    }

    /// As workers are to see them.
    pub fn for_workers(&self) -> Sysctls {
        let mut sysctls = Sysctls::default();
        self.iter().for_each(|(definition, value)| (definition.publish)(&mut sysctls, value));
        sysctls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_defaults_are_those_of_a_kernel() {
        let recorded = include_str!("../tests/data/sysctl.txt");
        let recorded: Vec<_> = recorded.lines().filter(|line| line.starts_with(PREFIX)).collect();
        let ours: Vec<_> =
            Values::default().iter().map(|(d, value)| format!("{PREFIX}{} = {value}", d.name)).collect();
        assert_eq!(ours, recorded);
    }

    #[test]
    fn workers_begin_with_the_same_defaults_and_see_every_change() {
        assert_eq!(Values::default().for_workers(), Sysctls::default());
        for (i, definition) in DEFINITIONS.iter().enumerate() {
            let mut values = Values::default();
            let other = match definition.takes {
                Takes::Threshold => Value::Pair([1, 2]),
                Takes::PowerOfTwo(_) => Value::Number(8),
                Takes::Range(..) => Value::Number(if definition.default == Value::Number(0) { 1 } else { 0 }),
            };
            values.set(definition.name, other).unwrap();
            assert_ne!(values.for_workers(), Sysctls::default(), "{}", definition.name);
            assert_eq!(values.0[i], other);
        }
    }

    #[test]
    fn automatic_modes_show_whether_memory_is_scarce() {
        for (set, scarce, shown) in
            [(0, true, 0), (1, true, 2), (1, false, 1), (2, true, 2), (2, false, 1), (3, false, 3)]
        {
            let mut values = Values::default();
            for name in ["drop_entry", "drop_packet", "secure_tcp", "sync_version"] {
                let _ = values.set(name, Value::Number(set));
            }
            values.follow_memory(scarce);
            for name in ["drop_entry", "drop_packet", "secure_tcp"] {
                assert_eq!(values.get(name), Some(Value::Number(shown)), "{name} {set} {scarce}");
            }
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_refused() {
        let mut values = Values::default();
        let cases = [
            ("drop_entry", Value::Number(4), false),
            ("drop_packet", Value::Number(-1), false),
            ("net.ipv4.vs.secure_tcp", Value::Number(3), true),
            ("net/ipv4/vs/sloppy_tcp", Value::Number(-7), true),
            ("sloppy_tcp", Value::Number(1 << 31), false),
            ("sloppy_tcp", Value::Pair([1, 2]), false),
            ("sync_ports", Value::Number(3), false),
            ("sync_ports", Value::Number(0), false),
            ("sync_ports", Value::Number(4), true),
            ("sync_retries", Value::Number(4), false),
            ("sync_version", Value::Number(2), false),
            ("sync_threshold", Value::Number(3), false),
            ("sync_threshold", Value::Pair([50, 3]), false),
            ("sync_threshold", Value::Pair([50, 0]), true),
            ("sync_threshold", Value::Pair([-1, 3]), false),
            ("lblc_expiration", Value::Number(8_589_935), false),
        ];
        for (name, value, taken) in cases {
            assert_eq!(values.set(name, value).is_ok(), taken, "{name} = {value}");
        }
        assert_eq!(values.get("sync_threshold"), Some(Value::Pair([50, 0])));
        let message = |name: &str, value: i64| {
            Values::default().set(name, Value::Number(value)).unwrap_err().to_string()
        };
        assert_eq!(message("drop_entyr", 1), "there is no sysctl drop_entyr; did you mean drop_entry?");
        assert_eq!(
            message("drop_entry", 9),
            "net.ipv4.vs.drop_entry cannot be 9: it takes a number from 0 to 3"
        );
        assert_eq!("3 50".parse(), Ok(Value::Pair([3, 50])));
        assert!("".parse::<Value>().is_err() && "x".parse::<Value>().is_err());
    }
}
