//! What goes over the socket: one JSON object a line, each way.
//!
//! The types here are the protocol; `docs/protocol.md` describes it for people and other languages. Reading a
//! line is strict: a request that says something this version does not know is refused, never half understood.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::local::LocalAddresses;
use crate::mark::MarkRule;
use crate::model::{
    Change, DestinationSpec, Rates, ServiceSpec, Stats, SyncDaemon, Timeouts, VirtualService,
};
use crate::refusal::Refusal;
use crate::running::{ConnectionRow, NetworkInfo, PortInfo, WorkerCounters};
use crate::snat::{SnatEntry, SnatRule};
use crate::sysctl;

/// The version of the protocol. A change that an old client or server would misread gets a new one.
pub const VERSION: u64 = 1;
/// The longest line a server reads, in bytes, newline included.
pub const MAX_LINE: usize = 1 << 20;
/// The longest line it reads from a peer that may change things: a transaction is as long as a configuration.
pub const MAX_CHANGING_LINE: usize = 64 << 20;
/// The most connections in one line of a reply.
pub const ROWS_PER_LINE: usize = 1000;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Make one change.
    Change(Change),
    /// Make several changes, each by itself: one that is refused does not keep the others from being made.
    Batch(Vec<Change>),
    /// Make several changes together: all of them, or none if one is refused.
    Transaction(Vec<Change>),
    /// List services with their destinations.
    Services {
        /// Only this one.
        #[serde(default)]
        service: Option<VirtualService>,
    },
    /// List connections.
    Connections,
    /// Show the timeouts.
    Timeouts,
    /// List synchronisation daemons.
    Daemons,
    /// List the marking rules.
    Marks,
    /// List the local addresses for FULLNAT.
    LocalAddresses,
    /// List the SNAT rules with what they have counted.
    Snat,
    /// List the sysctls.
    Sysctls,
    /// List the schedulers.
    Schedulers,
    /// Show routes and neighbours.
    Network,
    /// Show all that was configured.
    Configuration,
    /// Show the workers' counters.
    Counters,
    /// List ports.
    Ports,
    /// Show how the daemon is.
    Status,
}

impl Request {
    /// True if it may change something, which not every peer is allowed to.
    pub fn changes(&self) -> bool {
        matches!(self, Self::Change(_) | Self::Batch(_) | Self::Transaction(_))
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The change was made and every worker knows it.
    Done,
    /// What became of each change of a batch, in its order.
    Batch(Vec<Outcome>),
    /// Services.
    Services(Services),
    /// Connections, in one or several lines.
    Connections {
        /// Some of the connections.
        rows: Vec<ConnectionRow>,
        /// True if another line with the same id follows.
        more: bool,
    },
    /// Timeouts.
    Timeouts(Timeouts),
    /// Synchronisation daemons.
    Daemons(Vec<SyncDaemon>),
    /// Marking rules, in the order in which they are asked.
    Marks(Vec<MarkRule>),
    /// Local addresses, in the order in which they were added.
    LocalAddresses(Vec<LocalAddresses>),
    /// SNAT rules, in the order in which they are asked.
    Snat(Vec<SnatEntry>),
    /// Sysctls.
    Sysctls(Vec<SysctlEntry>),
    /// Schedulers.
    Schedulers(Vec<SchedulerEntry>),
    /// Routes and neighbours.
    Network(NetworkInfo),
    /// All that was configured.
    Configuration(Configuration),
    /// Workers' counters.
    Counters(Vec<WorkerCounters>),
    /// Ports.
    Ports(Vec<PortInfo>),
    /// The daemon's state.
    Status(Status),
}

/// What became of one change of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was made.
    Done,
    /// It was refused.
    Error(ErrorObject),
}

/// The answer to [`Request::Services`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// The number of buckets of the connection table.
    pub connection_buckets: usize,
    /// The services, in the table's order.
    pub services: Vec<ServiceEntry>,
}

/// A service with what it has counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEntry {
    /// What was configured.
    pub service: ServiceSpec,
    /// Counted since it was made or zeroed.
    pub stats: Stats,
    /// Per second.
    pub rates: Rates,
    /// Its destinations, the one added last first.
    pub destinations: Vec<DestinationEntry>,
}

/// A destination with what it has counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationEntry {
    /// What was configured.
    pub destination: DestinationSpec,
    /// Active connections.
    pub active: u32,
    /// Other connections.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// Counted since it was made or zeroed.
    pub stats: Stats,
    /// Per second.
    pub rates: Rates,
}

/// A sysctl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SysctlEntry {
    /// Its name in full.
    pub name: String,
    /// What it has.
    pub value: sysctl::Value,
    /// What it has to begin with.
    pub default: sysctl::Value,
    /// What it takes, in words.
    pub takes: String,
    /// The unit of the value; empty for none.
    pub unit: String,
    /// What it does, in words.
    pub description: String,
    /// False if nothing heeds it: it is kept for what director cannot do yet, or has no use for.
    pub acts: bool,
}

