//! The configuration file as it is written: every key with the place it was read from, nothing checked but its type.
//!
//! It exists so that [`super::check`] can say which line is wrong. Nothing else may use it.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use crate::sysctl;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub control: Control,
    #[serde(default)]
    pub eal: Eal,
    pub workers: Option<Workers>,
    #[serde(default)]
    pub connections: Connections,
    #[serde(default)]
    pub schedulers: Schedulers,
    #[serde(default)]
    pub sysctl: BTreeMap<Spanned<String>, Spanned<sysctl::Value>>,
    #[serde(default)]
    pub mark: Vec<Mark>,
    #[serde(default)]
    pub local_address: Vec<LocalAddress>,
    #[serde(default)]
    pub snat: Vec<Snat>,
    #[serde(default)]
    pub port: Vec<Port>,
    #[serde(default)]
    pub vlan: Vec<Vlan>,
    #[serde(default)]
    pub route: Vec<Route>,
    #[serde(default)]
    pub neighbour: Vec<Neighbour>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Control {
    pub socket: Option<Spanned<String>>,
    pub mode: Option<Spanned<String>>,
    pub group: Option<Spanned<Account>>,
    pub change: Option<Vec<Spanned<Account>>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a name in quotes or a number")]
pub(super) enum Account {
    Id(i64),
    Name(String),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Eal {
    #[serde(default)]
    pub arguments: Vec<String>,
    #[serde(default)]
    pub huge_pages: super::HugePages,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Workers {
    pub cores: Spanned<Vec<Spanned<i64>>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Connections {
    pub buckets: Option<Spanned<i64>>,
    pub capacity: Option<Spanned<i64>>,
    pub destinations: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Schedulers {
    pub dh_slots: Option<Spanned<i64>>,
    pub sh_slots: Option<Spanned<i64>>,
    pub mh_slots: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Port {
    pub name: Spanned<String>,
    pub device: Spanned<String>,
    #[serde(default)]
    pub members: Vec<Spanned<String>>,
    pub descriptors: Option<Spanned<i64>>,
    pub mtu: Option<Spanned<i64>>,
    #[serde(default)]
    pub promiscuous: bool,
    pub kernel_interface: Option<Spanned<KernelInterface>>,
    #[serde(default)]
    pub addresses: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vlan {
    pub name: Spanned<String>,
    pub port: Spanned<String>,
    pub id: Spanned<i64>,
    pub outer_id: Option<Spanned<i64>>,
    #[serde(default)]
    pub outer_type: OuterType,
    pub priority: Option<Spanned<i64>>,
    pub mtu: Option<Spanned<i64>>,
    pub kernel_interface: Option<Spanned<KernelInterface>>,
    #[serde(default)]
    pub addresses: Vec<Spanned<String>>,
}

#[derive(Deserialize, Default)]
pub(super) enum OuterType {
    #[default]
    #[serde(rename = "802.1ad")]
    ServiceVlan,
    #[serde(rename = "802.1q")]
    Vlan,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected the interface's name in quotes, or false for none")]
pub(super) enum KernelInterface {
    Wanted(bool),
    Name(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub to: Spanned<String>,
    pub via: Option<Spanned<String>>,
    pub source: Option<Spanned<String>>,
    pub port: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Neighbour {
    pub address: Spanned<String>,
    pub mac: Spanned<String>,
    pub port: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LocalAddress {
    pub addresses: Spanned<String>,
    pub service: Option<Spanned<String>>,
    pub port: Option<Spanned<String>>,
    pub ports: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Snat {
    pub translate_to: Spanned<String>,
    pub protocol: Option<Spanned<String>>,
    pub from: Option<Spanned<String>>,
    pub to: Option<Spanned<String>>,
    pub out_port: Option<Spanned<String>>,
    pub ports: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    pub mark: Spanned<i64>,
    pub protocol: Option<Spanned<String>>,
    pub from: Option<Spanned<String>>,
    pub to: Option<Spanned<String>>,
    pub from_ports: Option<Spanned<String>>,
    pub to_ports: Option<Spanned<String>>,
    pub in_port: Option<Spanned<String>>,
}
