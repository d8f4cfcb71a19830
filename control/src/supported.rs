//! What IPVS can do and director's dataplane cannot yet. The only place that says so.
//!
//! Each test here goes away with the work that makes it untrue. A change is tested before anything is done, and
//! only if IPVS itself would take it, so that wrong use is answered as IPVS answers it.

use crate::model::{Change, DestinationSpec, ForwardingMethod, ServiceSpec};
use crate::refusal::Refusal;
use crate::sysctl;

/// The sysctls that do something. The others can only be set to their defaults.
pub const SYSCTLS: [&str; 14] = [
    "am_droprate",
    "amemthresh",
    "conn_reuse_mode",
    "drop_entry",
    "drop_packet",
    "expire_nodest_conn",
    "expire_quiescent_template",
    "lblc_expiration",
    "lblcr_expiration",
    "pmtu_disc",
    "run_estimation",
    "secure_tcp",
    "sloppy_sctp",
    "sloppy_tcp",
];

/// Whether the dataplane can do what `change` asks for.
pub fn check(change: &Change) -> Result<(), Refusal> {
    match change {
        Change::AddService(spec) | Change::EditService(spec) => service(spec),
        Change::AddDestination { destination, .. } | Change::EditDestination { destination, .. } => {
            self::destination(destination)
        }
        Change::StartDaemon(_) => Err(not_yet("synchronise connections")),
        Change::SetSysctl { name, value } => sysctl(name, *value),
        _ => Ok(()),
    }
}

fn sysctl(name: &str, value: sysctl::Value) -> Result<(), Refusal> {
    match sysctl::find(name) {
        Some(known) if known.default != value && !SYSCTLS.contains(&known.name) => Err(not_yet(&format!(
            "act on net.ipv4.vs.{} (only its default can be set, {})",
            known.name, known.default
        ))),
        _ => Ok(()),
    }
}

fn service(spec: &ServiceSpec) -> Result<(), Refusal> {
    if spec.engine.is_some() {
        return Err(not_yet("have persistence engines"));
    }
    Ok(())
}

fn destination(spec: &DestinationSpec) -> Result<(), Refusal> {
    if spec.method == ForwardingMethod::Local {
        return Err(not_yet("forward to this machine itself"));
    }
    Ok(())
}

/// "director does not … yet", with the qualification in brackets kept at the end.
fn not_yet(what: &str) -> Refusal {
    Refusal::Unsupported(match what.split_once(" (") {
        Some((what, rest)) => format!("director does not {what} yet ({rest}"),
        None => format!("director does not {what} yet"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Protocol, VirtualService};

    #[test]
    fn what_is_refused_says_what() {
        let address = |text: &str, protocol| VirtualService::Address {
            protocol,
            address: text.parse().unwrap(),
            port: 80,
        };
        let v4 = ServiceSpec::new(address("198.51.100.1", Protocol::Tcp));
        let server = DestinationSpec::new("192.0.2.1".parse().unwrap(), 80);
        let refused = [(ServiceSpec { engine: Some("sip".into()), ..v4.clone() }, "engines yet")];
        for (spec, words) in refused {
            let message = check(&Change::AddService(spec.clone())).unwrap_err().to_string();
            assert!(message.starts_with("director does not ") && message.contains(words), "{message}");
            assert!(check(&Change::EditService(spec)).is_err());
        }
        let refused = [(DestinationSpec { method: ForwardingMethod::Local, ..server }, "itself yet")];
        for (destination, words) in refused {
            let change = Change::AddDestination { service: v4.service, destination };
            assert!(check(&change).unwrap_err().to_string().contains(words));
        }
        let set = |name: &str, value| {
            check(&Change::SetSysctl { name: name.into(), value: sysctl::Value::Number(value) })
        };
        let message = set("cache_bypass", 1).unwrap_err().to_string();
        assert_eq!(
            message,
            "director does not act on net.ipv4.vs.cache_bypass yet (only its default can be set, 0)"
        );
        assert_eq!((set("cache_bypass", 0), set("net.ipv4.vs.run_estimation", 0)), (Ok(()), Ok(())));
        assert_eq!(check(&Change::AddService(v4.clone())), Ok(()));
        for method in [ForwardingMethod::Masquerade, ForwardingMethod::Tunnel] {
            let destination = DestinationSpec { method, ..server };
            assert_eq!(check(&Change::AddDestination { service: v4.service, destination }), Ok(()));
        }
    }
}
