//! What a step's words ask for: the recorder's own notation (`client SA`, `wait 2`), and the sentences that it used.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Result, bail};
use regex::Regex;

use crate::frames::is_chunk;

/// Something that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Time goes by.
    Wait(Duration),
    /// The client sends a TCP segment with these flags.
    Client(String),
    /// The server does, if that goes through the director.
    Server(String),
    /// The client sends a datagram.
    Datagram,
    /// The client sends an SCTP chunk of this name.
    ClientChunk(String),
    /// The server does.
    ServerChunk(String),
    /// A real client connects, asks and is answered.
    Handshake,
    /// All servers of the service are deleted.
    DeleteServers,
    /// The service is deleted.
    DeleteService,
    /// The servers get the weights that the destinations' lines show.
    Weights,
}

fn pattern(text: &str) -> Regex {
    #[expect(clippy::expect_used, reason = "the patterns are constants, and every test compiles them")]
    Regex::new(text).expect("a pattern")
}

static WAIT: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(?:wait (\d+)|(\d+) s (?:idle|later))(?:, )?"));
static PACKET: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^(?:then )?(?:-[mgi] )?(client|server) (SYN|ACK|FIN|RST|[SAFRP]+|[A-Z]+(?:-[A-Z]+)*)$")
});

/// What `step` asks for. `state` is the state that the connection was in afterwards.
///
/// # Errors
/// Where nothing of it is known.
pub fn actions(step: &str, state: Option<&str>) -> Result<Vec<Action>> {
    let mut actions = Vec::new();
    let mut rest = step;
    if let Some(found) = WAIT.captures(step) {
        let seconds = found.get(1).or_else(|| found.get(2)).and_then(|m| m.as_str().parse().ok());
        actions.push(Action::Wait(Duration::from_secs(seconds.unwrap_or_default())));
        rest = step.get(found[0].len()..).unwrap_or_default();
    }
    if rest.is_empty() {
        return Ok(actions);
    }
    if let Some(found) = PACKET.captures(rest) {
        let from_client = &found[1] == "client";
        let said = match &found[2] {
            "SYN" => "S",
            "ACK" => "A",
            "FIN" => "FA",
            "RST" => "R",
            said => said,
        };
        actions.push(match (is_chunk(said), from_client) {
            (true, true) => Action::ClientChunk(said.to_owned()),
            (true, false) => Action::ServerChunk(said.to_owned()),
            (false, true) if said.chars().all(|flag| "SAFRP".contains(flag)) => {
                Action::Client(said.to_owned())
            }
            (false, false) if said.chars().all(|flag| "SAFRP".contains(flag)) => {
                Action::Server(said.to_owned())
            }
            _ => bail!("nobody knows how to send {said}"),
        });
        return Ok(actions);
    }
    let Some(found) = sentence(rest, state) else { bail!("nobody knows how to do “{rest}”") };
    actions.extend(found);
    Ok(actions)
}

/// The recorder's sentences, by what only they have in them.
fn sentence(text: &str, state: Option<&str>) -> Option<Vec<Action>> {
    let client = |flags: &str| Action::Client(flags.to_owned());
    let server = |flags: &str| Action::Server(flags.to_owned());
    let has = |words: &str| text.contains(words);
    let refused = || vec![client("S"), server("RA")];
    Some(match text {
        _ if has("handshake done") => vec![Action::Handshake],
        _ if has("established, then client RST") => vec![Action::Handshake, client("R")],
        _ if has("established, then server RST") => vec![Action::Handshake, server("RA")],
        _ if has("client sent data") => vec![client("PA"), server("A")],
        _ if has("server sent data") => vec![server("PA"), client("A")],
        _ if has("server closed first") => vec![Action::Handshake, server("FA"), client("A")],
        _ if has("client FIN too") => vec![client("FA"), server("A")],
        _ if has("client FIN, server ACKed") => vec![client("FA"), server("A")],
        _ if has("server FIN, client ACKed") => vec![server("FA"), client("A")],
        _ if has("SYN -> RST") => refused(),
        _ if has("UDP") || has("second packet") => vec![Action::Datagram],
        _ if has("servers deleted") => vec![Action::DeleteServers],
        _ if has("service deleted") => vec![Action::DeleteService],
        _ if has("new SYN") && has("weight") => vec![Action::Weights, client("S")],
        "established" => vec![server("SA"), client("A")],
        "RST" => vec![client("R")],
        // Sentences that name a state; the recorded one tells how the connection came there.
        _ if has("SYN") => vec![client("S")],
        _ if has("FIN_WAIT") || has("TIME_WAIT") || has("CLOSE") => match state? {
            "CLOSE" => refused(),
            "FIN_WAIT" => vec![Action::Handshake, server("FA")],
            "CLOSE_WAIT" => vec![Action::Handshake, client("FA")],
            "TIME_WAIT" => vec![Action::Handshake, client("FA"), server("FA"), client("A")],
            _ => return None,
        },
        // Another look at what there is.
        _ if has("with --") => Vec::new(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_understood() {
        let client = |flags: &str| Action::Client(flags.into());
        let wait = |seconds| Action::Wait(Duration::from_secs(seconds));
        let cases = [
            ("client SA", vec![client("SA")]),
            ("wait 3", vec![wait(3)]),
            ("2 s later, RST", vec![wait(2), client("R")]),
            ("2 s later", vec![wait(2)]),
            ("-m client COOKIE-ECHO", vec![Action::ClientChunk("COOKIE-ECHO".into())]),
            ("then client ACK", vec![client("A")]),
            ("server RA", vec![Action::Server("RA".into())]),
            ("-g UDP first packet", vec![Action::Datagram]),
        ];
        for (step, expected) in cases {
            assert_eq!(actions(step, None).unwrap(), expected, "{step}");
        }
        for unknown in ["client XYZ", "the moon rises"] {
            assert!(actions(unknown, None).is_err(), "{unknown}");
        }
    }
}
