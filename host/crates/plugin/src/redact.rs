//! Takes secrets out of what comes back. By value and by its common encodings: a guard against echo, not
//! against a service that sets out to leak; the real protection is where a secret may travel.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

const MARK: &[u8] = b"[redacted]";
/// A shorter secret would turn every text into marks; it is no secret anyhow.
const SECRET_BYTES_MIN: usize = 4;

/// The spellings to look for, longest first.
#[derive(Clone, Default)]
pub(crate) struct Redactor(Vec<Vec<u8>>);

impl Redactor {
    pub(crate) fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut needles = Vec::new();
        for secret in secrets.into_iter().filter(|s| s.len() >= SECRET_BYTES_MIN) {
            needles.push(secret.to_vec());
            for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
                needles.push(engine.encode(secret).into_bytes());
            }
            needles.push(hex::encode(secret).into_bytes());
            needles.push(hex::encode_upper(secret).into_bytes());
            needles.push(percent_encode(secret, NON_ALPHANUMERIC).to_string().into_bytes());
            if let Ok(text) = std::str::from_utf8(secret) {
                let json = serde_json::Value::from(text).to_string();
                needles.push(json.as_bytes()[1..json.len() - 1].to_vec());
            }
        }
        needles.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        needles.dedup();
        Self(needles)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// None when there was nothing to take out.
    pub(crate) fn redact(&self, haystack: &[u8]) -> Option<Vec<u8>> {
        let mut out: Option<Vec<u8>> = None;
        for needle in &self.0 {
            let current = out.as_deref().unwrap_or(haystack);
            if let Some(replaced) = replace(current, needle) {
                out = Some(replaced);
            }
        }
        out
    }

    pub(crate) fn redact_text(&self, text: &str) -> String {
        match self.redact(text.as_bytes()) {
            Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            None => text.to_owned(),
        }
    }
}

fn replace(haystack: &[u8], needle: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(step) = haystack[at..].iter().position(|b| *b == needle[0]) {
        at += step;
        if haystack[at..].starts_with(needle) {
            out.extend_from_slice(&haystack[copied..at]);
            out.extend_from_slice(MARK);
            at += needle.len();
            copied = at;
        } else {
            at += 1;
        }
    }
    if copied == 0 {
        return None;
    }
    out.extend_from_slice(&haystack[copied..]);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_taken_out_in_its_common_spellings() {
        let secret = b"s3cr\"et/+x";
        let redactor = Redactor::new([&secret[..]]);
        let spellings = [
            "s3cr\"et/+x".to_owned(),
            STANDARD.encode(secret),
            URL_SAFE_NO_PAD.encode(secret),
            hex::encode(secret),
            hex::encode_upper(secret),
            percent_encode(secret, NON_ALPHANUMERIC).to_string(),
            "s3cr\\\"et/+x".to_owned(),
        ];
        for spelling in spellings {
            assert_eq!(redactor.redact_text(&format!("<{spelling}>{spelling}")), "<[redacted]>[redacted]", "{spelling}");
        }
        assert_eq!(redactor.redact(b"nothing here"), None);
        assert!(Redactor::new([&b"abc"[..]]).is_empty());
    }
}
