//! The maximum segment size that a service's connections are held to.

use std::fmt;
use std::str::FromStr;

use dataplane::clamp;
use dataplane::packet::tcp;
use serde::{Deserialize, Serialize};

/// The word for what fits.
const AUTO: &str = "auto";

/// The highest: what an IPv4 packet holds without options.
const MOST: u16 = u16::MAX - 40;

/// The most that SYNs of a service may announce as their maximum segment size: a number of bytes, or what fits. In text and JSON it is
/// the number, or `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Mss {
    /// What fits the links and the tunnel that connections take.
    Auto,
    /// So many bytes, within [`Mss::bytes`]'s limits.
    Bytes(u16),
}

/// Why something is no [`Mss`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a maximum segment size is {least} to {MOST} bytes, or auto", least = tcp::LEAST_MSS)]
pub struct NoMss;

impl Mss {
    /// So many bytes.
    ///
    /// # Errors
    /// For less than Linux takes, 88, and for more than fits any packet.
    pub fn bytes(bytes: u16) -> Result<Self, NoMss> {
        if (tcp::LEAST_MSS..=MOST).contains(&bytes) { Ok(Self::Bytes(bytes)) } else { Err(NoMss) }
    }
}

impl FromStr for Mss {
    type Err = NoMss;

    fn from_str(text: &str) -> Result<Self, NoMss> {
        if text == AUTO { Ok(Self::Auto) } else { Self::bytes(text.parse().map_err(|_| NoMss)?) }
    }
}

impl fmt::Display for Mss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str(AUTO),
            Self::Bytes(bytes) => bytes.fmt(f),
        }
    }
}

/// As JSON has it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Bytes(u16),
    Word(String),
}

impl TryFrom<Written> for Mss {
    type Error = NoMss;

    fn try_from(written: Written) -> Result<Self, NoMss> {
        match written {
            Written::Bytes(bytes) => Self::bytes(bytes),
            Written::Word(word) if word == AUTO => Ok(Self::Auto),
            Written::Word(_) => Err(NoMss),
        }
    }
}

impl From<Mss> for Written {
    fn from(mss: Mss) -> Self {
        match mss {
            Mss::Auto => Self::Word(AUTO.to_owned()),
            Mss::Bytes(bytes) => Self::Bytes(bytes),
        }
    }
}

impl From<Mss> for clamp::Mss {
    fn from(mss: Mss) -> Self {
        match mss {
            Mss::Auto => Self::Auto,
            Mss::Bytes(bytes) => Self::Bytes(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_say_the_same() {
        for (text, json, mss) in [
            ("auto", "\"auto\"", Some(Mss::Auto)),
            ("1400", "1400", Some(Mss::Bytes(1400))),
            ("88", "88", Some(Mss::Bytes(88))),
            ("65495", "65495", Some(Mss::Bytes(65495))),
            ("87", "87", None),
            ("65496", "65496", None),
            ("70000", "70000", None),
            ("-1", "-1", None),
            ("", "\"\"", None),
            ("Auto", "\"Auto\"", None),
        ] {
            assert_eq!(text.parse().ok(), mss, "{text}");
            assert_eq!(serde_json::from_str::<Mss>(json).ok(), mss, "{json}");
            if let Some(mss) = mss {
                assert_eq!(
                    (mss.to_string(), serde_json::to_string(&mss).unwrap()),
                    (text.to_owned(), json.to_owned())
                );
            }
        }
        assert_eq!(NoMss.to_string(), "a maximum segment size is 88 to 65495 bytes, or auto");
    }
}
