//! Words: commands, requests and configuration files. None may panic, and what is refused changes nothing.

use std::path::Path;

use control::config::Config;
use control::protocol::Request;
use replay::stage::Stage;

/// Lines of ipvsadm's words.
pub fn commands(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    with_stage(|stage| {
        for line in text.lines().take(32) {
            let before = stage.request(&Request::Configuration)?;
            let printed = stage.ipvsadm(line)?;
            let after = stage.request(&Request::Configuration)?;
            assert!(printed.status == 0 || after == before, "{line:?} {printed:?}");
        }
        Ok(())
    });
}

/// Lines of JSON, as the socket takes them.
pub fn requests(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    with_stage(|stage| {
        for line in text.lines().take(32) {
            let Ok(request) = serde_json::from_str::<Request>(line) else { continue };
            let before = stage.request(&Request::Configuration)?;
            let answer = stage.request(&request);
            let after = stage.request(&Request::Configuration)?;
            assert!(answer.is_ok() || after == before, "{line:?} {answer:?}");
        }
        Ok(())
    });
}

/// A configuration file.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = Config::parse(text, Path::new("director.toml"), &[0, 1]) {
        assert!(!error.to_string().is_empty());
    }
}

fn with_stage(what: impl FnOnce(&Stage) -> anyhow::Result<()>) {
    let outcome = Stage::sized(|_| Ok(()), 256).and_then(|stage| what(&stage));
    assert!(outcome.is_ok(), "{outcome:?}");
}
