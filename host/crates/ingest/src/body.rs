//! Request bodies: bounded as sent and again as unpacked, so that a bomb stops at the limit, not after it.

use crate::Refusal;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use model::limits::{BODY_BYTES_MAX, BODY_INFLATED_BYTES_MAX};
use std::io::Read;

/// Bodies up to this size are decoded where they arrive: about half a millisecond of work.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// How long a sender may take for one body. Slower ones hold a connection and its memory for nothing.
const READ_MS_MAX: u64 = 60_000;

/// Reads a body as sent, up to `limits::BODY_BYTES_MAX`.
pub(crate) async fn read(headers: &HeaderMap, body: axum::body::Body) -> Result<Bytes, Refusal> {
    read_up_to(headers, body, BODY_BYTES_MAX).await
}

pub(crate) async fn read_up_to(headers: &HeaderMap, body: axum::body::Body, bytes_max: usize) -> Result<Bytes, Refusal> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|n| n > bytes_max as u64) {
        return Err(over("as sent", bytes_max));
    }
    let reading = async {
        let mut body = body;
        let mut whole = BytesMut::with_capacity(announced.unwrap_or(0).min(1 << 20) as usize);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Refusal::malformed(format!("the body broke off after {} bytes: {e}", whole.len())))?;
            if let Some(data) = frame.data_ref() {
                if whole.len() + data.len() > bytes_max {
                    return Err(over("as sent", bytes_max));
                }
                whole.extend_from_slice(data);
            }
        }
        Ok(whole.freeze())
    };
    tokio::time::timeout(std::time::Duration::from_millis(READ_MS_MAX), reading).await.unwrap_or_else(|_| {
        Err(Refusal::new(http::StatusCode::REQUEST_TIMEOUT, format!("the body took longer than {} s", READ_MS_MAX / 1_000)))
    })
}

/// How the sender packed the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Snappy,
}

impl Packing {
    /// From `Content-Encoding`; `allowed` names what this path takes besides plain.
    pub(crate) fn of(headers: &HeaderMap, allowed: &[Packing]) -> Result<Self, Refusal> {
        let Some(value) = headers.get(header::CONTENT_ENCODING) else { return Ok(Self::Plain) };
        let packing = match value.as_bytes().to_ascii_lowercase().as_slice() {
            b"" | b"identity" => return Ok(Self::Plain),
            b"gzip" => Some(Self::Gzip),
            b"snappy" => Some(Self::Snappy),
            _ => None,
        };
        packing.filter(|p| allowed.contains(p)).ok_or_else(|| {
            let names: Vec<_> = allowed.iter().map(|p| if *p == Self::Gzip { "gzip" } else { "snappy" }).collect();
            Refusal::unsupported(format!(
                "content-encoding {:?} is not taken here; use {}",
                String::from_utf8_lossy(value.as_bytes()),
                if names.is_empty() { "none".into() } else { names.join(", ") }
            ))
        })
    }

    pub(crate) fn unpack(self, packed: Bytes) -> Result<Bytes, Refusal> {
        match self {
            Self::Plain => Ok(packed),
            Self::Gzip => gunzip(&packed, BODY_INFLATED_BYTES_MAX),
            Self::Snappy => unsnap(&packed, BODY_INFLATED_BYTES_MAX),
        }
    }
}

pub(crate) fn gunzip(packed: &[u8], bytes_max: usize) -> Result<Bytes, Refusal> {
    // Several members in a row are one gzip file.
    let mut reader = flate2::read::MultiGzDecoder::new(packed).take(bytes_max as u64 + 1);
    let mut plain = Vec::with_capacity(packed.len().saturating_mul(4).min(bytes_max));
    reader.read_to_end(&mut plain).map_err(|e| Refusal::malformed(format!("the body is no valid gzip: {e}")))?;
    if plain.len() > bytes_max { Err(over("unpacked", bytes_max)) } else { Ok(plain.into()) }
}

