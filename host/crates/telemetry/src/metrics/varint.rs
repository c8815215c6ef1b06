//! Variable-length integers (LEB128) and their signed form (zigzag).

pub fn write(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Reads from the front of `bytes`; `None` if they end early or say more than 64 bits.
pub fn read(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

pub fn write_signed(out: &mut Vec<u8>, value: i64) {
    write(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

pub fn read_signed(bytes: &mut &[u8]) -> Option<i64> {
    let value = read(bytes)?;
    Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_read_back(value: u64, signed: i64) {
            let mut out = Vec::new();
            write(&mut out, value);
            write_signed(&mut out, signed);
            let mut rest = &out[..];
            prop_assert_eq!((read(&mut rest), read_signed(&mut rest), rest.len()), (Some(value), Some(signed), 0));
        }
    }

    #[test]
    fn a_number_without_an_end_is_none() {
        assert_eq!(read(&mut &[0x80; 3][..]), None);
        assert_eq!(read(&mut &[0xff; 11][..]), None);
    }
}
