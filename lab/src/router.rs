//! A router between one of the lab's wires and a host, whose link behind it carries less than the wires do: the host is then in a
//! network of its own, and everybody else reaches it by the router.
//!
//! The host still says that it takes what the wires carry, as hosts do that do not know of a narrow link on their way.

use anyhow::Result;

use crate::host::Host;
use crate::topology::Lab;

/// Where a router is put, and what it leads to.
#[derive(Debug, Clone, Copy)]
pub struct Router {
    /// The name of its host, and of its port at the switch.
    pub name: &'static str,
    /// Director's port on whose wire it is: `wan`, `lan`.
    pub wire: &'static str,
    /// Its addresses on that wire, IPv4 and IPv6, with the lengths of their prefixes.
    pub near: [&'static str; 2],
    /// Director's addresses on that wire, which its own default route leads to.
    pub director: [&'static str; 2],
    /// Its addresses on the link behind it.
    pub far: [&'static str; 2],
    /// The host's addresses there.
    pub host: [&'static str; 2],
    /// The networks there.
    pub networks: [&'static str; 2],
    /// The longest packet that the link carries.
    pub mtu: u16,
    /// Whether it speaks IPv6, too, which the lab must do then.
    pub ipv6: bool,
}

fn address(with_length: &str) -> &str {
    with_length.split('/').next().unwrap_or(with_length)
}

impl Router {
    /// Puts it before `host`, which director's interface `interface` then reaches by it.
    ///
    /// # Errors
    /// When Linux refuses a step.
    pub fn put_before(&self, host: &Host, interface: &str, lab: &Lab) -> Result<Host> {
        let router = lab.add_host(self.name, self.wire)?;
        router.ip(&format!(
            "link add eth1 mtu {0} type veth peer name eth1 netns {1} mtu {0}",
            self.mtu,
            host.namespace()
        ))?;
        for end in [&router, host] {
            end.run("ethtool -K eth1 tx off tso off gso off gro off")?;
            end.ip("link set eth1 up")?;
        }
        host.ip("link set eth0 down")?;
        let sides = [(&router, "eth0", self.near), (&router, "eth1", self.far), (host, "eth1", self.host)];
        for (end, interface, [ipv4, ipv6]) in sides {
            end.ip(&format!("address add {ipv4} dev {interface}"))?;
            if self.ipv6 {
                end.enable_ipv6(interface, &[ipv6])?;
            }
        }
        router.sysctl("net.ipv4.ip_forward", "1")?;
        let families = if self.ipv6 { &["-4", "-6"][..] } else { &["-4"] };
        if self.ipv6 {
            router.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        }
        for (family, director) in families.iter().zip(self.director) {
            router.ip(&format!("{family} route add default via {director} dev eth0"))?;
        }
        // What fits a link of 1500 bytes.
        for ((n, family), segment) in families.iter().enumerate().zip([1460, 1440]) {
            let [far, near] = [self.far[n], self.near[n]].map(address);
            let network = self.networks[n];
            host.ip(&format!("{family} route replace default via {far} dev eth1 advmss {segment}"))?;
            lab.director.ip(&format!("{family} route replace {network} via {near} dev {interface}"))?;
        }
        Ok(router)
    }
}
