//! SIP: a message's Call-ID (RFC 3261 §20.8), found as Linux finds it for IPVS's persistence engine.
//!
//! Reads no more than the bytes it is given and follows nothing that they say.

/// The longest Call-ID that means anything, in bytes (IPVS's IP_VS_PEDATA_MAXLEN).
pub const LONGEST_CALL_ID: usize = 255;

/// The Call-ID of a SIP message: of its first `Call-ID:` or `i:` line that has one. `None` where no line has, where it is longer than
/// [`LONGEST_CALL_ID`], and where no line ends after it.
pub fn call_id(message: &[u8]) -> Option<&[u8]> {
    let mut rest = message;
    // The first line is the request's, or the status.
    while let Some(line) = next_line(rest) {
        rest = line;
        let Some(value) = header(line) else { continue };
        let length = call_id_length(value);
        if length > 0 {
            let ends = matches!(value.get(length), Some(b'\r' | b'\n'));
            return value.get(..length).filter(|_| ends && length <= LONGEST_CALL_ID);
        }
    }
    None
}

/// What comes after the next line break, be that CR, LF or both.
fn next_line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|byte| is_break(*byte))?;
    let after = if bytes[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
    bytes.get(after..).filter(|rest| !rest.is_empty())
}

fn is_break(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// The value of the Call-ID that a line begins with, whatever follows it.
fn header(line: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"Call-ID";
    let after = match line.get(..NAME.len()) {
        Some(name) if name.eq_ignore_ascii_case(NAME) => &line[NAME.len()..],
        // The short form, which longer names may begin with.
        _ => match line {
            [b'i' | b'I', after @ ..] if after.first().is_some_and(|byte| !byte.is_ascii_alphabetic()) => {
                after
            }
            _ => return None,
        },
    };
    skip_blanks(skip_blanks(after)?.strip_prefix(b":")?)
}

/// What comes after white space, a line break that white space follows included. `None` at the end of a line.
fn skip_blanks(bytes: &[u8]) -> Option<&[u8]> {
    let start = bytes.iter().position(|byte| !is_blank(*byte))?;
    let rest = &bytes[start..];
    if !is_break(rest[0]) {
        return Some(rest);
    }
    let next = next_line(rest)?;
    if !is_blank(next[0]) {
        return None;
    }
    let start = next.iter().position(|byte| !is_blank(*byte))?;
    Some(&next[start..])
}

/// The length of `word [ "@" word ]` (RFC 3261 §25.1); 0 where that is not what stands there.
fn call_id_length(bytes: &[u8]) -> usize {
    let word = |bytes: &[u8]| bytes.iter().position(|byte| !is_of_word(*byte)).unwrap_or(bytes.len());
    let local = word(bytes);
    match bytes.get(local) {
        Some(b'@') if local > 0 => match word(&bytes[local + 1..]) {
            0 => 0,
            host => local + 1 + host,
        },
        _ => local,
    }
}

/// A character of RFC 3261's `word`.
fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-.!%*_+`'~()<>:\\\"/[]?{}".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_call_id_is_found_where_linux_finds_it() {
        let long = "x".repeat(LONGEST_CALL_ID);
        for (message, expected) in [
            (
                "INVITE sip:a@b SIP/2.0\r\nVia: x\r\nCall-ID: abc1@203.0.113.14\r\nCSeq: 1 INVITE\r\n\r\n",
                Some("abc1@203.0.113.14"),
            ),
            ("SIP/2.0 200 OK\r\ncall-id:abc\r\n", Some("abc")),
            ("SIP/2.0 200 OK\ni: abc@h\n", Some("abc@h")),
            ("SIP/2.0 200 OK\rI \t:\t abc@h\r", Some("abc@h")),
            // A name that is only longer than the short form.
            ("x\r\nInfo: no\r\nCall-ID: a\r\n", Some("a")),
            // On a line of its own, that the name's goes on in.
            ("x\r\nCall-ID:\r\n  a@b\r\n", Some("a@b")),
            ("x\r\nCall-ID:\r\na@b\r\n", None),
            // The first line has none.
            ("Call-ID: a\r\n", None),
            ("Call-ID: a\r\nCall-ID: b\r\n", Some("b")),
            // Not whole.
            ("x\r\nCall-ID: a@b", None),
            ("x\r\nCall-ID: a@\r\n", None),
            ("x\r\nCall-ID: a@\r\ni: b\r\n", Some("b")),
            ("x\r\nCall-ID: a b\r\n", None),
            ("x\r\nCall-ID \r\n", None),
            ("x\r\nCall-ID", None),
            ("x\r\ni", None),
            ("x\r\n", None),
            ("x", None),
            ("", None),
            // A line that goes on is no new one.
            ("x\r\n Call-ID: a\r\nCall-ID: b\r\n", Some("b")),
        ] {
            let found = call_id(message.as_bytes()).map(|id| std::str::from_utf8(id).unwrap());
            assert_eq!(found, expected, "{message:?}");
        }
        let message = |id: &str| format!("x\r\nCall-ID: {id}\r\n").into_bytes();
        assert_eq!(call_id(&message(&long)), Some(long.as_bytes()));
        assert_eq!(call_id(&message(&format!("{long}x"))), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_a_call_id_is_of_it(
            parts in prop::collection::vec(prop_oneof!["[ -~\r\n\t]{0,12}", Just("\r\nCall-ID: ".into()), Just("\ni:".into())], 0..12),
        ) {
            let message = parts.concat();
            if let Some(id) = call_id(message.as_bytes()) {
                prop_assert!((1..=LONGEST_CALL_ID).contains(&id.len()));
                prop_assert!(id.iter().all(|byte| is_of_word(*byte) || *byte == b'@'));
                prop_assert!(message.contains(std::str::from_utf8(id).unwrap()));
            }
        }

        #[test]
        fn random_bytes_are_no_matter(message in prop::collection::vec(any::<u8>(), 0..600)) {
            call_id(&message);
        }
    }
}
