//! Why a change was not made: IPVS's errors, in the words ipvsadm has for them.
//!
//! One variant per message, so that a client can tell them apart by their code and a person sees what ipvsadm
//! would have said.

use crate::suggest::did_you_mean;

/// Why a request was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A service of that address or mark exists.
    #[error("Service already exists")]
    ServiceExists,
    /// The service to be changed, deleted or listed does not exist.
    #[error("No such service")]
    NoSuchService,
    /// The service of the destination in question does not exist.
    #[error("Service not defined")]
    ServiceNotDefined,
    /// The service has that destination already.
    #[error("Destination already exists")]
    DestinationExists,
    /// The service has no such destination.
    #[error("No such destination")]
    NoSuchDestination,
    /// IPVS has no scheduler or no persistence engine of that name.
    #[error("Scheduler or persistence engine not found")]
    SchedulerNotFound,
    /// A lower threshold above the upper one, or a weight beyond 2147483647.
    #[error("Numerical result out of range")]
    OutOfRange,
    /// Something else that IPVS does not take, such as a destination that is no unicast address.
    #[error("Invalid operation.  Possibly wrong module version, address not unicast, ...")]
    Invalid,
    /// No room for another destination: the table was made for so many.
    #[error("Memory allocation problem")]
    NoMemory,
    /// A daemon of that role runs already.
    #[error("Daemon has already run")]
    DaemonExists,
    /// Linux has no network interface of that name.
    #[error("No such device")]
    NoSuchDevice,
    /// There is no sysctl of that name.
    #[error("there is no sysctl {name}{}", did_you_mean(.nearest))]
    NoSuchSysctl {
        /// As it was given.
        name: String,
        /// A known one that is spelt nearly so.
        nearest: Option<String>,
    },
    /// The sysctl does not take that value.
    #[error("{name} cannot be {value}: {takes}")]
    BadSysctl {
        /// The sysctl, in full.
        name: String,
        /// As it was given.
        value: String,
        /// What it takes.
        takes: String,
    },
    /// That marking rule is there already.
    #[error("Marking rule already exists")]
    MarkExists,
    /// There is no such marking rule.
    #[error("No such marking rule")]
    NoSuchMark,
    /// The marking rule makes no sense.
    #[error("Not a marking rule: {0}")]
    BadMark(&'static str),
    /// Those local addresses are there already.
    #[error("Local address already exists")]
    LocalAddressExists,
    /// There are no such local addresses.
    #[error("No such local address")]
    NoSuchLocalAddress,
    /// Those cannot be local addresses.
    #[error("Not a local address: {0}")]
    BadLocalAddress(&'static str),
    /// That SNAT rule is there already.
    #[error("SNAT rule already exists")]
    SnatExists,
    /// There is no such SNAT rule.
    #[error("No such SNAT rule")]
    NoSuchSnat,
    /// The SNAT rule makes no sense.
    #[error("Not a SNAT rule: {0}")]
    BadSnat(&'static str),
    /// Director has no port of that name.
    #[error("director has no port {0} (lbctl ports)")]
    NoSuchPort(String),
    /// There is no daemon to stop.
    #[error("No daemon is running")]
    NoDaemon,
    /// The peer may only read.
    #[error("Permission denied (you must be root)")]
    PermissionDenied,
    /// IPVS could do it, director cannot yet.
    #[error("{0}")]
    Unsupported(String),
    /// One change of several that are made together or not at all.
    #[error("{reason}")]
    At {
        /// Which of them, counted from 0.
        change: usize,
        /// Why.
        reason: Box<Refusal>,
    },
    /// The workers could not be given the new configuration; the old one is still in force.
    #[error("the dataplane did not take the change: {0}")]
    NotPublished(String),
}

impl Refusal {
    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ServiceExists => "service_exists",
            Self::NoSuchService => "no_such_service",
            Self::ServiceNotDefined => "service_not_defined",
            Self::DestinationExists => "destination_exists",
            Self::NoSuchDestination => "no_such_destination",
            Self::SchedulerNotFound => "scheduler_not_found",
            Self::OutOfRange => "out_of_range",
            Self::Invalid => "invalid",
            Self::NoMemory => "no_memory",
            Self::DaemonExists => "daemon_exists",
            Self::NoSuchDevice => "no_such_device",
            Self::NoSuchSysctl { .. } => "no_such_sysctl",
            Self::BadSysctl { .. } => "bad_sysctl",
            Self::MarkExists => "mark_exists",
            Self::NoSuchMark => "no_such_mark",
            Self::BadMark(_) => "bad_mark",
            Self::LocalAddressExists => "local_address_exists",
            Self::NoSuchLocalAddress => "no_such_local_address",
            Self::BadLocalAddress(_) => "bad_local_address",
            Self::SnatExists => "snat_exists",
            Self::NoSuchSnat => "no_such_snat",
            Self::BadSnat(_) => "bad_snat",
            Self::NoSuchPort(_) => "no_such_port",
            Self::NoDaemon => "no_daemon",
            Self::PermissionDenied => "permission_denied",
            Self::Unsupported(_) => "unsupported",
            Self::At { reason, .. } => reason.code(),
            Self::NotPublished(_) => "not_published",
        }
    }
}
