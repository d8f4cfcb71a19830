//! ipvsadm 1.31's language: its words, its messages, its lists.
//!
//! The way of a command: [`words`] splits it as popt does, [`parse`] takes the words in their order and says what
//! is wrong with them, [`run`] sends what was asked and prints the answer with [`list`] and [`save`]. Whatever is
//! printed is what ipvsadm prints, byte for byte, because scripts read it. Where ipvsadm's behaviour is odd, the
//! oddity is kept; the one exception is that a crash becomes a message.

pub mod address;
pub mod help;
pub mod list;
pub mod names;
pub mod options;
pub mod parse;
pub mod run;
pub mod save;
pub mod sort;
pub mod words;

/// The first `length` bytes of `text`, or fewer where that would cut a character in two.
fn cut(text: &str, length: usize) -> String {
    let end = (0..=length.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text[..end].to_owned()
}
