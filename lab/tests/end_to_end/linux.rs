//! What is not balanced is Linux's: director behaves as any Linux machine.

use anyhow::Result;
use lab::topology::{DIRECTOR, VIP};
use lab::{Mode, Wire, wait_until};
use std::time::Duration;

use crate::play;

#[test]
fn the_vip_and_director_answer_pings() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, |scene| {
        for address in [VIP, DIRECTOR] {
            let said = scene.lab.client.run(&format!("ping -c 5 -i 0.2 -W 2 {address}"))?;
            assert!(said.contains(" 0% packet loss"), "{said}");
        }
        let big = scene.lab.client.run(&format!("ping -c 2 -i 0.2 -W 2 -s 1472 -M do {VIP}"))?;
        assert!(big.contains(" 0% packet loss"), "a full frame: {big}");
        scene.director.check_counters()?;
        Ok(())
    })
}

#[test]
fn the_kernel_interface_has_the_ports_mac_and_addresses() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, |scene| {
        for port in &scene.lab.ports {
            let host = &scene.lab.director;
            assert_eq!(host.mac(port.kernel_interface)?, host.mac(port.device)?);
            let addresses = host.ip(&format!("-4 -o address show dev {}", port.kernel_interface))?;
            assert!(port.addresses.iter().all(|address| addresses.contains(address)), "{addresses}");
        }
        Ok(())
    })
}

#[test]
fn an_unbalanced_port_of_the_vip_is_refused_with_a_reset() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, |scene| {
        let done = scene.lab.client.try_run(&format!("curl -sS --max-time 5 http://{VIP}:81/"))?;
        // 7: could not connect; a time-out would be 28.
        assert_eq!(done.status.code(), Some(7), "{}", done.stderr);
        Ok(())
    })
}

#[test]
fn a_service_on_directors_own_address_answers() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, |scene| {
        let _listener = scene
            .lab
            .director
            .spawn(&format!("socat TCP-LISTEN:22,bind={DIRECTOR},reuseaddr,fork EXEC:uname"))?;
        let ask =
            || scene.lab.client.try_run(&format!("socat -T 5 -u TCP:{DIRECTOR}:22,connect-timeout=5 -"));
        wait_until("the service answers", Duration::from_secs(5), || Ok(ask()?.stdout == "Linux\n"))?;
        scene.director.check_counters()?;
        Ok(())
    })
}

#[test]
fn director_itself_reaches_the_servers_through_its_port() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, |scene| {
        for server in &scene.lab.servers {
            let page =
                scene.lab.director.run(&format!("curl -sSf --max-time 5 http://{}/", server.address))?;
            assert!(page.contains(&server.address));
        }
        Ok(())
    })
}
