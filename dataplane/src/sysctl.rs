//! IPVS's sysctls (`net.ipv4.vs.*`) as workers see them: plain values, checked by control, part of every snapshot.
//!
//! A field stands for the sysctl of its name. Names, ranges and what each does are IPVS's (Linux's
//! `Documentation/networking/ipvs-sysctl.rst`); control has the table of them, and knows which act yet.

use crate::schedule::Settings;

/// Every sysctl. What IPVS only tests for being 0 is a `bool` here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysctls {
    /// One packet in so many is dropped while `drop_packet` is 3; 0 stands for none, and below 0 for every packet.
    pub am_droprate: i32,
    /// Memory is scarce, for the automatic modes of defence, when fewer free pages than this are left.
    pub amemthresh: i32,
    /// A director that is a synchronisation backup leaves packets alone.
    pub backup_only: bool,
    /// A packet for a service without destinations goes to its own address (transparent caches).
    pub cache_bypass: bool,
    /// What a SYN does that hits an existing connection. 0: it belongs to it. Bit 0: scheduled anew where the connection
    /// is in TIME_WAIT or CLOSE. Bit 1: also in FIN_WAIT, where the server's packets go past the director.
    pub conn_reuse_mode: i32,
    /// Netfilter tracks the connections.
    pub conntrack: bool,
    /// Random dropping of connection entries: 0 never, 1 and 2 when memory is scarce (2: it is now), 3 always.
    pub drop_entry: u8,
    /// Dropping of packets by rate: modes as for `drop_entry`.
    pub drop_packet: u8,
    /// Connections end when their destination is deleted, and at a SYN while it has weight 0.
    pub expire_nodest_conn: bool,
    /// A persistence template whose destination has weight 0 ends, so that the client is scheduled anew.
    pub expire_quiescent_template: bool,
    /// Packets that came by a tunnel are not balanced.
    pub ignore_tunneled: bool,
    /// How long an entry of lblc's table lives, in seconds; below 0 as 0.
    pub lblc_expiration: i32,
    /// How long an entry of lblcr's table lives, in seconds; below 0 as 0.
    pub lblcr_expiration: i32,
    /// An ICMP error is sent to the client where translation cannot reach the server.
    pub nat_icmp_send: bool,
    /// Path MTU discovery: the outer header's DF bit, and ICMP "fragmentation needed".
    pub pmtu_disc: bool,
    /// Statistics are summed up and rates estimated.
    pub run_estimation: bool,
    /// ICMP packets that belong to no connection are scheduled.
    pub schedule_icmp: bool,
    /// The strict table of TCP states: modes as for `drop_entry`.
    pub secure_tcp: u8,
    /// An SCTP connection may begin with any chunk.
    pub sloppy_sctp: bool,
    /// A TCP connection may begin with any segment.
    pub sloppy_tcp: bool,
    /// Replies of masquerading are routed anew by their virtual source address.
    pub snat_reroute: bool,
    /// Templates are synchronised without the connections under them.
    pub sync_persist_mode: bool,
    /// Threads, and UDP ports, that connections are synchronised by; a power of two.
    pub sync_ports: u32,
    /// The most messages that wait to be sent by a synchronisation daemon.
    pub sync_qlen_max: u64,
    /// Seconds after which a connection is synchronised anew; 0 for never.
    pub sync_refresh_period: i32,
    /// Further attempts at sending a connection in `sync_refresh_period`, 0 to 3.
    pub sync_retries: u8,
    /// Bytes of the synchronisation socket's buffer; 0 for the system's default.
    pub sync_sock_size: i32,
    /// Packets after which a connection is synchronised first, and the period in packets after that.
    pub sync_threshold: (u32, u32),
    /// The version of the synchronisation's messages: 0 or 1.
    pub sync_version: u8,
}

impl Sysctls {
    /// Those that schedulers heed.
    #[inline]
    pub fn scheduling(&self) -> Settings {
        Settings {
            lblc_expiration: self.lblc_expiration.max(0).unsigned_abs(),
            lblcr_expiration: self.lblcr_expiration.max(0).unsigned_abs(),
        }
    }
}

/// What is in force against overload: what IPVS works out every second from the modes of `drop_entry`, `drop_packet` and
/// `secure_tcp` and the memory that is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defence {
    /// Connections that look unused end before their time.
    pub drop_entry: bool,
    /// One packet in so many that would open a connection is dropped; 0 for none.
    pub drop_rate: i32,
    /// The strict table of TCP states is in use.
    pub secure_tcp: bool,
}

impl Sysctls {
    /// True where so many pages are few, for the automatic modes of defence.
    pub fn is_scarce(&self, pages: i64) -> bool {
        pages < i64::from(self.amemthresh)
    }

    /// What is to be in force while so many pages of 4096 bytes are left.
    pub fn defence(&self, pages: i64) -> Defence {
        let is_scarce = self.is_scarce(pages);
        let is_on = |mode| matches!(mode, 1 | 2) && is_scarce || mode == 3;
        let drop_rate = match self.drop_packet {
            3 => self.am_droprate,
            _ if is_on(self.drop_packet) => {
                let threshold = i64::from(self.amemthresh);
                (threshold / (threshold - pages)) as i32
            }
            _ => 0,
        };
        Defence { drop_entry: is_on(self.drop_entry), drop_rate, secure_tcp: is_on(self.secure_tcp) }
    }
}

impl Default for Sysctls {
    /// What a kernel begins with.
    fn default() -> Self {
        Self {
            am_droprate: 10,
            amemthresh: 1024,
            backup_only: false,
            cache_bypass: false,
            conn_reuse_mode: 1,
            conntrack: false,
            drop_entry: 0,
            drop_packet: 0,
            expire_nodest_conn: false,
            expire_quiescent_template: false,
            ignore_tunneled: false,
            lblc_expiration: 24 * 60 * 60,
            lblcr_expiration: 24 * 60 * 60,
            nat_icmp_send: false,
            pmtu_disc: true,
            run_estimation: true,
            schedule_icmp: false,
            secure_tcp: 0,
            sloppy_sctp: false,
            sloppy_tcp: false,
            snat_reroute: true,
            sync_persist_mode: false,
            sync_ports: 1,
            // The kernel derives it from its memory; this is a machine of about a gigabyte.
            sync_qlen_max: 7157,
            sync_refresh_period: 0,
            sync_retries: 0,
            sync_sock_size: 0,
            sync_threshold: (3, 50),
            sync_version: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Modes 1 and 2 are one, told apart by whether memory is scarce now; the rate grows as memory shrinks.
    #[test]
    fn defence_follows_modes_and_memory() {
        let off = Defence::default();
        let cases = [
            (0, 0, off),
            (1, 1024, off),
            (2, 5000, off),
            (1, 1023, Defence { drop_entry: true, drop_rate: 1024, secure_tcp: true }),
            (2, 512, Defence { drop_entry: true, drop_rate: 2, secure_tcp: true }),
            (2, 0, Defence { drop_entry: true, drop_rate: 1, secure_tcp: true }),
            (3, 5000, Defence { drop_entry: true, drop_rate: 10, secure_tcp: true }),
        ];
        for (mode, pages, expected) in cases {
            let sysctls =
                Sysctls { drop_entry: mode, drop_packet: mode, secure_tcp: mode, ..Sysctls::default() };
            assert_eq!(sysctls.defence(pages), expected, "mode {mode}, {pages} pages");
        }
    }
}
