//! What somebody may have meant who wrote something else.

/// The candidate that `word` is most likely a slip of the finger for, if any is near enough.
pub fn nearest(word: &str, candidates: impl IntoIterator<Item = impl Into<String>>) -> Option<String> {
    candidates
        .into_iter()
        .map(Into::into)
        .map(|c: String| (strsim::damerau_levenshtein(word, &c), c))
        .filter(|(distance, c)| *distance <= 1 + c.chars().count() / 4)
        .min()
        .map(|(_, c)| c)
}

/// The candidate that is `name` but for one part of it, and in that part a slip of the finger. Names are of services and
/// destinations, `tcp:198.51.100.8:80`: addresses and ports of any two look too much alike to go by the whole of them.
pub fn nearest_name(name: &str, candidates: impl IntoIterator<Item = String>) -> Option<String> {
    let wanted = parts(name);
    let slip = |(wanted, other): (&str, &str), letters_a_slip: usize| {
        let distance = strsim::damerau_levenshtein(wanted, other);
        let longer = wanted.len().max(other.len());
        (distance <= 1 + longer / letters_a_slip && distance < longer).then_some(distance)
    };
    let distance = |candidate: &String| {
        let other = parts(candidate);
        let mut different = wanted.into_iter().zip(other).enumerate().filter(|(_, (a, b))| a != b);
        match (different.next(), different.next()) {
            // Of TCP, UDP and SCTP any may be meant for any other, and so may the families of a mark.
            (Some((0, _)), None) => Some(1),
            (Some((1, addresses)), None) => slip(addresses, 8),
            (Some((_, ports)), None) => slip(ports, 4),
            _ => None,
        }
    };
    let near = candidates.into_iter().filter_map(|candidate| Some((distance(&candidate)?, candidate)));
    near.min().map(|(_, candidate)| candidate)
}

/// What a name begins with up to the first colon, what is between, and the port. Of a destination there is no beginning; of a
/// mark, it is the family.
fn parts(name: &str) -> [&str; 3] {
    if let Some(mark) = name.strip_prefix("mark:") {
        let (mark, family) = mark.split_once(':').unwrap_or((mark, "ipv4"));
        return [family, mark, "mark"];
    }
    let (kind, rest) = match name.split_once(':') {
        Some((kind, rest)) if kind.chars().all(|letter| letter.is_ascii_alphabetic()) => (kind, rest),
        _ => ("", name),
    };
    let (address, port) = rest.rsplit_once(':').unwrap_or((rest, ""));
    [kind, address, port]
}

/// `; did you mean …?`, where there is something to suggest.
pub fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_near_that_is_another_in_one_part() {
        let known =
            ["tcp:198.51.100.8:80", "udp:198.51.100.9:53", "mark:17", "mark:8:ipv6", "tcp:[2001:db8::8]:443"];
        let nearest = |name| nearest_name(name, known.map(str::to_owned));
        for (name, meant) in [
            ("tcp:198.51.100.8:81", known[0]),
            ("tcp:198.51.100.8:8080", known[0]),
            ("tcp:198.51.100.7:80", known[0]),
            ("tcp:198.15.100.8:80", known[0]),
            ("tcp:198.51.100.9:53", known[1]),
            ("mark:7", known[2]),
            ("mark:8", known[3]),
            ("tcp:[2001:db8::9]:443", known[4]),
        ] {
            assert_eq!(nearest(name).as_deref(), Some(meant), "{name}");
        }
        for name in
            ["tcp:9.9.9.9:9", "tcp:198.51.100.8:443", "tcp:198.51.200.99:80", "mark:5", "udp:10.0.0.1:53"]
        {
            assert_eq!(nearest(name), None, "{name}");
        }
        let servers = || ["192.0.2.9:80", "192.0.2.10:80", "[2001:db8::9]:80"].map(str::to_owned);
        assert_eq!(nearest_name("192.0.2.8:80", servers()).as_deref(), Some("192.0.2.9:80"));
        assert_eq!(nearest_name("10.0.0.8:80", servers()), None);
    }
}
