//! Test vectors that scapy made; the scripts that make them anew lie beside them in `tests/scapy`.

/// A line's name and the byte strings after it. Lines are `name hex hex …`; `-` stands for no bytes, `#` begins a comment.
pub(crate) fn vectors(text: &'static str) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let vectors: Vec<_> = lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap();
            (name, words.map(bytes).collect())
        })
        .collect();
    assert!(!vectors.is_empty());
    vectors
}

/// The bytes that hexadecimal digits stand for.
pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.strip_prefix('-').unwrap_or(hex);
    assert!(digits.len().is_multiple_of(2), "{hex}");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
