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

/// `; did you mean …?`, where there is something to suggest.
pub fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"))
}
