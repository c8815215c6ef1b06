//! Bytes of records: varints, length-prefixed texts and typed attribute values. Decoding trusts
//! nothing: each length is checked against what is left, nesting against [`DEPTH_MAX`].

use model::{AttributeValue, Attributes};

/// Nesting of attribute values. OTLP senders stay under 5; a decoder that recurses needs a bound.
pub const DEPTH_MAX: usize = 16;

/// Bytes that are no record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed record at byte {at}: {reason}")]
pub struct Malformed {
    pub at: usize,
    pub reason: &'static str,
}

pub fn put_u64(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Zigzag, so that small negative numbers stay short.
pub fn put_i64(out: &mut Vec<u8>, v: i64) {
    put_u64(out, ((v << 1) ^ (v >> 63)) as u64);
}

pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub fn put_attributes(out: &mut Vec<u8>, attributes: &Attributes) {
    put_u64(out, attributes.len() as u64);
    for (name, value) in attributes {
        put_bytes(out, name.as_bytes());
        put_value(out, value);
    }
}

fn put_value(out: &mut Vec<u8>, value: &AttributeValue) {
    match value {
        AttributeValue::Bool(false) => out.push(0),
        AttributeValue::Bool(true) => out.push(1),
        AttributeValue::Int(v) => {
            out.push(2);
            put_i64(out, *v);
        }
        AttributeValue::Double(v) => {
            out.push(3);
            out.extend_from_slice(&v.to_bits().to_le_bytes());
        }
        AttributeValue::String(v) => {
            out.push(4);
            put_bytes(out, v.as_bytes());
        }
        AttributeValue::List(values) => {
            out.push(5);
            put_u64(out, values.len() as u64);
            for v in values {
                put_value(out, v);
            }
        }
        AttributeValue::Map(map) => {
            out.push(6);
            put_attributes(out, map);
        }
    }
}

/// How deep attribute values nest; 1 for plain ones.
pub fn depth(attributes: &Attributes) -> usize {
    fn of(value: &AttributeValue, left: usize) -> usize {
        if left == 0 {
            return DEPTH_MAX + 1;
        }
        match value {
            AttributeValue::List(values) => 1 + values.iter().map(|v| of(v, left - 1)).max().unwrap_or(0),
            AttributeValue::Map(map) => 1 + map.values().map(|v| of(v, left - 1)).max().unwrap_or(0),
            _ => 1,
        }
    }
    attributes.values().map(|v| of(v, DEPTH_MAX)).max().unwrap_or(0)
}

/// A cursor over bytes that may be hostile.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn fail(&self, reason: &'static str) -> Malformed {
        Malformed { at: self.at, reason }
    }

    pub fn is_done(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn done(&self) -> Result<(), Malformed> {
        if self.is_done() { Ok(()) } else { Err(self.fail("bytes follow the end")) }
    }

    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let b = *self.bytes.get(self.at).ok_or(self.fail("cut short"))?;
        self.at += 1;
        Ok(b)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            if shift == 63 && b > 1 {
                return Err(self.fail("number too large"));
            }
            v |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Ok(v);
            }
        }
        Err(self.fail("number too long"))
    }

    pub fn i64(&mut self) -> Result<i64, Malformed> {
        let v = self.u64()?;
        Ok((v >> 1) as i64 ^ -((v & 1) as i64))
    }

    /// A count of things that take at least one byte each.
    pub fn count(&mut self) -> Result<usize, Malformed> {
        let n = self.u64()?;
        if n > (self.bytes.len() - self.at) as u64 {
            return Err(self.fail("count exceeds what is left"));
        }
        Ok(n as usize)
    }

    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(n).filter(|e| *e <= self.bytes.len()).ok_or(self.fail("cut short"))?;
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let n = self.count()?;
        self.take(n)
    }

    pub fn str(&mut self) -> Result<&'a str, Malformed> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|_| self.fail("text is no UTF-8"))
    }

    pub fn string(&mut self) -> Result<String, Malformed> {
        self.str().map(str::to_owned)
    }

    pub fn attributes(&mut self) -> Result<Attributes, Malformed> {
        self.attributes_within(DEPTH_MAX + 1)
    }

    fn attributes_within(&mut self, left: usize) -> Result<Attributes, Malformed> {
        let n = self.count()?;
        let mut map = Attributes::with_capacity(n.min(64));
        for _ in 0..n {
            let name = self.string()?;
            map.insert(name, self.value(left)?);
        }
        Ok(map)
    }

    fn value(&mut self, left: usize) -> Result<AttributeValue, Malformed> {
        let left = left.checked_sub(1).ok_or(self.fail("nested too deep"))?;
        Ok(match self.byte()? {
            0 => AttributeValue::Bool(false),
            1 => AttributeValue::Bool(true),
            2 => AttributeValue::Int(self.i64()?),
            3 => {
                let bits = self.take(8)?.try_into().expect("take(8) gives eight bytes");
                AttributeValue::Double(f64::from_bits(u64::from_le_bytes(bits)))
            }
            4 => AttributeValue::String(self.string()?),
            5 => {
                let n = self.count()?;
                let mut values = Vec::with_capacity(n.min(64));
                for _ in 0..n {
                    values.push(self.value(left)?);
                }
                AttributeValue::List(values)
            }
            6 => AttributeValue::Map(self.attributes_within(left)?),
            _ => return Err(self.fail("unknown kind of value")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn odd() -> Attributes {
        let mut inner = Attributes::new();
        inner.insert("ü.".into(), AttributeValue::List(vec![AttributeValue::Bool(true), AttributeValue::Int(i64::MIN)]));
        let mut map = Attributes::new();
        map.insert(String::new(), AttributeValue::Map(inner));
        map.insert("inf".into(), AttributeValue::Double(f64::INFINITY));
        map.insert("text".into(), "a\0b".into());
        map
    }

    #[test]
    fn odd_attributes_come_back_as_they_were() {
        let mut bytes = Vec::new();
        put_attributes(&mut bytes, &odd());
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.attributes(), Ok(odd()));
        assert_eq!(reader.done(), Ok(()));
    }

    #[test]
    fn every_truncation_is_an_error_and_no_panic() {
        let mut bytes = Vec::new();
        put_attributes(&mut bytes, &odd());
        for cut in 0..bytes.len() {
            assert!(Reader::new(&bytes[..cut]).attributes().is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn nesting_beyond_the_bound_is_refused() {
        let nested = (0..DEPTH_MAX * 4).fold(AttributeValue::Int(1), |v, _| AttributeValue::List(vec![v]));
        let mut map = Attributes::new();
        map.insert("a".into(), nested);
        assert!(depth(&map) > DEPTH_MAX);
        let mut bytes = Vec::new();
        put_attributes(&mut bytes, &map);
        assert_eq!(Reader::new(&bytes).attributes().unwrap_err().reason, "nested too deep");
    }

    proptest! {
        #[test]
        fn garbage_never_panics_nor_allocates_by_what_it_claims(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let read = Reader::new(&bytes).attributes();
            prop_assert!(read.is_err() || read.is_ok_and(|map| map.len() <= bytes.len()));
        }

        #[test]
        fn numbers_round_trip(a in any::<u64>(), b in any::<i64>()) {
            let mut bytes = Vec::new();
            put_u64(&mut bytes, a);
            put_i64(&mut bytes, b);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!((reader.u64(), reader.i64()), (Ok(a), Ok(b)));
        }
    }
}
