//! The synchronisation daemons as far as they are configuration: when one may start, and what it has when it does.
//!
//! The rules are those of `start_sync_thread()`.

use std::net::{IpAddr, Ipv4Addr};

use super::{Interfaces, ServiceTable};
use crate::model::{Family, SyncDaemon, SyncRole};
use crate::refusal::Refusal;

/// The group of a daemon that is given none (`IP_VS_SYNC_GROUP`).
const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 81));
/// The UDP port of a daemon that is given none (`IP_VS_SYNC_PORT`).
const PORT: u16 = 8848;
/// The MTU that a master reckons with, whatever its interface has.
const MASTER_MTU: u32 = 1500;
/// The least length of a message that a backup reads.
const BACKUP_LENGTH: u32 = 1024;

impl ServiceTable {
    pub(super) fn check_start(&self, daemon: &SyncDaemon, interfaces: Interfaces<'_>) -> Result<(), Refusal> {
        let mixed = self.services().any(|service| {
            let family = service.spec().service.family();
            self.destinations(service).any(|d| Family::from(d.spec().address) != family)
        });
        if mixed || daemon.group.is_some_and(|group| !group.is_multicast()) {
            return Err(Refusal::Invalid);
        }
        if interfaces(&daemon.interface).is_none() {
            return Err(Refusal::NoSuchDevice);
        }
        if self.daemons[daemon.role as usize].is_some() { Err(Refusal::DaemonExists) } else { Ok(()) }
    }

    pub(super) fn check_stop(&self, role: SyncRole) -> Result<(), Refusal> {
        self.daemons[role as usize].as_ref().map(drop).ok_or(Refusal::NoDaemon)
    }
}

/// The daemon with everything filled in that it was not given; `None` where its interface is gone.
pub(super) fn complete(daemon: &SyncDaemon, interfaces: Interfaces<'_>) -> Option<SyncDaemon> {
    let mtu = interfaces(&daemon.interface)?;
    let group = daemon.group.unwrap_or(GROUP);
    // IP and UDP headers.
    let headers = if group.is_ipv4() { 20 + 8 } else { 40 + 8 };
    let (mtu, least) = match daemon.role {
        SyncRole::Master => (MASTER_MTU, 1),
        SyncRole::Backup => (mtu.clamp(MASTER_MTU, 65535), BACKUP_LENGTH),
    };
    let length = match daemon.max_length.filter(|length| *length != 0) {
        Some(length) => u32::from(length).clamp(least, 65535 - headers),
        None => mtu - headers,
    };
    Some(SyncDaemon {
        max_length: Some(length as u16),
        group: Some(group),
        port: Some(daemon.port.filter(|port| *port != 0).unwrap_or(PORT)),
        ttl: Some(daemon.ttl.filter(|ttl| *ttl != 0).unwrap_or(1)),
        ..daemon.clone()
    })
}
