//! gzip in both directions, and whether a client takes it. It works on whole bodies: everything the
//! registry sends and reads is in memory anyway.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

/// Compresses fast rather than small: the reader waits for it.
pub fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4 + 32), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing to memory does not fail")
}

/// Why compressed bytes cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undecodable {
    /// They are no gzip, or cut off.
    Damaged,
    /// They would be longer than the limit.
    TooLong,
}

/// Decompresses at most `limit_bytes`. Several members behind each other are one text (RFC 1952 2.2); anything else behind
/// the last one is damage.
pub fn decompress(bytes: &[u8], limit_bytes: usize) -> Result<Vec<u8>, Undecodable> {
    let mut out = Vec::new();
    let mut limited = MultiGzDecoder::new(bytes).take(limit_bytes as u64 + 1);
    limited.read_to_end(&mut out).map_err(|_| Undecodable::Damaged)?;
    if out.len() > limit_bytes { Err(Undecodable::TooLong) } else { Ok(out) }
}

/// Whether an `Accept-Encoding` allows gzip: named, or covered by `*`, and not with a weight of zero.
pub fn is_accepted(accept_encoding: &str) -> bool {
    let weight_of = |wanted: &str| {
        accept_encoding.split(',').find_map(|offer| {
            let (coding, parameters) = offer.split_once(';').unwrap_or((offer, ""));
            coding.trim().eq_ignore_ascii_case(wanted).then(|| weight(parameters))
        })
    };
    weight_of("gzip").or_else(|| weight_of("x-gzip")).or_else(|| weight_of("*")).is_some_and(|q| q > 0.0)
}

/// The `q` among the parameters of an offer; what cannot be read counts as a refusal.
fn weight(parameters: &str) -> f32 {
    let q = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let mut q = q.filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
    q.next().map_or(1.0, |(_, value)| value.trim().parse().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_read_with_its_weight() {
        for (header, accepted) in [
            ("gzip", true),
            ("deflate, gzip", true),
            ("deflate,gzip;q=0.5", true),
            ("GZIP", true),
            ("*", true),
            ("", false),
            ("identity", false),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("*, gzip;q=0", false),
            ("gzip;q=nonsense", false),
            ("deflate, *;q=0", false),
            ("gzipped", false),
        ] {
            assert_eq!(is_accepted(header), accepted, "{header}");
        }
    }

    #[test]
    fn there_and_back_is_identity_within_the_limit() {
        let text = b"text ".repeat(100);
        assert_eq!(decompress(&compress(&text), 500), Ok(text.clone()));
        assert_eq!(decompress(&compress(&text), 499), Err(Undecodable::TooLong));
        assert_eq!(decompress(&compress(&text)[..20], 500), Err(Undecodable::Damaged));
        assert_eq!(decompress(b"plain", 500), Err(Undecodable::Damaged));
        let members = [compress(b"one, "), compress(b"two")].concat();
        assert_eq!(decompress(&members, 500), Ok(b"one, two".to_vec()));
        assert_eq!(decompress(&members, 7), Err(Undecodable::TooLong));
        let trailed = [compress(b"text"), b"rubbish".to_vec()].concat();
        assert_eq!(decompress(&trailed, 500), Err(Undecodable::Damaged));
    }
}
