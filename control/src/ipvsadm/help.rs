//! How to use it, and which ipvsadm it is like.

use std::io::{self, Write};

use super::list::IPVS_VERSION;

/// The version line of the ipvsadm whose language this is. Scripts look at it to learn what they may use.
pub fn version(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v{IPVS_VERSION})")
}

/// What `-h` prints.
pub fn usage(out: &mut dyn Write, program: &str) -> io::Result<()> {
    version(out)?;
    writeln!(out, "Usage:")?;
    let ways = [
        "-A|-E SERVICE [-s SCHEDULER] [-p [SECONDS]] [-M MASK] [--pe ENGINE] [-b FLAGS] [-o] [--announce HOW] [--mss N|auto]",
        "-D SERVICE",
        "-a|-e SERVICE -r SERVER [-g|-i|-m|--fullnat] [-w WEIGHT] [-x UPPER] [-y LOWER] [tunnel options]",
        "-d SERVICE -r SERVER",
        "-L|-l [SERVICE] [list options]",
        "-Z [SERVICE]",
        "-C | -R | -S [-n]",
        "--set TCP TCPFIN UDP",
        "--start-daemon master|backup [daemon options]",
        "--stop-daemon master|backup",
        "-h | -v",
    ];
    for way in ways {
        writeln!(out, "  {program} {way}")?;
    }
    out.write_all(OPTIONS.as_bytes())
}

const OPTIONS: &str = "
Commands, the first word:
  -A --add-service      add a virtual service     -a --add-server      add a real server
  -E --edit-service     replace its attributes    -e --edit-server     replace its attributes
  -D --delete-service   delete it                 -d --delete-server   delete it
  -C --clear            delete every service      -Z --zero            start counters at zero
  -L -l --list          print a list              --set                set timeouts (0 keeps one)
  -S --save             print rules               -R --restore         read rules from standard input

SERVICE:
  -t --tcp-service ADDRESS:PORT      -u --udp-service ADDRESS:PORT      --sctp-service ADDRESS:PORT
  -f --fwmark-service MARK [-6]      a firewall mark; -6 for IPv6 packets
  -s --scheduler NAME    rr wrr lc wlc lblc lblcr dh sh sed nq fo ovf mh twos; wlc if none is given
  -b --sched-flags LIST  sh-fallback sh-port mh-fallback mh-port flag-1 flag-2 flag-3
  -p --persistent [N]    a client stays with its server for N seconds (360) after its last connection
  -M --netmask MASK      clients alike under MASK (IPv6: of one prefix length) count as one
  --pe NAME              persistence engine: sip
  -o --ops               one-packet scheduling (UDP)
  --announce HOW         how servers by --fullnat learn of their clients: toa proxy-v1 proxy-v2 (TCP)
  --mss N|auto           the most that SYNs may announce as their maximum segment size; auto for what fits (TCP)

SERVER:
  -r --real-server ADDRESS[:PORT]
  -g --gatewaying (default)   -i --ipip   -m --masquerading   --fullnat
  -w --weight N   -x --u-threshold N   -y --l-threshold N
  --tun-type ipip|gue|gre   --tun-port N   --tun-nocsum | --tun-csum | --tun-remcsum

Lists:
  -n --numeric        no names            -c --connection     connections instead of services
  --stats             counters            --rate              counters per second
  --thresholds        -x and -y           --persistent-conn   persistence
  --tun-info          tunnels             -X --exact          every digit of large numbers
  --timeout           the timeouts        --daemon            synchronisation daemons
  --nosort            as they come        --sort              in order (default)

Daemons:
  --mcast-interface IF (eth0)  --syncid N  --sync-maxlen N  --mcast-group G  --mcast-port P  --mcast-ttl T
";
