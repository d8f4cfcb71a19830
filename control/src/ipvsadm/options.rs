//! Which options there are, and which of them go with which command.

/// What a word can be. Several words may set the same [`Kind`] of option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Switch {
    AddService,
    EditService,
    DeleteService,
    Clear,
    List,
    Zero,
    AddServer,
    EditServer,
    DeleteServer,
    Set,
    Help,
    Version,
    Restore,
    Save,
    StartDaemon,
    StopDaemon,
    Tcp,
    Udp,
    Sctp,
    Fwmark,
    Scheduler,
    Persistent,
    Netmask,
    RealServer,
    Masquerading,
    Ipip,
    Gatewaying,
    FullNat,
    Weight,
    UpperThreshold,
    LowerThreshold,
    Numeric,
    Connection,
    McastInterface,
    SyncId,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    NoSort,
    Sort,
    Exact,
    Ipv6,
    OnePacket,
    Engine,
    SchedulerFlags,
    McastGroup,
    McastPort,
    McastTtl,
    SyncMaxLength,
    TunnelInfo,
    TunnelType,
    TunnelPort,
    TunnelNoChecksum,
    TunnelChecksum,
    TunnelRemoteChecksum,
    Announce,
    Mss,
}

/// Whether an option takes an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakesArgument {
    /// Never.
    No,
    /// Always: the next word, whatever it is.
    Yes,
    /// The next word, unless it begins with `-`.
    Optional,
}

/// An option as it is written.
#[derive(Debug)]
pub struct Definition {
    /// After `--`.
    pub long: &'static str,
    /// After `-`.
    pub short: Option<char>,
    /// Whether an argument follows.
    pub takes: TakesArgument,
    /// What it is.
    pub switch: Switch,
}

const fn define(long: &'static str, short: char, takes: TakesArgument, switch: Switch) -> Definition {
    // A blank stands for "no short form", to keep the table below readable.
    Definition { long, short: if short == ' ' { None } else { Some(short) }, takes, switch }
}

/// Every option of ipvsadm 1.31, and `--fullnat` and `--announce`, which it does not have.
#[rustfmt::skip]
pub const DEFINITIONS: &[Definition] = {
    use Switch::*;
    use TakesArgument::*;
    &[
        define("add-service",     'A', No,       AddService),
        define("edit-service",    'E', No,       EditService),
        define("delete-service",  'D', No,       DeleteService),
        define("clear",           'C', No,       Clear),
        define("list",            'L', No,       List),
        define("list",            'l', No,       List),
        define("zero",            'Z', No,       Zero),
        define("add-server",      'a', No,       AddServer),
        define("edit-server",     'e', No,       EditServer),
        define("delete-server",   'd', No,       DeleteServer),
        define("set",             ' ', No,       Set),
        define("help",            'h', No,       Help),
        define("version",         'v', No,       Version),
        define("restore",         'R', No,       Restore),
        define("save",            'S', No,       Save),
        define("start-daemon",    ' ', Yes,      StartDaemon),
        define("stop-daemon",     ' ', Yes,      StopDaemon),
        define("tcp-service",     't', Yes,      Tcp),
        define("udp-service",     'u', Yes,      Udp),
        define("sctp-service",    ' ', Yes,      Sctp),
        define("fwmark-service",  'f', Yes,      Fwmark),
        define("ipv6",            '6', No,       Ipv6),
        define("scheduler",       's', Yes,      Scheduler),
        define("sched-flags",     'b', Yes,      SchedulerFlags),
        define("persistent",      'p', Optional, Persistent),
        define("netmask",         'M', Yes,      Netmask),
        define("pe",              ' ', Yes,      Engine),
        define("ops",             'o', No,       OnePacket),
        define("announce",        ' ', Yes,      Announce),
        define("mss",             ' ', Yes,      Mss),
        define("real-server",     'r', Yes,      RealServer),
        define("masquerading",    'm', No,       Masquerading),
        define("ipip",            'i', No,       Ipip),
        define("gatewaying",      'g', No,       Gatewaying),
        define("fullnat",         ' ', No,       FullNat),
        define("weight",          'w', Yes,      Weight),
        define("u-threshold",     'x', Yes,      UpperThreshold),
        define("l-threshold",     'y', Yes,      LowerThreshold),
        define("tun-type",        ' ', Yes,      TunnelType),
        define("tun-port",        ' ', Yes,      TunnelPort),
        define("tun-nocsum",      ' ', No,       TunnelNoChecksum),
        define("tun-csum",        ' ', No,       TunnelChecksum),
        define("tun-remcsum",     ' ', No,       TunnelRemoteChecksum),
        define("numeric",         'n', No,       Numeric),
        define("connection",      'c', No,       Connection),
        define("timeout",         ' ', No,       Timeout),
        define("daemon",          ' ', No,       Daemon),
        define("stats",           ' ', No,       Stats),
        define("rate",            ' ', No,       Rate),
        define("thresholds",      ' ', No,       Thresholds),
        define("persistent-conn", ' ', No,       PersistentConn),
        define("tun-info",        ' ', No,       TunnelInfo),
        define("nosort",          ' ', No,       NoSort),
        define("sort",            ' ', No,       Sort),
        define("exact",           'X', No,       Exact),
        define("mcast-interface", ' ', Yes,      McastInterface),
        define("mcast-group",     ' ', Yes,      McastGroup),
        define("mcast-port",      ' ', Yes,      McastPort),
        define("mcast-ttl",       ' ', Yes,      McastTtl),
        define("syncid",          ' ', Yes,      SyncId),
        define("sync-maxlen",     ' ', Yes,      SyncMaxLength),
    ]
};

