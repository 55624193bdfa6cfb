//! The few bytes of the gRPC health protocol (`grpc.health.v1`): one message each way, written and read by hand. What an
//! answer means for the instance is decided elsewhere.

use bytes::{BufMut, Bytes, BytesMut};

/// Where the question goes.
pub(super) const PATH: &str = "/grpc.health.v1.Health/Check";
/// Field 1 of `HealthCheckRequest`, a text: `1 << 3 | 2` (Protocol Buffers, Encoding).
const SERVICE: u8 = 0x0a;
/// Field 1 of `HealthCheckResponse`, a number: `1 << 3 | 0`.
const STATUS: u64 = 0x08;
/// The value of `status` for a server that is well.
const SERVING: u64 = 1;
/// A number of 64 bits has so many groups of seven.
const VARINT_BYTES_MAX: usize = 10;

/// The question about a service, framed as gRPC frames messages: not compressed, its length, the message.
pub(super) fn question(service: &str) -> Bytes {
    let mut message = BytesMut::with_capacity(service.len() + 8);
    if !service.is_empty() {
        message.put_u8(SERVICE);
        put_varint(service.len() as u64, &mut message);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    // A rule's names are far shorter than 4 GiB.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

/// Whether an answer says that the server is well. What cannot be read says nothing.
pub(super) fn is_serving(framed: &[u8]) -> bool {
    let Some((&[0, a, b, c, d], message)) = framed.split_first_chunk::<5>() else { return false };
    message.len() == u32::from_be_bytes([a, b, c, d]) as usize && status(message) == Some(SERVING)
}

/// The last value of the status, as the encoding wants it; `None` for what is no message. Absent, it is 0: unknown.
fn status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let field = take_varint(&mut message)?;
        match (field, field & 7) {
            (STATUS, _) => status = take_varint(&mut message)?,
            // Fields that are not known are skipped by their type: a number, 8 bytes, a length and as much, 4 bytes.
            (_, 0) => drop(take_varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// Seven bits a byte, the low ones first; the highest bit says that more follow.
fn put_varint(mut number: u64, out: &mut BytesMut) {
    while number >= 0x80 {
        out.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..VARINT_BYTES_MAX {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_names_the_service_or_nobody() {
        assert_eq!(question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = question(&"x".repeat(300));
        assert_eq!((long.len(), &long[..8]), (308, &[0, 0, 0, 1, 47, 0x0a, 0xac, 2][..]));
    }

    #[test]
    fn only_an_answer_that_says_serving_is_one() {
        let framed = |message: &[u8]| [&[0, 0, 0, 0, message.len() as u8][..], message].concat();
        assert!(is_serving(&framed(&[8, 1])));
        assert!(
            is_serving(&framed(&[0x12, 2, 9, 9, 8, 0, 0x1d, 0, 0, 0, 0, 8, 1])),
            "what is not known is skipped"
        );
        assert!(is_serving(&framed(&[8, 0x81, 0])), "a number may be written longer than it must");
        for odd in
            [&[8, 0][..], &[8, 2], &[8, 3], &[], &[8], &[8, 0x81], &[0x10, 1], &[0x0b, 1], &[0x12, 200, 1]]
        {
            assert!(!is_serving(&framed(odd)), "{odd:?}");
        }
        assert!(!is_serving(&[1, 0, 0, 0, 2, 8, 1]), "compressed");
        assert!(!is_serving(&[0, 0, 0, 0, 3, 8, 1]) && !is_serving(&[0, 0, 0, 0, 2, 8, 1, 8]));
    }

    #[test]
    fn no_bytes_are_too_odd() {
        let mut dice = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut bytes: Vec<u8> = (0..dice.usize(0..24)).map(|_| dice.u8(..)).collect();
            if let Some(length) = bytes.len().checked_sub(5).filter(|_| dice.bool()) {
                bytes[..5].copy_from_slice(&[0, 0, 0, 0, length as u8]);
            }
            is_serving(&bytes);
        }
    }
}
