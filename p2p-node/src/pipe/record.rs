//! Records: what an encrypted pipe is made of.
//!
//! ```text
//! ┌────────────┬────────────────────────────┬──────────┐
//! │ length: 2  │ ciphertext: length - 16    │ tag: 16  │
//! └────────────┴────────────────────────────┴──────────┘
//! ```
//!
//! The length, big endian, counts ciphertext and tag. The nonce is the number of the record under its key, so a record that
//! is left out, repeated or moved does not open. A record without ciphertext says that nothing follows: a
//! connection that ends without one was cut, not closed.
//!
//! A length with the two highest bits set, [`CONTROL`], belongs to a record about the connection. No other record is that
//! long.

use std::io::{Error, ErrorKind, Result};

use p2p_core::proof::Cipher;
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use zeroize::Zeroize;

/// The most plaintext in one record, in bytes. Larger ones save headers and tags; smaller ones reach the
/// reader sooner. At 32 KiB the cost of a record's frame is under 0.1 %.
pub(super) const MOST_PLAIN: usize = 32 * 1024;
/// The bytes of a record beside its plaintext: length and tag.
pub(super) const OVERHEAD: usize = HEADER + TAG;
const HEADER: usize = 2;
const TAG: usize = 16;
/// The bits in its length that mark a record about the connection.
pub(super) const CONTROL: u16 = 0xc000;
/// The most plaintext in a record about the connection, in bytes.
const MOST_CONTROL: usize = 64;

/// The number of records that one key protects. 2²³ of 32 KiB are 256 GiB, below the 2^24.5 records after which RFC
/// 8446, section 5.5, wants another key for AES-GCM. Both ends count alike, so no word is needed.
const RECORDS_PER_KEY: u64 = 1 << 23;

/// Leaves no key in memory but the one that ring keeps in its own.
impl Drop for RecordKey {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

/// The key of one direction of a pipe, and the number of its next record.
pub(super) struct RecordKey {
    cipher: Cipher,
    secret: [u8; 32],
    key: LessSafeKey,
    next: u64,
    most: u64,
}

impl RecordKey {
    pub(super) fn new(cipher: Cipher, secret: &[u8; 32]) -> Result<Self> {
        Ok(Self { cipher, secret: *secret, key: aead_key(cipher, secret)?, next: 0, most: RECORDS_PER_KEY })
    }

    fn nonce(&mut self) -> Result<Nonce> {
        if self.next == self.most {
            let old = hmac::Key::new(hmac::HMAC_SHA256, &self.secret);
            self.secret.copy_from_slice(hmac::sign(&old, b"p2p/1 next").as_ref());
            self.key = aead_key(self.cipher, &self.secret)?;
            self.next = 0;
        }
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.next.to_be_bytes());
        self.next += 1;
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    /// Appends one record with `plain` in it; an empty one is the end.
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.seal_marked(0, plain, out)
    }

    /// Appends one record whose length has these bits set, beside that of `plain`.
    pub(super) fn seal_marked(&mut self, mark: u16, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let length = u16::try_from(plain.len() + TAG).map_err(|_| broken("a record is too long"))? | mark;
        let header = length.to_be_bytes();
        let nonce = self.nonce()?;
        out.extend_from_slice(&header);
        let start = out.len();
        out.extend_from_slice(plain);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(header), &mut out[start..])
            .map_err(|_| broken("a record could not be sealed"))?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens the whole record in `record` where it lies. Returns the length of the plaintext, which begins at
    /// [`PLAIN_AT`].
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<usize> {
        let nonce = self.nonce()?;
        let (header, sealed) = record.split_at_mut(HEADER);
        let aad = Aad::from([header[0], header[1]]);
        self.key
            .open_in_place(nonce, aad, sealed)
            .map(|plain| plain.len())
            .map_err(|_| broken("the peer's data was changed on the way"))
    }
}

/// The place in an opened record at which the plaintext begins.
pub(super) const PLAIN_AT: usize = HEADER;

