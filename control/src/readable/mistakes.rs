//! Words that are none of lbctl's: what was probably meant, where clap does not see it by itself.
//!
//! It only adds to what clap says; what is right and what is wrong is [`words`](super::words)' to say.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, Error, FromArgMatches};

use super::words::Arguments;
use crate::suggest::nearest;

/// Reads `words`, the program's name left out.
///
/// # Errors
/// clap's, with a tip where there is one.
pub fn read(words: &[String]) -> Result<Arguments, Error> {
    let command = take_negative_numbers(Arguments::command());
    let all = std::iter::once("lbctl").chain(words.iter().map(String::as_str));
    let read = command.clone().try_get_matches_from(all);
    read.and_then(|matches| Arguments::from_arg_matches(&matches))
        .map_err(|error| explained(error, &command, words))
}

/// What `error` says, without how the command is used: one line, as messages elsewhere are.
pub fn in_one_line(error: &Error) -> String {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let said = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    said.map(|line| line.trim_start_matches("error: ").trim_start_matches("tip: "))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Takes `-1` for a value wherever one is due, so that the option's range is told, and not that there is no option `-1`.
fn take_negative_numbers(command: Command) -> Command {
    let arguments = command.mut_args(|argument| {
        let takes_values = argument.get_action().takes_values();
        argument.allow_negative_numbers(takes_values)
    });
    arguments.mut_subcommands(take_negative_numbers)
}

fn explained(mut error: Error, command: &Command, words: &[String]) -> Error {
    // It advises `-- -x`, but no name here begins so.
    error.remove(ContextKind::Suggested);
    let context = match error.kind() {
        ErrorKind::UnknownArgument => ContextKind::InvalidArg,
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => ContextKind::InvalidValue,
        _ => return error,
    };
    let Some(ContextValue::String(wrong)) = error.get(context).cloned() else { return error };
    let command = innermost(command, words);
    let takes_it_after_equals = words.iter().zip(words.iter().skip(1)).find_map(|(option, value)| {
        let name = option.strip_prefix("--")?;
        let mut arguments = command.get_arguments();
        let is_it =
            arguments.any(|argument| argument.get_long() == Some(name) && argument.is_require_equals_set());
        // What has a colon is the name that is due at any place.
        (is_it && !value.starts_with('-') && !value.contains(':')).then_some((name, value))
    });
    if let Some((name, value)) = takes_it_after_equals {
        let tip = StyledStr::from(format!("a value of '--{name}' follows '=': '--{name}={value}'"));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    } else if error.get(ContextKind::SuggestedArg).is_none()
        && let Some(name) = wrong.strip_prefix("--")
        && let Some(meant) = nearest(name, command.get_arguments().filter_map(|argument| argument.get_long()))
    {
        error.insert(ContextKind::SuggestedArg, ContextValue::String(format!("--{meant}")));
    }
    error
}

/// The command that `words` name, as far as they name one.
fn innermost<'a>(command: &'a Command, words: &[String]) -> &'a Command {
    let inner = words.split_first().and_then(|(word, rest)| Some((command.find_subcommand(word)?, rest)));
    inner.map_or(command, |(inner, rest)| innermost(inner, rest))
}
