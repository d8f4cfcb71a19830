use super::*;
use crate::supported;

const LEAST: &str = "[workers]\ncores = [1]\n[[port]]\nname = \"wan\"\ndevice = \"0000:3b:00.0\"\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("director.toml"), &[0, 1, 2])
}

fn error(text: &str) -> String {
    let error = parse(text).unwrap_err().to_string();
    assert!(!error.contains('\n'), "one line: {error}");
    error
}

#[test]
fn the_least_file_gets_every_default() {
    let config = parse(LEAST).unwrap();
    assert_eq!(
        config,
        Config {
            control: Control {
                socket: "/run/director/director.sock".into(),
                mode: 0o660,
                group: None,
                change: vec![Account::Id(0)],
            },
            eal: Eal { arguments: vec![], huge_pages: HugePages::Auto },
            cores: vec![1],
            connections: Connections { buckets: 629_146, capacity: 1_048_576, destinations: 65_536 },
            schedulers: TableSizes::default(),
            sysctls: vec![],
            marks: vec![],
            local_addresses: vec![],
            snat: vec![],
            ports: vec![Port {
                name: "wan".into(),
                device: "0000:3b:00.0".into(),
                members: vec![],
                descriptors: None,
                mtu: None,
                promiscuous: false,
                kernel_interface: Some("wan".into()),
                addresses: vec![],
            }],
            vlans: vec![],
            routes: vec![],
            neighbours: vec![],
        }
    );
}

#[test]
fn every_key_is_read() {
    let config = parse(
        r#"
[control]
socket = "/tmp/d.sock"
mode = "0600"
group = "lb"
change = ["root", "1001", 1002]
[eal]
arguments = ["--in-memory"]
huge_pages = "require"
[workers]
cores = [2, 1]
[connections]
buckets = 5000
capacity = 100000
destinations = 100
[schedulers]
dh_slots = 16
sh_slots = 1048576
mh_slots = 65521
[sysctl]
run_estimation = 0
"net.ipv4.vs.sync_threshold" = [3, 50]
[[port]]
name = "wan"
device = "0000:3b:00.0"
descriptors = 512
mtu = 9000
promiscuous = true
kernel_interface = "wan0"
addresses = ["198.51.100.8/24", "2001:db8::8/64"]
[[port]]
name = "a port with a long name"
device = "net_bonding0,mode=4"
members = ["net_null0", "0000:3b:00.1"]
kernel_interface = false
[[vlan]]
name = "clients"
port = "wan"
id = 10
kernel_interface = "wan10"
addresses = ["198.51.101.8/24"]
[[vlan]]
name = "servers"
port = "a port with a long name"
id = 20
outer_id = 200
outer_type = "802.1q"
priority = 5
mtu = 1496
kernel_interface = false
[[route]]
to = "0.0.0.0/0"
via = "192.0.2.1"
port = "a port with a long name"
[[route]]
to = "10.0.0.0/8"
port = "servers"
[[route]]
to = "192.0.2.0/24"
source = "192.0.2.254"
port = "a port with a long name"
[[neighbour]]
address = "192.0.2.1"
mac = "02:00:00:00:00:01"
port = "a port with a long name"
"#,
    )
    .unwrap();
    assert_eq!(config.control.socket, Path::new("/tmp/d.sock"));
    assert_eq!(config.control.mode, 0o600);
    assert_eq!(config.control.group, Some(Account::Name("lb".into())));
    assert_eq!(config.control.change, [Account::Name("root".into()), Account::Id(1001), Account::Id(1002)]);
    assert_eq!(config.eal, Eal { arguments: vec!["--in-memory".into()], huge_pages: HugePages::Require });
    assert_eq!(config.cores, [2, 1]);
    assert_eq!(config.connections, Connections { buckets: 5000, capacity: 100_000, destinations: 100 });
    let sizes =
        TableSizes::default().with_dh(16).and_then(|s| s.with_sh(1 << 20)).and_then(|s| s.with_mh(65_521));
    assert_eq!(Some(config.schedulers), sizes);
    let (number, pair) = (sysctl::Value::Number(0), sysctl::Value::Pair([3, 50]));
    assert_eq!(config.sysctls, [("sync_threshold", pair), ("run_estimation", number)]);
    let [wan, other] = &config.ports[..] else { panic!("two ports") };
    assert_eq!((wan.descriptors, wan.mtu, wan.promiscuous), (NonZeroU16::new(512), Some(9000), true));
    assert_eq!(wan.kernel_interface.as_deref(), Some("wan0"));
    assert_eq!(wan.addresses, ["198.51.100.8/24".parse().unwrap(), "2001:db8::8/64".parse().unwrap()]);
    assert_eq!(other.kernel_interface, None);
    assert_eq!(other.members, ["net_null0", "0000:3b:00.1"]);
    assert_eq!(config.port("a port with a long name"), Some(PortId(1)));
    let [clients, servers] = &config.vlans[..] else { panic!("two VLANs") };
    let id = VlanId::new(None, 10).unwrap();
    let expected = Vlan {
        name: "clients".into(),
        port: PortId(0),
        id,
        tags: Tags::new(id, 0x88a8, 0),
        mtu: None,
        kernel_interface: Some("wan10".into()),
        addresses: vec!["198.51.101.8/24".parse().unwrap()],
    };
    assert_eq!(clients, &expected);
    let id = VlanId::new(Some(200), 20).unwrap();
    assert_eq!((servers.port, servers.id, servers.tags), (PortId(1), id, Tags::new(id, 0x8100, 5)));
    assert_eq!((servers.mtu, &servers.kernel_interface), (Some(1496), &None));
    assert_eq!(config.port("servers"), Some(PortId(3)));
    assert_eq!(config.routes.len(), 3);
    assert_eq!(config.routes[0].via, Some("192.0.2.1".parse().unwrap()));
    assert_eq!([config.routes[1].port, config.routes[2].port], [PortId(3), PortId(1)]);
    let sources = [&config.routes[0], &config.routes[2]].map(|route| route.source);
    assert_eq!(sources, [None, Some("192.0.2.254".parse().unwrap())]);
    assert_eq!(config.neighbours[0].mac, MacAddr([2, 0, 0, 0, 0, 1]));
}