/// What a command can be given, by the name that messages use, in the order in which ipvsadm checks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Numeric,
    Connection,
    Service,
    Scheduler,
    Persistent,
    Netmask,
    Server,
    Forward,
    Weight,
    UpperThreshold,
    LowerThreshold,
    McastInterface,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    NoSort,
    SyncId,
    Exact,
    OnePacket,
    Engine,
    SchedulerFlags,
    McastGroup,
    McastPort,
    McastTtl,
    SyncMaxLength,
    TunnelInfo,
    TunnelType,
    TunnelPort,
    TunnelNoChecksum,
    TunnelChecksum,
    TunnelRemoteChecksum,
    Announce,
    Mss,
}

/// The kinds with their names, in order.
#[rustfmt::skip]
const KINDS: [(Kind, &str); 36] = [
    (Kind::Numeric, "numeric"), (Kind::Connection, "connection"), (Kind::Service, "service-address"),
    (Kind::Scheduler, "scheduler"), (Kind::Persistent, "persistent"), (Kind::Netmask, "netmask"),
    (Kind::Server, "real-server"), (Kind::Forward, "forwarding-method"), (Kind::Weight, "weight"),
    (Kind::UpperThreshold, "u-threshold"), (Kind::LowerThreshold, "l-threshold"),
    (Kind::McastInterface, "mcast-interface"), (Kind::Timeout, "timeout"), (Kind::Daemon, "daemon"),
    (Kind::Stats, "stats"), (Kind::Rate, "rate"), (Kind::Thresholds, "thresholds"),
    (Kind::PersistentConn, "persistent-conn"), (Kind::NoSort, "nosort"), (Kind::SyncId, "syncid"),
    (Kind::Exact, "exact"), (Kind::OnePacket, "ops"), (Kind::Engine, "pe"),
    (Kind::SchedulerFlags, "sched-flags"), (Kind::McastGroup, "mcast-group"), (Kind::McastPort, "mcast-port"),
    (Kind::McastTtl, "mcast-ttl"), (Kind::SyncMaxLength, "sync-maxlen"), (Kind::TunnelInfo, "tun-info"),
    (Kind::TunnelType, "tun-type"), (Kind::TunnelPort, "tun-port"), (Kind::TunnelNoChecksum, "tun-nocsum"),
    (Kind::TunnelChecksum, "tun-csum"), (Kind::TunnelRemoteChecksum, "tun-remcsum"),
    (Kind::Announce, "announce"),
    (Kind::Mss, "mss"),
];

impl Kind {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        KINDS[self as usize].1
    }
}

/// A set of [`Kind`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u64);

impl Kinds {
    /// These kinds.
    pub fn of(kinds: &[Kind]) -> Self {
        Self(kinds.iter().fold(0, |set, kind| set | 1 << *kind as u64))
    }

    /// True if `kind` is one of them.
    pub fn has(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u64) != 0
    }

    /// True if any of `kinds` is one of them.
    pub fn has_any(self, kinds: &[Kind]) -> bool {
        self.0 & Self::of(kinds).0 != 0
    }

    /// Adds `kind`; an error if it was there.
    pub fn add(&mut self, kind: Kind) -> Result<(), String> {
        if self.has(kind) {
            return Err(format!("multiple '{}' options specified", kind.name()));
        }
        self.0 |= 1 << kind as u64;
        Ok(())
    }
}

