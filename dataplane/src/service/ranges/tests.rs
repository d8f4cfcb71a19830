//! Which service a flow is for, against a model that looks at all of them.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::network::PortId;
use crate::parse::{Flow, Flow6};
use crate::schedule;
use crate::service::{ServiceKey, Services, Wide};

/// What a service is for: one address and port (0 for every port), or a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    One(ServiceKey),
    Many(RangeKey),
}

impl For {
    /// Prefix length, how many ports more than one, first port: the service is for less the greater the first and the less the others
    /// are. `None` where it is not for the flow.
    fn fit(self, flow: AnyFlow) -> Option<(u8, u32, u16)> {
        let (address, port) = flow.destination();
        let (protocol, network, (first, last)) = match self {
            Self::One(ServiceKey { protocol, address, port: 0 }) => (protocol, address.into(), (0, u16::MAX)),
            Self::One(ServiceKey { protocol, address, port }) => (protocol, address.into(), (port, port)),
            Self::Many(RangeKey { protocol, network, ports }) => (protocol, network, ports),
        };
        let is_it =
            protocol == flow.protocol() && network.contains(&address) && first <= port && port <= last;
        is_it.then_some((network.prefix_len(), u32::from(last - first), first))
    }
}

fn model(services: &[For], flow: AnyFlow) -> Option<For> {
    let fitting = services.iter().filter_map(|service| Some((service.fit(flow)?, *service)));
    let best = fitting.min_by_key(|((prefix, width, first), _)| (std::cmp::Reverse(*prefix), *width, *first));
    best.map(|(_, service)| service)
}

/// Few addresses, ports and protocols, so that many services are for the same flow.
fn address() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 0u8..8).prop_map(|(is_ipv6, last)| {
        if is_ipv6 {
            Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(last)).into()
        } else {
            Ipv4Addr::from([198, 51, 100, last]).into()
        }
    })
}

/// None that FTP's data would make its own way for.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![100u16..110, Just(u16::MAX)]
}

fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![Just(protocol::TCP), Just(protocol::UDP), Just(protocol::SCTP)]
}

fn service() -> impl Strategy<Value = For> {
    let one = (protocol(), address(), prop_oneof![1 => Just(0), 3 => port()])
        .prop_map(|(protocol, address, port)| For::One(ServiceKey { protocol, address, port }));
    let many = (protocol(), address(), 0u8..=4, port(), port()).prop_map(|(protocol, address, up, a, b)| {
        let longest = IpNet::from(address).max_prefix_len();
        let network = IpNet::new(address, longest - up).unwrap().trunc();
        let ports = if a == u16::MAX && b == u16::MAX { (0, u16::MAX) } else { (a.min(b), a.max(b)) };
        For::Many(RangeKey { protocol, network, ports })
    });
    // One address and one port, or every one, are no range.
    let is_one = |key: &RangeKey| {
        key.network.prefix_len() == key.network.max_prefix_len()
            && (key.ports.0 == key.ports.1 || key.ports == (0, u16::MAX))
    };
    prop_oneof![1 => one, 3 => many.prop_filter("no range", move |service| !matches!(service, For::Many(key) if is_one(key)))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_flow_is_for_the_service_that_is_for_least(
        mut keys in prop::collection::vec(service(), 0..24),
        flows in prop::collection::vec((protocol(), address(), port()), 1..24),
    ) {
        let mut seen = Vec::new();
        keys.retain(|key| !seen.contains(key) && { seen.push(*key); true });
        let make = || Arc::new(Service::new(Vec::new(), schedule::none()));
        let services: Vec<_> = keys.iter().map(|key| (*key, make())).collect();
        let one = services.iter().filter_map(|(key, s)| match key { For::One(key) => Some((*key, s.clone())), For::Many(_) => None });
        let many = services.iter().filter_map(|(key, s)| match key { For::Many(key) => Some((*key, s.clone())), For::One(_) => None });
        let all = Services::new(one).with_ranges(many);
        for (protocol, address, port) in flows {
            let flow: AnyFlow = match address {
                IpAddr::V4(address) => Flow::new(protocol, (1, 1), (address.into(), port)).into(),
                IpAddr::V6(address) => Flow6::new(protocol, (1, 1), (address.into(), port)).into(),
            };
            let found = all.find(flow, PortId(0));
            let key = found.map(|found| services.iter().find(|(_, s)| std::ptr::eq(&**s, found.service)).unwrap().0);
            prop_assert_eq!(key, model(&keys, flow));
            let range = found.and_then(|found| match found.wide { Some(Wide::Range(range)) => Some(For::Many(*range)), _ => None });
            prop_assert_eq!(range, key.filter(|key| matches!(key, For::Many(_))));
            let is_virtual = keys.iter().any(|key| match key {
                For::One(key) => key.address == address,
                For::Many(key) => key.network.contains(&address),
            });
            prop_assert_eq!(all.is_virtual(address), is_virtual);
        }
    }
}

#[test]
fn no_two_ranges_share_a_template() {
    let client: IpAddr = [203, 0, 113, 9].into();
    let key =
        |network: &str, ports| RangeKey { protocol: protocol::TCP, network: network.parse().unwrap(), ports };
    let ranges = [
        key("198.51.100.0/24", (80, 80)),
        key("198.51.100.0/24", (80, 81)),
        key("198.51.100.0/25", (80, 80)),
        key("198.51.100.0/32", (80, 81)),
        key("0.0.0.0/0", (80, 81)),
        key("198.51.100.0/24", (0, u16::MAX)),
    ];
    let mut templates: Vec<_> = ranges.iter().map(|range| range.template(client)).collect();
    templates.push(AnyFlow::template(protocol::TCP, client, ("198.51.100.0".parse().unwrap(), 80)));
    for (n, template) in templates.iter().enumerate() {
        assert!(template.is_template());
        assert!(!templates[..n].contains(template), "{n}");
    }
}
