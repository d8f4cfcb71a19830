//! Links: what Linux and the workers know as ports, by their ids. The ports that have a device, and after them the VLANs on these.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use control::config::{Config, Vlan};
use control::network::{Interface, interface};
use control::running::PortInfo;
use dataplane::network::{MacAddr, PortId};
use dpdk_sys::Mempool;

use crate::ports::{KERNEL_QUEUE, Lost, OpenPort, VLAN_QUEUE, named};

/// A port or a VLAN, as far as its kernel interface goes.
pub struct Link {
    /// Its name in the configuration.
    pub name: String,
    /// What its interface in Linux is to be, if it is to have one.
    pub kernel_interface: Option<interface::Setup>,
    /// Its own address.
    pub mac: MacAddr,
    /// The longest IP packet it sends and receives, in bytes.
    pub mtu: u16,
    /// Where buffers for what Linux sends come from.
    pub pool: Mempool,
    /// What is lost between Linux and the workers.
    pub lost: Arc<Lost>,
    /// Frames between the workers and the interface, each way.
    pub queue: usize,
    vlan: Option<Vlan>,
}

/// The links of the configuration, whose ports are open.
pub fn of(config: &Config, ports: &[OpenPort]) -> Vec<Link> {
    let setup = |name: &String, mac, mtu, addresses: &Vec<_>| interface::Setup {
        name: name.clone(),
        mac,
        mtu,
        addresses: addresses.clone(),
    };
    let port = |port: &OpenPort| Link {
        name: port.config.name.clone(),
        kernel_interface: {
            let config = &port.config;
            let name = config.kernel_interface.as_ref();
            name.map(|name| setup(name, port.mac, config.mtu, &config.addresses))
        },
        mac: port.mac,
        mtu: port.mtu,
        pool: port.pool.clone(),
        lost: port.lost.clone(),
        queue: KERNEL_QUEUE,
        vlan: None,
    };
    let vlan = |vlan: &Vlan| {
        let on = &ports[usize::from(vlan.port.0)];
        Link {
            name: vlan.name.clone(),
            kernel_interface: vlan
                .kernel_interface
                .as_ref()
                .map(|name| setup(name, on.mac, vlan.mtu.or(on.config.mtu), &vlan.addresses)),
            mac: on.mac,
            mtu: vlan.mtu.unwrap_or(on.mtu).min(on.mtu),
            pool: on.pool.clone(),
            lost: Arc::default(),
            queue: VLAN_QUEUE,
            vlan: Some(vlan.clone()),
        }
    };
    ports.iter().map(port).chain(config.vlans.iter().map(vlan)).collect()
}

impl Link {
    /// Brings its kernel interface up, where it has one.
    pub async fn bring_up(&self) -> anyhow::Result<()> {
        let Some(setup) = &self.kernel_interface else { return Ok(()) };
        interface::bring_up(setup).await.with_context(|| format!("port {}", self.name))?;
        Ok(())
    }

    /// What there is to say of it now. `ports` are those with a device.
    pub fn info(&self, number: usize, ports: &[OpenPort], queues: u16) -> Option<PortInfo> {
        let Some(vlan) = &self.vlan else { return Some(ports.get(number)?.info(queues)) };
        let on = ports.get(usize::from(vlan.port.0))?.info(queues);
        let counters = [
            ("to_kernel_lost", self.lost.to_kernel.load(Ordering::Relaxed)),
            ("from_kernel_lost", self.lost.from_kernel.load(Ordering::Relaxed)),
        ];
        Some(PortInfo {
            name: self.name.clone(),
            device: format!("VLAN {} of {}", vlan.id, on.name),
            driver: "802.1Q".to_owned(),
            kernel_interface: self.kernel_interface.as_ref().map(|setup| setup.name.clone()),
            counters: counters.into_iter().map(named).collect(),
            ..on
        })
    }
}

/// The interfaces that Linux has of them.
pub fn interfaces(links: &[Link]) -> Vec<Interface> {
    let interface = |(number, link): (usize, &Link)| {
        let name = link.kernel_interface.as_ref()?.name.clone();
        Some(Interface { port: PortId(number as u16), name, mac: link.mac })
    };
    links.iter().enumerate().filter_map(interface).collect()
}
