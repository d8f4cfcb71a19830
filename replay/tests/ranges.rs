//! Services for more than one address or port, in ipvsadm's language: what is taken, listed, saved and refused.

use anyhow::Result;
use replay::stage::Stage;

fn stage() -> Result<Stage> {
    Stage::new(|_| Ok(()))
}

fn done(stage: &Stage, words: &str) -> Result<String> {
    let printed = stage.ipvsadm(words)?;
    assert_eq!((printed.status, printed.err.as_str()), (0, ""), "ipvsadm {words}");
    Ok(printed.out)
}

#[test]
fn a_range_is_a_service_as_any_other() -> Result<()> {
    let stage = stage()?;
    for words in [
        "-A -t 198.51.100.0/24:80 -s rr",
        "-A -t 198.51.100.0/25:80 -s wlc",
        "-A -t 198.51.100.0:80 -s rr",
        "-A -t 198.51.100.0/24:80-89 -s rr",
        "-A -u 198.51.100.8:8000-8099 -s rr -o",
        "-A -t 198.51.100.0/24:0 -s rr -p 60",
        "-A --sctp-service [2001:db8::/64]:53 -s sh",
        "-a -t 198.51.100.0/24:80-89 -r 192.0.2.9:8080 -m",
        "-a -t 198.51.100.0/24:80-89 -r 192.0.2.10:8080 -g",
        "-a -t 198.51.100.0/24:80 -r 192.0.2.9:8080 -g",
    ] {
        done(&stage, words)?;
    }
    assert_eq!(
        done(&stage, "-Ln")?,
        "IP Virtual Server version 1.2.1 (size=4096)\n\
         Prot LocalAddress:Port Scheduler Flags\n  \
           -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n\
         TCP  198.51.100.0/24:0 rr persistent 60\n\
         TCP  198.51.100.0:80 rr\n\
         TCP  198.51.100.0/25:80 wlc\n\
         TCP  198.51.100.0/24:80 rr\n  \
           -> 192.0.2.9:80                 Route   1      0          0         \n\
         TCP  198.51.100.0/24:80-89 rr\n  \
           -> 192.0.2.9:8080               Masq    1      0          0         \n  \
           -> 192.0.2.10:0                 Route   1      0          0         \n\
         UDP  198.51.100.8:8000-8099 rr ops\n\
         SCTP [2001:db8::/64]:53 sh\n"
    );
    let saved = done(&stage, "-Sn")?;
    assert!(saved.contains("-A -u 198.51.100.8:8000-8099 -s rr -o\n"), "{saved}");
    assert!(saved.contains("-a -t 198.51.100.0/24:80-89 -r 192.0.2.10:0 -g -w 1\n"), "{saved}");
    let again = self::stage()?;
    for line in saved.lines() {
        done(&again, line)?;
    }
    assert_eq!(done(&again, "-Sn")?, saved);

    done(&stage, "-E -t 198.51.100.0/25:80 -s lc")?;
    done(&stage, "-Z -t 198.51.100.0/25:80")?;
    assert!(done(&stage, "-Ln -t 198.51.100.0/25:80")?.contains("198.51.100.0/25:80 lc\n"));
    done(&stage, "-D -t 198.51.100.0/25:80")?;
    assert_eq!(stage.ipvsadm("-D -t 198.51.100.0/25:80")?.err, "No such service\n");
    let exists = stage.ipvsadm("-A -t 198.51.100.0/24:80-89 -s rr")?;
    assert_eq!((exists.status, exists.err.as_str()), (255, "Service already exists\n"));
    Ok(())
}

#[test]
fn what_is_one_address_and_port_is_no_range() -> Result<()> {
    let stage = stage()?;
    done(&stage, "-A -t 198.51.100.8/32:80-80 -s rr")?;
    assert_eq!(stage.ipvsadm("-A -t 198.51.100.8:80")?.err, "Service already exists\n");
    assert_eq!(done(&stage, "-Sn")?, "-A -t 198.51.100.8:80 -s rr\n");
    Ok(())
}

#[test]
fn what_is_no_range_is_refused_as_ipvsadm_refuses_an_address() -> Result<()> {
    let stage = stage()?;
    for service in [
        "198.51.100.8/24:80",
        "198.51.100.0/33:80",
        "198.51.100.0/24:90-80",
        "198.51.100.0/24:0-80",
        "198.51.100.0/24:80-65536",
        "[198.51.100.0/24]:80x",
        "[2001:db8::1/64]:53",
    ] {
        let refused = stage.ipvsadm(&format!("-A -t {service}"))?;
        assert!(
            refused.err.starts_with("illegal virtual server address[:port] specified"),
            "{service}: {refused:?}"
        );
        assert_eq!(refused.status, 2, "{service}");
    }
    let refused = stage.ipvsadm("-A -t 198.51.100.0/24:0 -s rr")?;
    assert!(refused.err.starts_with("Zero port specified for non-persistent service"), "{refused:?}");
    assert_eq!(done(&stage, "-Sn")?, "");
    Ok(())
}
