//! Numbers out of ipvsadm's lists, for tests that compare them with what happened elsewhere.

use anyhow::{Context, Result, bail};

/// A destination's line in `-Ln`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// `address:port`.
    pub address: String,
    /// `Masq`, `Route` …
    pub forward: String,
    /// Weight.
    pub weight: u32,
    /// Connections that are counted active.
    pub active: u64,
    /// Connections that are counted inactive.
    pub inactive: u64,
}

/// The destinations of a list made by `-Ln`, in its order.
///
/// # Errors
/// When a destination's line has other columns.
pub fn destinations(list: &str) -> Result<Vec<Destination>> {
    rows(list)
        .map(|row| {
            let parse = || -> Option<Destination> {
                let [address, forward, weight, active, inactive] = row[..] else { return None };
                Some(Destination {
                    address: address.to_owned(),
                    forward: forward.to_owned(),
                    weight: weight.parse().ok()?,
                    active: active.parse().ok()?,
                    inactive: inactive.parse().ok()?,
                })
            };
            parse().with_context(|| format!("not a destination's line in a list: {row:?}"))
        })
        .collect()
}

/// A line's numbers in `-Ln --stats --exact`. Bytes are those of IP packets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Connections that were opened.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets to clients, as far as they passed director.
    pub out_packets: u64,
    /// Bytes of `in_packets`.
    pub in_bytes: u64,
    /// Bytes of `out_packets`.
    pub out_bytes: u64,
}

/// The numbers of each destination in a list made by `-Ln --stats --exact`, in its order.
///
/// # Errors
/// When a destination's line has other columns.
pub fn statistics(list: &str) -> Result<Vec<Statistics>> {
    rows(list)
        .map(|row| {
            let numbers = row.iter().skip(1).map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>();
            let Some(&[connections, in_packets, out_packets, in_bytes, out_bytes]) = numbers.as_deref()
            else {
                bail!("not a destination's line in a list of statistics: {row:?}");
            };
            Ok(Statistics { connections, in_packets, out_packets, in_bytes, out_bytes })
        })
        .collect()
}

/// `Conns` of each destination in a list made by `-Ln --stats --exact`, in its order.
///
/// # Errors
/// As [`statistics`].
pub fn connections(list: &str) -> Result<Vec<u64>> {
    Ok(statistics(list)?.into_iter().map(|numbers| numbers.connections).collect())
}

/// The destinations' lines, without the arrow, word by word. The title has an arrow too.
fn rows(list: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = list.lines().filter_map(|line| line.strip_prefix("  -> "));
    lines
        .filter(|line| !line.starts_with("RemoteAddress"))
        .map(|line| line.split_ascii_whitespace().collect())
}

#[cfg(test)]
mod tests {
    use super::{connections, destinations};

    #[test]
    fn numbers_are_read_from_their_columns() {
        let list = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  198.51.100.8:80 rr
  -> 192.0.2.9:80                 Masq    1      0          33        \n";
        let found = destinations(list).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].address.as_str(), found[0].weight), ("192.0.2.9:80", 1));
        assert_eq!((found[0].active, found[0].inactive), (0, 33));
    }

    #[test]
    fn a_list_of_another_kind_is_refused() {
        let list = "  -> RemoteAddress:Port\n  -> 192.0.2.9:80      33  1   2   3   4\n";
        assert_eq!(connections(list).unwrap(), [33]);
        assert!(destinations(list).is_err());
    }
}
