//! Records about the connection itself, between those that carry data.

use std::io::Result;

use super::record::{CONTROL, RecordKey};

/// A record about the connection. Kinds that are not known are passed over: a later version may say more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControlRecord {
    /// A question of this number. Whoever reads it gives a sign of life.
    Ping(u32),
    /// The answer: everything before the question of this number was read. Zero answers none, and is a sign of life by
    /// itself.
    Pong(u32),
}

impl ControlRecord {
    /// Reads the plaintext of a record. Returns `None` for a kind that is not known.
    pub(super) fn parse(plain: &[u8]) -> Option<Self> {
        let (kind, number) = plain.split_first()?;
        let number = u32::from_be_bytes(number.try_into().ok()?);
        match *kind {
            PING => Some(Self::Ping(number)),
            PONG => Some(Self::Pong(number)),
            _ => None,
        }
    }

    /// Appends this record to `out`.
    pub(super) fn seal(self, key: &mut RecordKey, out: &mut Vec<u8>) -> Result<()> {
        let (kind, number) = match self {
            Self::Ping(number) => (PING, number),
            Self::Pong(number) => (PONG, number),
        };
        let mut plain = [kind, 0, 0, 0, 0];
        plain[1..].copy_from_slice(&number.to_be_bytes());
        key.seal_marked(CONTROL, &plain, out)
    }
}

/// Tells whether the record that begins with these bytes is about the connection.
pub(super) fn is_control(record: &[u8]) -> bool {
    record.first_chunk().is_some_and(|length| u16::from_be_bytes(*length) & CONTROL == CONTROL)
}

const PING: u8 = 0;
const PONG: u8 = 1;

#[cfg(test)]
mod tests {
    use p2p_core::proof::Cipher;

    use super::super::record::{MOST_PLAIN, PLAIN_AT, record_len};
    use super::*;

    fn key() -> RecordKey {
        RecordKey::new(Cipher::Aes256Gcm, &[7; 32]).unwrap()
    }

    #[test]
    fn records_about_the_connection_are_told_from_data_and_cannot_be_made_into_it() {
        let (mut seal, mut open) = (key(), key());
        for control in [ControlRecord::Ping(1), ControlRecord::Pong(u32::MAX)] {
            let mut record = Vec::new();
            control.seal(&mut seal, &mut record).unwrap();
            assert!(is_control(&record));
            assert_eq!(record_len(&record).unwrap(), Some(record.len()));
            let length = open.open(&mut record).unwrap();
            assert_eq!(ControlRecord::parse(&record[PLAIN_AT..PLAIN_AT + length]), Some(control));
        }
        let mut record = Vec::new();
        ControlRecord::Ping(2).seal(&mut seal, &mut record).unwrap();
        record[0] &= 0x3f;
        assert_eq!(record_len(&record).unwrap(), Some(record.len()));
        assert!(open.open(&mut record).is_err());
        let mut longest = Vec::new();
        seal.seal(&[1; MOST_PLAIN], &mut longest).unwrap();
        assert!(!is_control(&longest));
        assert_eq!(ControlRecord::parse(&[2, 0, 0, 0, 1]), None);
        assert_eq!(ControlRecord::parse(b""), None);
    }
}