/// A scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerEntry {
    /// The name that `-s` takes.
    pub name: String,
    /// What it does, in words.
    pub description: String,
    /// The names of its flags.
    pub flags: Vec<String>,
}

/// All that was configured: what it takes to make the same table again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The services, the one added first first.
    pub services: Vec<ConfiguredService>,
    /// The timeouts.
    pub timeouts: Timeouts,
    /// The synchronisation daemons.
    pub daemons: Vec<SyncDaemon>,
    /// The sysctls that do not have their defaults, by name.
    pub sysctls: BTreeMap<String, sysctl::Value>,
    /// The marking rules, in the order in which they are asked.
    #[serde(default)]
    pub marks: Vec<MarkRule>,
    /// The local addresses for FULLNAT, in the order in which they were added.
    #[serde(default)]
    pub local_addresses: Vec<LocalAddresses>,
    /// The SNAT rules, in the order in which they are asked.
    #[serde(default)]
    pub snat: Vec<SnatRule>,
}

/// A service as it was configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfiguredService {
    /// The service.
    pub service: ServiceSpec,
    /// Its destinations, the one added first first.
    pub destinations: Vec<DestinationSpec>,
}

/// How the daemon is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Director's version.
    pub version: String,
    /// The daemon's process id.
    pub process: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Worker threads.
    pub workers: usize,
    /// Ports.
    pub ports: usize,
    /// Buckets of the connection table.
    pub connection_buckets: usize,
    /// Requests handled, this one included.
    pub requests: u64,
    /// The service table.
    pub table: TableCounts,
}

/// How full the service table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCounts {
    /// Services.
    pub services: usize,
    /// Destinations.
    pub destinations: usize,
    /// Deleted destinations that still hold their place.
    pub trashed_destinations: usize,
    /// Places for destinations.
    pub destination_limit: u32,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorObject {
    /// For programs: a stable name.
    pub code: String,
    /// For people.
    pub message: String,
    /// Of a transaction: which change was refused, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<usize>,
}

impl ErrorObject {
    /// An error of the protocol itself.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), change: None }
    }
}

impl From<&Refusal> for ErrorObject {
    fn from(refusal: &Refusal) -> Self {
        let change = match refusal {
            Refusal::At { change, .. } => Some(*change),
            _ => None,
        };
        Self { change, ..Self::new(refusal.code(), refusal.to_string()) }
    }
}

/// A line from a client.
#[derive(Clone, Debug, Serialize)]
pub struct RequestLine<'a> {
    /// [`VERSION`].
    pub version: u64,
    /// Comes back in the answer.
    pub id: u64,
    /// What is asked.
    pub request: &'a Request,
}

/// A line from the server. It has a reply or an error, never both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyLine {
    /// [`VERSION`].
    pub version: u64,
    /// The request's id; null if it had none or could not be read.
    pub id: Value,
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorObject>,
}

impl ReplyLine {
    /// The line that answers the request `id` with `result`.
    pub fn new(id: Value, result: Result<Reply, ErrorObject>) -> Self {
        let (reply, error) = match result {
            Ok(reply) => (Some(reply), None),
            Err(error) => (None, Some(error)),
        };
        Self { version: VERSION, id, reply, error }
    }
}

/// Reads one line: the id to answer to, and the request or what is wrong with it.
pub fn read_request(line: &[u8]) -> (Value, Result<Request, ErrorObject>) {
    let mut object = match serde_json::from_slice(line) {
        Ok(Value::Object(object)) => object,
        Ok(_) => {
            let error = ErrorObject::new("bad_request", "a request is one JSON object on one line");
            return (Value::Null, Err(error));
        }
        Err(e) => {
            return (Value::Null, Err(ErrorObject::new("bad_json", format!("this is not JSON: {e}"))));
        }
    };
    let id = object.remove("id").unwrap_or(Value::Null);
    if id.is_object() || id.is_array() {
        let error = ErrorObject::new("bad_request", "an id is a number or a string");
        return (Value::Null, Err(error));
    }
    let version = object.remove("version");
    if version.as_ref().and_then(Value::as_u64) != Some(VERSION) {
        let got = version.map_or("none".to_owned(), |v| v.to_string());
        let message =
            format!("this director speaks version {VERSION} of the protocol; the request has {got}");
        return (id, Err(ErrorObject::new("unsupported_version", message)));
    }
    let Some(request) = object.remove("request") else {
        return (id, Err(ErrorObject::new("bad_request", "the object has no \"request\"")));
    };
    if let Some(name) = object.keys().next() {
        let message = format!("unknown field {name:?}; a request has version, id and request");
        return (id, Err(ErrorObject::new("bad_request", message)));
    }
    let request = serde_json::from_value(request).map_err(|e| ErrorObject::new("bad_request", e.to_string()));
    (id, request)
}