/// What goes with a command or a tunnel type. A kind in none of the lists is illegal.
struct Rules {
    name: &'static str,
    what: &'static str,
    required: &'static [Kind],
    optional: &'static [Kind],
    /// At most one of these.
    exclusive: &'static [Kind],
}

/// Whether `given` goes with `command`. The message is ipvsadm's.
pub fn check_command(command: Switch, given: Kinds) -> Result<(), String> {
    use Kind::*;
    const SERVICE: &[Kind] =
        &[Scheduler, Persistent, Netmask, OnePacket, Engine, SchedulerFlags, Announce, Mss];
    #[rustfmt::skip]
    const SERVER: &[Kind] = &[
        Forward, Weight, UpperThreshold, LowerThreshold, TunnelType, TunnelPort, TunnelNoChecksum, TunnelChecksum,
        TunnelRemoteChecksum,
    ];
    #[rustfmt::skip]
    const LIST: &[Kind] =
        &[Numeric, Stats, Rate, Thresholds, PersistentConn, NoSort, SyncId, Exact, TunnelInfo];
    #[rustfmt::skip]
    const DAEMON: &[Kind] = &[McastInterface, SyncId, McastGroup, McastPort, McastTtl, SyncMaxLength];
    let (name, required, optional, exclusive): (_, &[Kind], &[Kind], &[Kind]) = match command {
        Switch::AddService => ("add-service", &[Service], SERVICE, &[]),
        Switch::EditService => ("edit-service", &[Service], SERVICE, &[]),
        Switch::DeleteService => ("delete-service", &[Service], &[], &[]),
        Switch::Clear => ("flush", &[], &[], &[]),
        Switch::List => ("list", &[], LIST, &[Connection, Service, Timeout, Daemon]),
        Switch::AddServer => ("add-server", &[Service, Server], SERVER, &[]),
        Switch::DeleteServer => ("delete-server", &[Service, Server], &[], &[]),
        Switch::EditServer => ("edit-server", &[Service, Server], SERVER, &[]),
        Switch::Set => ("set", &[], &[], &[]),
        Switch::StartDaemon => ("start-daemon", &[], DAEMON, &[]),
        Switch::StopDaemon => ("stop-daemon", &[], &[SyncId], &[]),
        Switch::Restore => ("restore", &[], &[], &[]),
        Switch::Save => ("save", &[], &[Numeric], &[]),
        Switch::Zero => ("zero", &[], &[Service], &[]),
        _ => return Ok(()),
    };
    let all = KINDS.map(|(kind, _)| kind);
    check(&Rules { name, what: "command", required, optional, exclusive }, &all, given)
}

/// Whether `given` goes with the tunnel type `name`. The message is ipvsadm's.
pub fn check_tunnel(name: &'static str, given: Kinds) -> Result<(), String> {
    use Kind::*;
    let (required, exclusive): (&[Kind], &[Kind]) = match name {
        "gue" => (&[TunnelPort], &[TunnelNoChecksum, TunnelChecksum, TunnelRemoteChecksum]),
        "gre" => (&[], &[TunnelNoChecksum, TunnelChecksum]),
        _ => (&[], &[]),
    };
    let kinds = [TunnelPort, TunnelNoChecksum, TunnelChecksum, TunnelRemoteChecksum];
    check(&Rules { name, what: "tunnel type", required, optional: &[], exclusive }, &kinds, given)
}

fn check(rules: &Rules, kinds: &[Kind], given: Kinds) -> Result<(), String> {
    let Rules { name, what, .. } = rules;
    let mut last: Option<Kind> = None;
    for &kind in kinds {
        let option = kind.name();
        if !given.has(kind) {
            if rules.required.contains(&kind) {
                return Err(format!("You need to supply the '{option}' option for the '{name}' {what}"));
            }
        } else if rules.exclusive.contains(&kind) {
            if let Some(last) = last {
                let last = last.name();
                return Err(format!(
                    "The option '{option}' conflicts with the '{last}' option in the '{name}' {what}"
                ));
            }
            last = Some(kind);
        } else if !rules.required.contains(&kind) && !rules.optional.contains(&kind) {
            return Err(format!("Illegal '{option}' option with the '{name}' {what}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_in_their_order() {
        for (i, (kind, _)) in KINDS.iter().enumerate() {
            assert_eq!(*kind as usize, i);
        }
    }
}
