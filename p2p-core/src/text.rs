//! Words of others, made fit to be shown.
//!
//! A server, a certificate or a peer may put anything into a text: an escape sequence that rewrites the terminal of whoever
//! reads it, a newline that begins a forged line in a log, marks that turn the order of letters around. Such a text becomes a
//! [`ForeignText`] where it comes in; [`shown`] is the filter where anything goes out.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

/// The most characters of a foreign text that are kept. RFC 8489, section 14.8, allows a reason 127.
pub const MOST_CHARS: usize = 256;

/// What stands in place of a character that is not shown.
const HIDDEN: char = char::REPLACEMENT_CHARACTER;

/// A text that somebody else wrote: without control characters, of [`MOST_CHARS`] characters at most.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct ForeignText(String);

impl ForeignText {
    /// The text as it can be shown.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ForeignText {
    fn from(text: &str) -> Self {
        Self(text.chars().take(MOST_CHARS).map(showable).collect())
    }
}

impl From<String> for ForeignText {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl Deref for ForeignText {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for ForeignText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ForeignText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Returns `text` with what must not reach a terminal or a log replaced. It is one line then.
pub fn shown(text: &str) -> Cow<'_, str> {
    match text.chars().all(|character| showable(character) == character) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(text.chars().map(showable).collect()),
    }
}

/// A text is none of the names that are known. The error says which are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{said} {}", one_of(.names))]
pub struct UnknownName {
    /// What is said of the names, such as `a way is`.
    said: &'static str,
    names: Vec<String>,
}

impl UnknownName {
    /// Finds the one of `all` that is written like `text`.
    pub(crate) fn find<T: Copy + fmt::Display>(text: &str, all: &[T], said: &'static str) -> Result<T, Self> {
        Self::among(text, &all.iter().map(|one| (one.to_string(), *one)).collect::<Vec<_>>(), said)
    }

    /// Finds what stands beside this name.
    pub(crate) fn among<N: AsRef<str>, T: Copy>(
        text: &str,
        all: &[(N, T)],
        said: &'static str,
    ) -> Result<T, Self> {
        let found = all.iter().find(|(name, _)| name.as_ref() == text);
        let names = || all.iter().map(|(name, _)| name.as_ref().to_owned()).collect();
        found.map(|(_, one)| *one).ok_or_else(|| Self { said, names: names() })
    }
}

/// Returns the names between backticks, with `or` before the last.
fn one_of(names: &[String]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// The character itself unless it does something instead of standing for something.
fn showable(character: char) -> char {
    match character {
        // Directions (Unicode Standard Annex 9), separators of lines, and what has no width.
        '\u{61c}'
        | '\u{200b}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => HIDDEN,
        // C0, DEL and C1: escape sequences begin with ESC, or with one of C1.
        character if character.is_control() => HIDDEN,
        character => character,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Family;
    use crate::attempt::{Path, Way};
    use crate::relay::circuit::Connections as RelayConnections;

    #[test]
    fn who_writes_no_name_is_told_all_of_them() {
        let told = |error: UnknownName| error.to_string();
        assert_eq!(
            "walk".parse::<Way>().map_err(told),
            Err("a way is `direct`, `reverse`, `punch` or `relay`".into())
        );
        assert_eq!("v5".parse::<Family>().map_err(told), Err("a family is `v4` or `v6`".into()));
        assert_eq!(
            "far".parse::<Path>().map_err(told),
            Err("a path is `machine`, `local` or `external`".into())
        );
        let wanted = "connections are relayed `never`, `careful` or `always`";
        assert_eq!("maybe".parse::<RelayConnections>().map_err(told), Err(wanted.into()));
    }

    proptest! {
        #[test]
        fn what_is_written_by_its_name_is_read_by_it(
            way in proptest::sample::select(&Way::ALL[..]),
            path in proptest::sample::select(&Path::ALL[..]),
            family in proptest::sample::select(&Family::ALL[..]),
            relayed in proptest::sample::select(&RelayConnections::ALL[..]),
            other in "[a-zA-Z0-9 ]{0,12}",
        ) {
            prop_assert_eq!(way.to_string().parse(), Ok(way));
            prop_assert_eq!(path.to_string().parse(), Ok(path));
            prop_assert_eq!(family.to_string().parse(), Ok(family));
            prop_assert_eq!(relayed.to_string().parse(), Ok(relayed));
            prop_assert_eq!(other.parse::<Way>().is_ok(), Way::ALL.iter().any(|way: &Way| way.to_string() == other));
        }
    }

    #[test]
    fn what_acts_on_a_terminal_is_hidden_and_letters_stay() {
        for (raw, kept) in [
            ("\x1b[31mred\x1b[0m", "\u{fffd}[31mred\u{fffd}[0m"),
            ("a\nERROR forged\r", "a\u{fffd}ERROR forged\u{fffd}"),
            ("\u{9b}2J", "\u{fffd}2J"),
            ("\u{202e}txt.exe", "\u{fffd}txt.exe"),
            ("Zürich, 東京 \u{1f469}\u{200d}\u{1f4bb}", "Zürich, 東京 \u{1f469}\u{200d}\u{1f4bb}"),
        ] {
            assert_eq!(ForeignText::from(raw).as_str(), kept);
            assert_eq!(shown(raw), kept);
        }
        assert!(matches!(shown("all is well"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(ForeignText::from("é".repeat(1_000)).chars().count(), MOST_CHARS);
    }

    proptest! {
        #[test]
        fn nothing_that_is_shown_acts(text: String) {
            prop_assert!(!shown(&text).chars().any(char::is_control));
            prop_assert!(!ForeignText::from(text).chars().any(char::is_control));
        }
    }
}
