//! What IPVS can do and director's dataplane cannot yet. The only place that says so.
//!
//! Each test here goes away with the work that makes it untrue. A change is tested before anything is done, and
//! only if IPVS itself would take it, so that wrong use is answered as IPVS answers it.

use crate::model::Change;
use crate::refusal::Refusal;

/// The sysctls that nothing heeds: those of the synchronisation, for which they are kept, and one that is netfilter's, which no packet
/// passes here. All others act.
const KEPT: [&str; 10] = [
    "backup_only",
    "conntrack",
    "sync_persist_mode",
    "sync_ports",
    "sync_qlen_max",
    "sync_refresh_period",
    "sync_retries",
    "sync_sock_size",
    "sync_threshold",
    "sync_version",
];

/// Whether anything heeds the sysctl of this name.
pub fn acts(sysctl: &str) -> bool {
    !KEPT.contains(&sysctl)
}

/// Whether the dataplane can do what `change` asks for.
pub fn check(change: &Change) -> Result<(), Refusal> {
    match change {
        Change::StartDaemon(_) => Err(not_yet("synchronise connections")),
        _ => Ok(()),
    }
}

fn not_yet(what: &str) -> Refusal {
    Refusal::Unsupported(format!("director does not {what} yet"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Protocol, ServiceSpec, SyncDaemon, SyncRole, VirtualService};
    use crate::sysctl;

    #[test]
    fn what_is_refused_says_what() {
        let daemon = SyncDaemon {
            role: SyncRole::Backup,
            interface: "eth1".into(),
            sync_id: 0,
            max_length: None,
            group: None,
            port: None,
            ttl: None,
        };
        let message = check(&Change::StartDaemon(daemon)).unwrap_err().to_string();
        assert_eq!(message, "director does not synchronise connections yet");
        let address = "198.51.100.1".parse().unwrap();
        let service = VirtualService::Address { protocol: Protocol::Tcp, address, port: 80 };
        assert_eq!(check(&Change::AddService(ServiceSpec::new(service))), Ok(()));
    }

    #[test]
    fn what_is_kept_is_a_sysctl() {
        assert!(KEPT.iter().all(|name| sysctl::find(name).is_some()));
        assert!(acts("cache_bypass") && !acts("conntrack"));
    }
}
