//! The one-line text of keys and addresses: a prefix, then base32 of the bytes and their CRC-32.

use crc::{CRC_32_ISCSI, Crc};
use data_encoding::BASE32_NOPAD;
use zeroize::{Zeroize, Zeroizing};

/// The CRC with Castagnoli's polynomial. It detects every burst of up to 32 bits, which covers any one mistyped
/// character.
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
const CRC_SIZE: usize = 4;

/// The most bytes of a text that is read, white space included: more than twice the longest address.
const MOST_TEXT: usize = 8_192;

/// A reason why a text is not the expected key or address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The text has some other prefix, or none.
    #[error("this is not {wanted}: one starts with `{prefix}`; check what was copied")]
    Foreign {
        /// The noun of the text that is needed.
        wanted: &'static str,
        /// The prefix of the text that is needed.
        prefix: &'static str,
    },
    /// The text is one of our other texts.
    #[error("this is {found}, but {wanted} is needed here")]
    Mistaken {
        /// The noun of the text that was given.
        found: &'static str,
        /// The noun of the text that is needed.
        wanted: &'static str,
    },
    /// A character of the text is in none of our texts.
    #[error(
        "character {at}, {found:?}, is in no such text: it was mistyped, or something was pasted into it"
    )]
    Character {
        /// The place of the character, counted from 1.
        at: usize,
        /// The character that was found.
        found: char,
    },
    /// The end of the text is missing.
    #[error("the end is missing: copy the text once more, all of it")]
    Cut,
    /// The checksum does not fit the text.
    #[error("it was mistyped or damaged on the way: its checksum does not fit; copy it once more")]
    Damaged,
    /// The text is longer than any of ours can be.
    #[error("{len} bytes are too many: {MOST_TEXT} at most, white space included")]
    TooLong {
        /// The length of the text, in bytes.
        len: usize,
    },
}

/// One of our kinds of text: its prefix, its noun for errors, and its size.
pub(super) struct Form {
    prefix: &'static str,
    noun: &'static str,
    /// The function that tells from the first bytes how many there must be, or `None` when these are too few.
    size: fn(&[u8]) -> Option<usize>,
}

pub(super) const ADDRESS: Form = Form { prefix: "p2p1", noun: "a peer address", size: announced_size };
pub(super) const ID: Form = Form { prefix: "p2pid1", noun: "a peer id", size: |_| Some(32) };
pub(super) const SECRET: Form = Form { prefix: "p2psk1", noun: "a secret key", size: |_| Some(32) };

/// The version of an address and the length of the rest, in bytes.
pub(super) const HEADER: usize = 3;

/// Returns the number of bytes that the address starting with `head` must have, or `None` when `head` is too short.
pub(super) fn announced_size(head: &[u8]) -> Option<usize> {
    let rest = u16::from_be_bytes(*head.get(1..)?.first_chunk()?);
    Some(HEADER + usize::from(rest))
}

/// Encodes `bytes` in lower-case base32 without padding.
pub(super) fn base32(bytes: &[u8]) -> String {
    let mut text = BASE32_NOPAD.encode(bytes);
    text.make_ascii_lowercase();
    text
}

impl Form {
    fn checksum(&self, bytes: &[u8]) -> [u8; CRC_SIZE] {
        let mut digest = CRC.digest();
        digest.update(self.prefix.as_bytes());
        digest.update(bytes);
        digest.finalize().to_be_bytes()
    }

    /// Returns the text of `bytes`.
    pub(super) fn write(&self, bytes: &[u8]) -> String {
        let mut checked = Zeroizing::new(Vec::with_capacity(bytes.len() + CRC_SIZE));
        checked.extend_from_slice(bytes);
        checked.extend_from_slice(&self.checksum(bytes));
        let mut encoded = base32(&checked);
        let text = [self.prefix, &encoded].concat();
        encoded.zeroize();
        text
    }

    /// Returns the bytes of `text`, which may be wrapped, indented or in capitals.
    pub(super) fn read(&self, text: &str) -> Result<Zeroizing<Vec<u8>>, TextError> {
        if text.len() > MOST_TEXT {
            return Err(TextError::TooLong { len: text.len() });
        }
        let mut bare = Zeroizing::new(String::with_capacity(text.len()));
        bare.extend(text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()));
        let Some(symbols) = bare.strip_prefix(self.prefix) else {
            return Err(self.mistaken(&bare));
        };
        self.check_characters(text)?;
        let symbols = Zeroizing::new(symbols.to_ascii_uppercase());
        // A cut seldom falls between two bytes, so the length of the rest proves nothing. The first bytes say how
        // many there should be.
        match BASE32_NOPAD.decode(symbols.as_bytes()).map(Zeroizing::new) {
            Ok(bytes) if self.is_whole(&bytes) => {
                Ok(Zeroizing::new(bytes[..bytes.len() - CRC_SIZE].to_vec()))
            }
            _ if self.is_cut(&symbols) => Err(TextError::Cut),
            _ => Err(TextError::Damaged),
        }
    }

    fn is_whole(&self, checked: &[u8]) -> bool {
        checked.split_last_chunk::<CRC_SIZE>().is_some_and(|(bytes, crc)| *crc == self.checksum(bytes))
    }

    fn is_cut(&self, symbols: &str) -> bool {
        // Eight symbols are five bytes. A last, incomplete group is of no use here.
        let groups = &symbols.as_bytes()[..symbols.len() / 8 * 8];
        let head = BASE32_NOPAD.decode(groups).map(Zeroizing::new).unwrap_or_default();
        let there = symbols.len() * 5 / 8;
        (self.size)(&head).is_none_or(|size| there < size + CRC_SIZE)
    }

    fn mistaken(&self, bare: &str) -> TextError {
        match [&SECRET, &ID, &ADDRESS].into_iter().find(|form| bare.starts_with(form.prefix)) {
            Some(form) => TextError::Mistaken { found: form.noun, wanted: self.noun },
            None => TextError::Foreign { wanted: self.noun, prefix: self.prefix },
        }
    }

    fn check_characters(&self, text: &str) -> Result<(), TextError> {
        let stranger = text
            .chars()
            .enumerate()
            .filter(|(_, c)| !c.is_whitespace())
            .skip(self.prefix.len())
            .find(|(_, c)| !matches!(c.to_ascii_lowercase(), 'a'..='z' | '2'..='7'));
        match stranger {
            Some((at, found)) => Err(TextError::Character { at: at + 1, found }),
            None => Ok(()),
        }
    }
}
