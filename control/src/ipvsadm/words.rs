//! Splits a command into options and their arguments, as the library popt does for ipvsadm.
//!
//! It knows which options there are and which take an argument, and nothing of what they mean.

use super::options::{DEFINITIONS, Definition, Switch, TakesArgument};

/// What is wrong with a word, with the word popt blames.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadWord {
    /// There is no such option.
    #[error("{0}: unknown option")]
    Unknown(String),
    /// The option needs an argument and there is none left.
    #[error("{0}: missing argument")]
    MissingArgument(String),
    /// `--option=argument` for an option that takes none.
    #[error("{0}: option does not take an argument")]
    UnwantedArgument(String),
}

/// An option and its argument, if it took one.
pub type Item = (Switch, Option<String>);

/// Takes a command apart, one option at a time.
pub struct Words<'a> {
    words: &'a [String],
    next: usize,
    /// What is left of a word of short options.
    cluster: &'a str,
    /// True after `--`.
    only_arguments: bool,
    arguments: Vec<String>,
}

impl<'a> Words<'a> {
    /// `words` are the command's without the program's name.
    pub fn new(words: &'a [String]) -> Self {
        Self { words, next: 0, cluster: "", only_arguments: false, arguments: Vec::new() }
    }

    /// The word that was taken last: the one popt names in a complaint.
    pub fn last_word(&self) -> String {
        self.next.checked_sub(1).and_then(|i| self.words.get(i)).cloned().unwrap_or_default()
    }

    /// The words that are neither an option nor an option's argument. Complete when [`Iterator::next`] has
    /// returned `None`.
    pub fn into_arguments(self) -> Vec<String> {
        self.arguments
    }

    fn take(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.next)?;
        self.next += 1;
        Some(word)
    }

    fn short(&mut self) -> Result<Item, BadWord> {
        let mut letters = self.cluster.chars();
        let letter = letters.next();
        let rest = letters.as_str();
        self.cluster = "";
        let definition = DEFINITIONS.iter().find(|d| d.short.is_some() && d.short == letter);
        let definition = definition.ok_or_else(|| BadWord::Unknown(self.last_word()))?;
        match (definition.takes, rest.strip_prefix('=')) {
            (TakesArgument::No, Some(_)) => Err(BadWord::UnwantedArgument(self.last_word())),
            (TakesArgument::No, None) => {
                self.cluster = rest;
                Ok((definition.switch, None))
            }
            (_, Some(argument)) => Ok((definition.switch, Some(argument.to_owned()))),
            (_, None) if !rest.is_empty() => Ok((definition.switch, Some(rest.to_owned()))),
            (_, None) => self.argument(definition),
        }
    }

    fn long(&mut self, word: &str) -> Result<Item, BadWord> {
        let (name, given) = match word.split_once('=') {
            Some((name, given)) => (name, Some(given)),
            None => (word, None),
        };
        let definition = DEFINITIONS.iter().find(|d| d.long == name);
        let definition = definition.ok_or_else(|| BadWord::Unknown(self.last_word()))?;
        match (definition.takes, given) {
            (TakesArgument::No, None) => Ok((definition.switch, None)),
            (TakesArgument::No, Some(_)) => Err(BadWord::UnwantedArgument(self.last_word())),
            (_, Some(given)) => Ok((definition.switch, Some(given.to_owned()))),
            (_, None) => self.argument(definition),
        }
    }

    /// The next word as `definition`'s argument, whatever it looks like; an optional one must not look like an
    /// option.
    fn argument(&mut self, definition: &Definition) -> Result<Item, BadWord> {
        let optional = definition.takes == TakesArgument::Optional;
        let next = self.words.get(self.next);
        if optional && next.is_none_or(|word| word.starts_with('-')) {
            return Ok((definition.switch, None));
        }
        match self.take() {
            Some(argument) => Ok((definition.switch, Some(argument.to_owned()))),
            None => Err(BadWord::MissingArgument(self.last_word())),
        }
    }
}

impl Iterator for Words<'_> {
    type Item = Result<Item, BadWord>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.cluster.is_empty() {
            return Some(self.short());
        }
        while let Some(word) = self.take() {
            let is_argument = self.only_arguments || word == "-" || !word.starts_with('-');
            match word.strip_prefix("--") {
                _ if is_argument => self.arguments.push(word.to_owned()),
                Some("") => self.only_arguments = true,
                Some(long) => return Some(self.long(long)),
                None => {
                    self.cluster = &word[1..];
                    return Some(self.short());
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> (Vec<String>, Vec<String>) {
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        let mut split = Words::new(&words);
        let mut items = Vec::new();
        for item in split.by_ref() {
            let stop = item.is_err();
            items.push(match item {
                Ok((switch, None)) => format!("{switch:?}"),
                Ok((switch, Some(argument))) => format!("{switch:?}={argument}"),
                Err(e) => e.to_string(),
            });
            if stop {
                break;
            }
        }
        (items, split.into_arguments())
    }

    #[test]
    fn words_are_split_as_popt_splits_them() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("-Lnc", &["List", "Numeric", "Connection"], &[]),
            ("-A -t1.2.3.4:80 -s=rr", &["AddService", "Tcp=1.2.3.4:80", "Scheduler=rr"], &[]),
            ("-s==rr", &["Scheduler==rr"], &[]),
            ("--scheduler= -n", &["Scheduler=", "Numeric"], &[]),
            (
                "-p -n -p 30 -p30 -p=30",
                &["Persistent", "Numeric", "Persistent=30", "Persistent=30", "Persistent=30"],
                &[],
            ),
            ("-p", &["Persistent"], &[]),
            ("-s -n", &["Scheduler=-n"], &[]),
            ("-Lq", &["List", "-Lq: unknown option"], &[]),
            ("-n=c", &["-n=c: option does not take an argument"], &[]),
            ("-L --numeric=5", &["List", "--numeric=5: option does not take an argument"], &[]),
            ("-A -t", &["AddService", "-t: missing argument"], &[]),
            ("-L x -n - -- -y", &["List", "Numeric"], &["x", "-", "-y"]),
            ("--lis", &["--lis: unknown option"], &[]),
        ];
        for (line, items, arguments) in cases {
            let (got_items, got_arguments) = split(line);
            assert_eq!(got_items, *items, "{line}");
            assert_eq!(got_arguments, *arguments, "{line}");
        }
    }
}