/// Snappy's block format. Its first bytes say how long the plain text is, so that a bomb is refused unopened.
pub(crate) fn unsnap(packed: &[u8], bytes_max: usize) -> Result<Bytes, Refusal> {
    let bad = |e: snap::Error| Refusal::malformed(format!("the body is no valid snappy block: {e}"));
    let length = snap::raw::decompress_len(packed).map_err(bad)?;
    if length > bytes_max {
        return Err(over("unpacked", bytes_max));
    }
    // A block of n bytes can't hold more than about 21 n: a copy of 64 bytes takes 3.
    if length > packed.len().saturating_mul(24) {
        return Err(Refusal::malformed(format!("the snappy block of {} bytes claims to hold {length}", packed.len())));
    }
    snap::raw::Decoder::new().decompress_vec(packed).map(Bytes::from).map_err(bad)
}

fn over(how: &str, bytes_max: usize) -> Refusal {
    Refusal::too_large(format!("the body is over {} MiB {how}; send smaller batches", bytes_max >> 20))
}

/// The media type without parameters, in lower case; empty when the header is absent.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

/// One parameter of the content type: `version` of `text/plain; version=0.0.4`.
pub(crate) fn media_parameter(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').skip(1).find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// Runs a decoder where it stands when the body is small, else on the blocking pool.
pub(crate) async fn decode<T: Send + 'static>(
    bytes: Bytes,
    packing: Packing,
    decode: impl FnOnce(Bytes) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    if bytes.len() <= INLINE_BYTES_MAX / 8 || (packing == Packing::Plain && bytes.len() <= INLINE_BYTES_MAX) {
        return decode(packing.unpack(bytes)?);
    }
    tokio::task::spawn_blocking(move || decode(packing.unpack(bytes)?)).await.unwrap_or_else(|_| {
        Err(Refusal::new(http::StatusCode::INTERNAL_SERVER_ERROR, "the decoder failed; this is a bug of ours"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_gzip_bomb_stops_at_the_limit() {
        let bomb = gzip(&vec![0; 4 << 20]);
        assert!(bomb.len() < 8 << 10);
        let refused = gunzip(&bomb, 1 << 20).unwrap_err();
        assert_eq!(refused.status, 413);
        assert!(refused.message.contains("1 MiB unpacked"), "{}", refused.message);
        assert_eq!(gunzip(&bomb, 4 << 20).unwrap().len(), 4 << 20);
    }

    #[test]
    fn a_snappy_block_that_lies_about_its_length_is_refused_unopened() {
        let liar = [0xff, 0xff, 0xff, 0xff, 0x0f, 0];
        assert_eq!(unsnap(&liar, usize::MAX).unwrap_err().status, 400);
        assert_eq!(unsnap(&liar, 1 << 20).unwrap_err().status, 413);
        assert_eq!(unsnap(&[0xff; 12], 1 << 20).unwrap_err().status, 400);
        let honest = snap::raw::Encoder::new().compress_vec(&vec![7; 1 << 20]).unwrap();
        assert_eq!(unsnap(&honest, 1 << 20).unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_packed_body_cut_anywhere_is_refused() {
        let whole = gzip(b"some text that is long enough to be cut in many places");
        let snapped = snap::raw::Encoder::new().compress_vec(b"some text that is long enough to be cut").unwrap();
        for end in 0..whole.len() {
            assert!(end == 0 || gunzip(&whole[..end], 1 << 20).is_err(), "gzip cut at {end}");
        }
        for end in 0..snapped.len() {
            assert!(unsnap(&snapped[..end], 1 << 20).is_err(), "snappy cut at {end}");
        }
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_before_it_is_read() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, "1000".parse().unwrap());
        assert_eq!(read_up_to(&headers, axum::body::Body::empty(), 999).await.unwrap_err().status, 413);
        let unannounced = read_up_to(&HeaderMap::new(), axum::body::Body::from(vec![0; 1000]), 999).await;
        assert_eq!(unannounced.unwrap_err().status, 413);
    }

    #[test]
    fn an_unknown_packing_is_refused_with_those_that_are_known() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, "br".parse().unwrap());
        let refused = Packing::of(&headers, &[Packing::Gzip]).unwrap_err();
        assert_eq!(refused.status, 415);
        assert!(refused.message.contains("use gzip"), "{}", refused.message);
    }
}