#[test]
fn buckets_follow_the_capacity() {
    for (capacity, buckets) in
        [(1_i64, 8), (1000, 600), (1 << 20, 629_146), (4_410_000, 2_646_000), (1 << 31, 1_288_490_189)]
    {
        let config = parse(&format!("{LEAST}[connections]\ncapacity = {capacity}\n")).unwrap();
        assert_eq!(config.connections.buckets, buckets, "capacity {capacity}");
    }
}

/// One row a mistake: what is added to (or put in the place of) the least file, and the line said.
#[test]
fn a_mistake_is_told_with_its_line_and_what_to_do() {
    let port = |keys: &str| format!("{LEAST}{keys}\n");
    let fixed = |keys: &str| format!("{LEAST}kernel_interface = false\n{keys}\n");
    let second = |keys: &str| format!("{LEAST}[[port]]\n{keys}\n");
    let vlan = |keys: &str| format!("{LEAST}[[vlan]]\n{keys}\n");
    let rows = [
        (
            port("[control]\nsokcet = \"/x\""),
            r#"director.toml:7: unknown key "sokcet"; did you mean "socket"?"#,
        ),
        (
            port("promiscous = true"),
            r#"director.toml:6: unknown key "promiscous"; did you mean "promiscuous"?"#,
        ),
        (
            port("[schedulers]\nsh_slots = 1000"),
            "director.toml:7: sh_slots = 1000 is no size that the table can have; give a power of two from 16 to 1048576",
        ),
        (
            port("[schedulers]\nmh_slots = -1"),
            "director.toml:7: mh_slots = -1 is no size that the table can have; give one of 251, 509, 1021, 2039, 4093, \
             8191, 16381, 32749, 65521, 131071",
        ),
        (
            port("[zebra]"),
            r#"director.toml:6: unknown key "zebra"; docs/configuration.md lists what there is"#,
        ),
        (
            "[[port]]\nname = \"wan\"\n".into(),
            r#"director.toml:1: key "device" is missing; add it to this section"#,
        ),
        (port("[control]\nmode = 660"), "director.toml:7: invalid type: integer `660`, expected a string"),
        (port("[control"), "director.toml:6: "),
        (
            port("[control]\nmode = \"0999\""),
            r#"director.toml:7: mode "0999" is not an octal file mode; write it as "0660""#,
        ),
        (port("[control]\nmode = \"7777\""), r#"director.toml:7: mode "7777" is not"#),
        (
            port("[control]\nsocket = \"run/x\""),
            r#"director.toml:7: socket "run/x" is not an absolute path of at most 107 bytes; write it as"#,
        ),
        (
            port("[control]\nchange = [\"root\", -1]"),
            "director.toml:7: -1 cannot be a user or a group; give a name in quotes, or a number",
        ),
        (port("[control]\nchange = [true]"), "director.toml:7: expected a name in quotes or a number"),
        (port("[eal]\nhuge_pages = \"maybe\""), "director.toml:7: unknown variant `maybe`, expected one of"),
        (
            "[[port]]\nname = \"a\"\ndevice = \"b\"\n".into(),
            "director.toml: no cores for workers; add a section [workers] with cores = [2]",
        ),
        (
            "[workers]\ncores = []\n[[port]]\nname = \"a\"\ndevice = \"b\"\n".into(),
            "director.toml:2: no cores",
        ),
        (
            "[workers]\ncores = [1, 2,\n1]\n[[port]]\nname = \"a\"\ndevice = \"b\"\n".into(),
            "director.toml:3: core 1 is listed twice; a worker needs a core of its own",
        ),
        (
            "[workers]\ncores = [1, 9]\n[[port]]\nname = \"a\"\ndevice = \"b\"\n".into(),
            "director.toml:2: core 9 is not on this machine or not in this process's affinity; choose from 0, 1, 2, or",
        ),
        (
            "[workers]\ncores = [-1]\n[[port]]\nname = \"a\"\ndevice = \"b\"\n".into(),
            "director.toml:2: core -1 is",
        ),
        (port("[connections]\nbuckets = 0"), "director.toml:7: buckets = 0 is out of range"),
        (
            port("[connections]\ncapacity = 2147483649"),
            "director.toml:7: capacity = 2147483649 is out of range; give a number from 1 to 2147483648",
        ),
        (
            port("[connections]\ndestinations = 0"),
            "director.toml:7: destinations = 0 is out of range; give a number",
        ),
        (
            port("[sysctl]\nrun_estimatoin = 0"),
            "director.toml:7: there is no sysctl run_estimatoin; did you mean run_estimation?",
        ),
        (
            port("[sysctl]\ndrop_entry = 4"),
            "director.toml:7: net.ipv4.vs.drop_entry cannot be 4: it takes a number from 0 to 3",
        ),
        (
            port("[sysctl]\n\nsync_version = 3"),
            "director.toml:8: net.ipv4.vs.sync_version cannot be 3: it takes a number from 0 to 1",
        ),
        (port("[sysctl]\ndrop_entry = true"), "director.toml:7: expected a number, or two in brackets"),
        (
            "[workers]\ncores = [1]\n".into(),
            "director.toml: no port; add at least one [[port]] with a name and",
        ),
        (second("name = \"\"\ndevice = \"b\""), "director.toml:7: name is empty; give it a value"),
        (second("name = \"b\"\ndevice = \"\""), "director.toml:8: device is empty; give it a value"),
        (
            second("name = \"b\"\ndevice = \"net_bonding0,mode=4\""),
            "director.toml:8: a bond needs members = [...], the devices that it is made of",
        ),
        (
            second("name = \"b\"\ndevice = \"b\"\nmembers = [\"c\"]"),
            "director.toml:9: only a bond has members; give it device = \"net_bonding0,mode=4\"",
        ),
        (
            second("name = \"b\"\ndevice = \"net_bonding0\"\nmembers = [\"0000:3b:00.0\"]"),
            r#"director.toml:9: device "0000:3b:00.0" is already used by port "wan"; each port needs its own"#,
        ),
        (
            second("name = \"wan\"\ndevice = \"b\""),
            r#"director.toml:7: name "wan" is already used by port "wan"; each port needs its own"#,
        ),
        (
            second("name = \"lan\"\ndevice = \"0000:3b:00.0\""),
            r#"director.toml:8: device "0000:3b:00.0" is already used by port "wan"; each port needs its own"#,
        ),
        (
            second("name = \"lan\"\ndevice = \"b\"\nkernel_interface = \"wan\""),
            r#"director.toml:9: kernel_interface "wan" is already used by port "wan""#,
        ),
        (vlan("name = \"v\"\nport = \"wan\""), r#"director.toml:6: key "id" is missing"#),
        (
            vlan("name = \"wan\"\nport = \"wan\"\nid = 1"),
            r#"director.toml:7: name "wan" is already used by port "wan"; each port needs its own"#,
        ),
        (
            vlan("name = \"v\"\nport = \"wam\"\nid = 1"),
            r#"director.toml:8: no port is called "wam"; did you mean "wan"?"#,
        ),
        (
            vlan("name = \"v\"\nport = \"wan\"\nid = 4095"),
            "director.toml:9: id = 4095 is out of range; give a number from 1 to 4094",
        ),
        (
            vlan("name = \"v\"\nport = \"wan\"\nid = 1\nouter_id = 0"),
            "director.toml:10: outer_id = 0 is out of range; give a number from 1 to 4094",
        ),
        (
            vlan("name = \"v\"\nport = \"wan\"\nid = 1\nouter_type = \"802.3\""),
            "director.toml:10: unknown variant `802.3`, expected",
        ),
        (
            vlan("name = \"v\"\nport = \"wan\"\nid = 1\npriority = 8"),
            "director.toml:10: priority = 8 is out of range; give a number from 0 to 7",
        ),
        (
            vlan("name = \"v\"\nport = \"wan\"\nid = 1\nmtu = 1501"),
            "director.toml:10: mtu = 1501 is out of range; give a number from 68 to 1500",
        ),
        (
            vlan("name = \"v\"\nport = \"wan\"\nid = 1\n[[vlan]]\nname = \"w\"\nport = \"wan\"\nid = 1"),
            "director.toml:13: VLAN 1 is given twice",
        ),
        (
            vlan("name = \"v\"\nport = \"wan\"\nid = 1\n[[vlan]]\nname = \"w\"\nport = \"v\"\nid = 2"),
            r#"director.toml:12: no port is called "v""#,
        ),
        (
            vlan("name = \"v\"\nport = \"wan\"\nid = 1\nkernel_interface = \"wan\""),
            r#"director.toml:10: kernel_interface "wan" is already used by port "wan""#,
        ),
        (
            port("descriptors = 0"),
            "director.toml:6: descriptors = 0 is out of range; give a number from 1 to 65535",
        ),
        (port("mtu = 67"), "director.toml:6: mtu = 67 is out of range; give a number from 68 to 65535"),
        (
            port("kernel_interface = \"sixteen-bytes-xx\""),
            r#"director.toml:6: "sixteen-bytes-xx" cannot name an interface: Linux takes 1 to 15 bytes"#,
        ),
        (port("kernel_interface = \"a/b\""), r#"director.toml:6: "a/b" cannot name an interface"#),
        (
            second("name = \"a long port name\"\ndevice = \"b\""),
            r#"director.toml:7: "a long port name" cannot name"#,
        ),
        (port("kernel_interface = 1"), "director.toml:6: expected the interface's name in quotes, or false"),
        (
            port("addresses = [\"198.51.100.8\"]"),
            r#"director.toml:6: "198.51.100.8" is not an address with the"#,
        ),
        (
            port("addresses = [\"198.51.100.8/24\", \"198.51.100.8/25\"]"),
            r#"director.toml:6: address "198.51.100.8" is already used by port "wan""#,
        ),
        (
            fixed("addresses = [\"198.51.100.8/24\"]"),
            r#"director.toml:7: port "wan" has addresses but no kernel interface to put them on"#,
        ),
        (
            fixed("[[route]]\nto = \"192.0.2.1/24\"\nport = \"wan\""),
            r#"director.toml:8: "192.0.2.1/24" has bits set after its prefix; write it as "192.0.2.0/24""#,
        ),
        (
            fixed("[[route]]\nto = \"::/0\"\nvia = \"192.0.2.1\"\nport = \"wan\""),
            "director.toml:9: an IPv6 destination cannot be reached by the IPv4 gateway 192.0.2.1",
        ),
        (
            fixed("[[route]]\nto = \"::/0\"\nsource = \"192.0.2.1\"\nport = \"wan\""),
            "director.toml:9: packets to this prefix cannot have the source 192.0.2.1",
        ),
        (
            fixed("[[route]]\nto = \"::/0\"\nvia = \"gw\"\nport = \"wan\""),
            r#"director.toml:9: "gw" is not an IP"#,
        ),
        (
            fixed("[[route]]\nto = \"::/0\"\nport = \"wam\""),
            r#"director.toml:9: no port is called "wam"; did you mean "wan"?"#,
        ),
        (
            port("[[route]]\nto = \"0.0.0.0/0\"\nvia = \"192.0.2.1\"\nport = \"wan\""),
            r#"director.toml:9: port "wan" has a kernel interface, so Linux decides; use "ip route add 0.0.0.0/0 via 192.0.2.1 dev wan""#,
        ),
        (
            fixed("[[route]]\nto = \"::/0\"\nport = \"wan\"\n[[route]]\nto = \"::/0\"\nport = \"wan\""),
            "director.toml:11: a route to ::/0 is given twice",
        ),
        (
            fixed("[[neighbour]]\naddress = \"192.0.2.1\"\nmac = \"01:00:00:00:00:01\"\nport = \"wan\""),
            r#"director.toml:9: "01:00:00:00:00:01" is not the MAC address of one host; write it as"#,
        ),
        (
            fixed("[[neighbour]]\naddress = \"224.0.0.1\"\nmac = \"02:00:00:00:00:01\"\nport = \"wan\""),
            r#"director.toml:8: "224.0.0.1" cannot be a neighbour's address; give the address of one host"#,
        ),
        (
            port("[[neighbour]]\naddress = \"192.0.2.1\"\nmac = \"02:00:00:00:00:01\"\nport = \"wan\""),
            r#"use "ip neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev wan", or set kernel_interface = false"#,
        ),
    ];
    for (text, expected) in rows {
        let error = error(&text);
        assert!(error.contains(expected), "\n in: {text}\nsaid: {error}\nwant: {expected}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load(Path::new("/nonexistent/director.toml"), &[0]).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/director.toml: cannot be read: No such file"), "{error}");
}

/// A row a sysctl, in the table's order.
#[test]
fn the_documented_sysctls_are_those_there_are() {
    let docs = include_str!("../../../docs/configuration.md");
    let section = docs.split("### `[sysctl]`").nth(1).and_then(|s| s.split("\n### ").next()).unwrap();
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| `")).collect();
    let expected = sysctl::DEFINITIONS.iter().map(|d| {
        let default = match d.default {
            sysctl::Value::Number(n) => format!("`{n}`"),
            sysctl::Value::Pair([a, b]) => format!("`[{a}, {b}]`"),
        };
        let unit =
            if d.unit.is_empty() || d.name == "sync_threshold" { "".into() } else { format!(" {}", d.unit) };
        let acts = if supported::acts(d.name) { "yes" } else { "no" };
        format!("| `{}` | {default}{unit} | {acts} | {} |", d.name, d.what)
    });
    assert_eq!(rows, expected.collect::<Vec<_>>());
}

/// What the documentation shows must work: its complete examples, and in them every key there is.
#[test]
fn the_documented_examples_are_accepted() {
    let docs = include_str!("../../../docs/configuration.md");
    let examples: Vec<_> = docs.split("```toml\n").skip(1).filter_map(|e| e.split("```").next()).collect();
    assert!(examples.len() >= 3, "found {}", examples.len());
    for example in examples {
        if let Err(e) = Config::parse(example, Path::new("docs/configuration.md"), &[0, 1, 2, 3, 4]) {
            panic!("{e}\n{example}");
        }
    }
}

#[test]
fn marking_rules_are_read_in_their_order() {
    let file = |marks: &str| {
        format!("[workers]\ncores = [1]\n{marks}\n[[port]]\nname = \"wan\"\ndevice = \"0000:3b:00.0\"\n")
    };
    let config = parse(&file(
        r#"
[[mark]]
mark = 7
protocol = "udp"
from = "203.0.113.0/24"
to = "198.51.100.8"
from_ports = "1024-65535"
to_ports = "53"
in_port = "wan"
[[mark]]
mark = 4294967295
"#,
    ))
    .unwrap();
    let rules: Vec<_> = config.marks.iter().map(ToString::to_string).collect();
    assert_eq!(
        rules,
        [
            "7 --protocol udp --from 203.0.113.0/24 --to 198.51.100.8/32 --from-ports 1024-65535 --to-ports 53 --in-port wan",
            "4294967295"
        ]
    );
    for (rule, expected) in [
        ("mark = 0", "toml:4: mark = 0"),
        ("mark = 1\nto = \"198.51.100.8/24\"", "toml:5: \"198.51.100.8/24\" is not understood; "),
        ("mark = 1\nprotocol = \"icmp\"", "write tcp, udp or sctp"),
        ("mark = 1\nto_ports = \"9-8\"", "the lower one first"),
        ("mark = 1\nin_port = \"wam\"", "toml:5: "),
        ("mark = 1\n[[mark]]\nmark = 1", "toml:6: "),
    ] {
        let error = error(&file(&format!("[[mark]]\n{rule}")));
        assert!(error.contains(expected), "{rule}: {error}");
    }
}

#[test]
fn local_addresses_are_read() {
    let file = |text: &str| {
        format!("[workers]\ncores = [1]\n{text}\n[[port]]\nname = \"lan\"\ndevice = \"0000:3b:00.0\"\n")
    };
    let config = parse(&file(
        r#"
[[local_address]]
addresses = "192.0.2.32/30"
[[local_address]]
addresses = "2001:db8:2::33"
service = "tcp:[2001:db8:64::8]:80"
port = "lan"
ports = "2000-2999"
"#,
    ))
    .unwrap();
    let all: Vec<_> = config.local_addresses.iter().map(ToString::to_string).collect();
    let second = "2001:db8:2::33/128 --service tcp:[2001:db8:64::8]:80 --port lan --ports 2000-2999";
    assert_eq!(all, ["192.0.2.32/30", second]);
    for (given, expected) in [
        ("addresses = \"192.0.2.33/24\"", "toml:4: \"192.0.2.33/24\" is not understood; "),
        ("addresses = \"192.0.0.0/16\"", "no more than 256"),
        ("addresses = \"192.0.2.33\"\nport = \"lam\"", "toml:5: "),
        ("addresses = \"192.0.2.33\"\nservice = \"80\"", "toml:5: "),
        ("addresses = \"192.0.2.33\"\nports = \"0-9\"", "ports begin with 1"),
        ("addresses = \"192.0.2.33\"\n[[local_address]]\naddresses = \"192.0.2.33/32\"", "toml:6: "),
    ] {
        let error = error(&file(&format!("[[local_address]]\n{given}")));
        assert!(error.contains(expected), "{given}: {error}");
    }
}

#[test]
fn snat_rules_are_read() {
    let file = |text: &str| {
        format!("[workers]\ncores = [1]\n{text}\n[[port]]\nname = \"wan\"\ndevice = \"0000:3b:00.0\"\n")
    };
    let config = parse(&file(
        r#"
[[snat]]
translate_to = "none"
to = "10.0.0.0/8"
[[snat]]
translate_to = "198.51.100.40-198.51.100.44,198.51.100.48/30"
protocol = "tcp"
from = "192.0.2.0/24"
out_port = "wan"
ports = "2000-2999"
[[snat]]
translate_to = "masquerade"
"#,
    ))
    .unwrap();
    let all: Vec<_> = config.snat.iter().map(ToString::to_string).collect();
    let second = "198.51.100.40-198.51.100.44,198.51.100.48/30 --protocol tcp --from 192.0.2.0/24 \
                  --out-port wan --ports 2000-2999";
    assert_eq!(all, ["none --to 10.0.0.0/8", second, "masquerade"]);
    for (given, expected) in [
        ("translate_to = \"masquerad\"", "toml:4: \"masquerad\" is not understood; did you mean masquerade?"),
        ("translate_to = \"198.51.100.40\"\nout_port = \"wam\"", "toml:5: "),
        ("translate_to = \"198.51.100.40\"\nfrom = \"2001:db8::/32\"", "toml:4: "),
        ("translate_to = \"none\"\n[[snat]]\ntranslate_to = \"none\"", "toml:6: "),
        ("from = \"192.0.2.0/24\"", "translate_to"),
    ] {
        let error = error(&file(&format!("[[snat]]\n{given}")));
        assert!(error.contains(expected), "{given}: {error}");
    }
}
