//! The messages of a proof, as bytes.

use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};
use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Cipher, ProofError};
use crate::attempt::{AttemptId, RefusalReason, Role};
use crate::peer::PeerId;

/// The most bytes of a frame of a proof, its two-byte length not counted.
pub const MOST_FRAME: usize = 512;
/// The beginning of the first frame: a name and a version. Since version 2 the records of a pipe may be about the
/// connection, which an older end would take for broken data: the two do not meet.
const MAGIC: [u8; 4] = *b"p2p\x02";
const DOOR_CODE: usize = 16;

/// The protection of the pipe that an end would like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wish {
    /// True for no encryption after the proof, if the other end wishes that too.
    pub plain: bool,
    /// The cipher that is fast here.
    pub cipher: Cipher,
}

/// The first payload, from the end that dialled.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub from: PeerId,
    pub to: PeerId,
    pub attempt: AttemptId,
    pub role: Role,
    pub wish: Wish,
}

/// The answer to [`Hello`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Welcome {
    Yes(Wish),
    No(RefusalReason),
}

/// A message that follows under the session's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Word {
    /// Sent by the called end that dialled: it holds the secret of its Hello.
    Ready,
    /// Sent by the caller: both keep this connection.
    Go,
}

pub(super) fn encode<T: Serialize>(payload: &T) -> Result<Vec<u8>, ProofError> {
    postcard::to_stdvec(payload).map_err(|_| ProofError::Garbled)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ProofError> {
    match postcard::take_from_bytes(bytes) {
        Ok((payload, [])) => Ok(payload),
        _ => Err(ProofError::Garbled),
    }
}

/// Returns a frame: the length, then the body.
pub(super) fn frame(body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(2 + body.len());
    out.put_u16(u16::try_from(body.len()).unwrap_or(u16::MAX));
    out.put_slice(body);
    out.freeze()
}

/// Returns the first body: magic, door code, Noise message.
pub(super) fn knock(to: &PeerId, noise: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(MAGIC.len() + DOOR_CODE + noise.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&door_code(to, noise));
    out.extend_from_slice(noise);
    out
}

/// Returns the Noise message inside a first body that was meant for `me`.
pub(super) fn open_door<'a>(me: &PeerId, body: &'a [u8]) -> Result<&'a [u8], ProofError> {
    let rest = body.strip_prefix(&MAGIC).ok_or(ProofError::Garbled)?;
    let (code, noise) = rest.split_at_checked(DOOR_CODE).ok_or(ProofError::Garbled)?;
    if code == door_code(me, noise) { Ok(noise) } else { Err(ProofError::Stranger) }
}

/// Returns a code keyed with the receiver's public key, so only somebody who knows the key can make it. It is a
/// filter against load and not a secret, so it needs no constant-time comparison.
fn door_code(to: &PeerId, noise: &[u8]) -> [u8; DOOR_CODE] {
    let mut mac = <Blake2sMac<U16> as KeyInit>::new(to.as_bytes().into());
    mac.update(b"p2p/1 door");
    mac.update(noise);
    mac.finalize_fixed().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::check;

    /// The public key of the first test of RFC 8032, section 7.1.
    const KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn key() -> PeerId {
        let bytes = data_encoding::HEXLOWER.decode(KEY.as_bytes()).unwrap();
        PeerId::from_bytes(bytes.try_into().unwrap()).unwrap()
    }

    #[test]
    fn the_bytes_are_what_they_always_were() {
        let wish = Wish { plain: true, cipher: Cipher::ChaCha20Poly1305 };
        let attempt = AttemptId([7; 16]);
        let hello = Hello { from: key(), to: key(), attempt, role: Role::Answerer, wish };
        check(&hello, &format!("{KEY}{KEY}{}010101", "07".repeat(16)));
        check(&Welcome::Yes(Wish { plain: false, cipher: Cipher::Aes256Gcm }), "000000");
        check(&Welcome::No(RefusalReason::NotAllowed), "0102");
        check(&Word::Ready, "00");
        check(&Word::Go, "01");
    }

    #[test]
    fn the_first_frame_begins_with_a_code_for_its_receiver() {
        let body = knock(&key(), &[1, 2, 3]);
        let hex = data_encoding::HEXLOWER.encode(&frame(&body));
        assert_eq!(hex, format!("001770327002{CODE}010203"));
        assert_eq!(open_door(&key(), &body), Ok(&[1, 2, 3][..]));
    }

    const CODE: &str = "1d4d63d9ed4fbdd667fda3744076e26d";
}