/// Returns the length of the record that begins with these bytes, with its header. It is `None` while that cannot be
/// known.
pub(super) fn record_len(begin: &[u8]) -> Result<Option<usize>> {
    let Some(length) = begin.first_chunk::<HEADER>() else { return Ok(None) };
    let length = u16::from_be_bytes(*length);
    let (length, allowed) = match length & CONTROL {
        CONTROL => (usize::from(length & !CONTROL), TAG + 1..=TAG + MOST_CONTROL),
        _ => (usize::from(length), TAG..=TAG + MOST_PLAIN),
    };
    if allowed.contains(&length) {
        Ok(Some(HEADER + length))
    } else {
        Err(broken("the peer's data is not what it should be"))
    }
}

fn aead_key(cipher: Cipher, secret: &[u8; 32]) -> Result<LessSafeKey> {
    let algorithm = match cipher {
        Cipher::Aes256Gcm => &AES_256_GCM,
        Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    };
    UnboundKey::new(algorithm, secret)
        .map(LessSafeKey::new)
        .map_err(|_| broken("the key of the pipe has a wrong size"))
}

fn broken(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(cipher: Cipher) -> (RecordKey, RecordKey) {
        let key = [7; 32];
        (RecordKey::new(cipher, &key).unwrap(), RecordKey::new(cipher, &key).unwrap())
    }

    #[test]
    fn what_is_sealed_opens_in_order() {
        for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            let (mut seal, mut open) = pair(cipher);
            for plain in [&b"one"[..], b"", &[1; MOST_PLAIN]] {
                let mut record = Vec::new();
                seal.seal(plain, &mut record).unwrap();
                assert_eq!(record_len(&record).unwrap(), Some(record.len()));
                assert_eq!(record.len(), plain.len() + OVERHEAD);
                let length = open.open(&mut record).unwrap();
                assert_eq!(&record[PLAIN_AT..PLAIN_AT + length], plain);
            }
        }
    }

    #[test]
    fn both_ends_change_keys_at_the_same_record() {
        let (mut seal, mut open) = pair(Cipher::Aes256Gcm);
        (seal.most, open.most) = (3, 3);
        let mut records = Vec::new();
        for number in 0..10u8 {
            let mut record = Vec::new();
            seal.seal(&[number; 8], &mut record).unwrap();
            records.push(record.clone());
            assert_eq!(open.open(&mut record).unwrap(), 8);
            assert_eq!(record[PLAIN_AT], number);
        }
        // The first record under the second key has the first nonce again, and does not open under the first key.
        let (_, mut fresh) = pair(Cipher::Aes256Gcm);
        assert!(fresh.open(&mut records[3]).is_err());
    }

    #[test]
    fn changed_moved_or_repeated_records_do_not_open() {
        let (mut seal, _) = pair(Cipher::Aes256Gcm);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        seal.seal(b"first", &mut first).unwrap();
        seal.seal(b"second", &mut second).unwrap();
        for at in 0..first.len() {
            let mut flipped = first.clone();
            flipped[at] ^= 1;
            let (_, mut open) = pair(Cipher::Aes256Gcm);
            assert!(open.open(&mut flipped).is_err(), "byte {at}");
        }
        let (_, mut open) = pair(Cipher::Aes256Gcm);
        assert!(open.open(&mut second.clone()).is_err());
        let (_, mut open) = pair(Cipher::Aes256Gcm);
        open.open(&mut first.clone()).unwrap();
        assert!(open.open(&mut first.clone()).is_err());
    }

    #[test]
    fn absurd_lengths_are_refused_before_they_are_waited_for() {
        assert_eq!(record_len(&[0]).unwrap(), None);
        for begin in [[0, 0], [0, 15], [0x80, 0x11], [0xc0, 16], [0xc0, 81], [0xff, 0xff]] {
            assert!(record_len(&begin).is_err(), "{begin:?}");
        }
    }
}
