//! One chunk: up to [`SAMPLES_MAX`] samples of one series as compressed columns. Bytes: `docs/formats/metrics.md`.
//!
//! Times are deltas, packed to the width of their spread; a regular scrape costs nothing per sample. Values that are
//! short decimals (most are) become integers at a common power of ten, then deltas, packed likewise; what doesn't fit
//! becomes an exception, bit for bit. Other values go through XOR coding (Gorilla), or raw. The smallest is kept.

use super::varint;

/// Samples of a chunk when a head seals it: two hours at one a minute, twenty minutes at 10 s.
pub const SAMPLES: usize = 120;
/// No chunk has more; a reader refuses it before it allocates.
pub const SAMPLES_MAX: usize = 4096;

const RAW: u8 = 0;
const DECIMAL: u8 = 1;
const XOR: u8 = 2;
/// 10^15 keeps every integer below 2^53 in reach and covers what people write.
const EXPONENT_MAX: usize = 15;
const POWERS: [f64; EXPONENT_MAX + 1] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
/// Integers beyond this aren't exact as f64.
const MANTISSA_MAX: f64 = 9_007_199_254_740_992.0;

/// Encodes columns of equal length, 1 to [`SAMPLES_MAX`] long, times strictly ascending.
pub fn encode(times: &[i64], values: &[f64]) -> Vec<u8> {
    assert!(times.len() == values.len() && (1..=SAMPLES_MAX).contains(&times.len()), "a chunk has 1 to {SAMPLES_MAX} samples");
    let xor = encode_xor(values);
    let (codec, encoded) = match encode_decimal(values).filter(|d| d.len() <= xor.len()) {
        Some(decimal) => (DECIMAL, decimal),
        None if xor.len() < values.len() * 8 => (XOR, xor),
        None => (RAW, values.iter().flat_map(|v| v.to_bits().to_le_bytes()).collect()),
    };
    let mut out = Vec::with_capacity(encoded.len() + 24);
    out.push(codec);
    varint::write(&mut out, times.len() as u64);
    encode_times(&mut out, times);
    out.extend_from_slice(&encoded);
    out
}

/// Appends the chunk's samples to the columns; on damage leaves them as they were and says `None`.
pub fn decode(bytes: &[u8], times: &mut Vec<i64>, values: &mut Vec<f64>) -> Option<usize> {
    let before = times.len();
    let result = decode_inner(bytes, times, values);
    if result.is_none() {
        times.truncate(before);
        values.truncate(before);
    }
    result
}

fn decode_inner(mut bytes: &[u8], times: &mut Vec<i64>, values: &mut Vec<f64>) -> Option<usize> {
    let bytes = &mut bytes;
    let codec = *bytes.split_off_first()?;
    let count = usize::try_from(varint::read(bytes)?).ok().filter(|n| (1..=SAMPLES_MAX).contains(n))?;
    decode_times(bytes, count, times)?;
    match codec {
        RAW => {
            let raw = bytes.split_off(..count * 8)?;
            values.extend(raw.chunks_exact(8).map(|w| f64::from_bits(u64::from_le_bytes(w.try_into().expect("eight bytes")))));
        }
        DECIMAL => decode_decimal(bytes, count, values)?,
        XOR => decode_xor(bytes, count, values)?,
        _ => return None,
    }
    bytes.is_empty().then_some(count)
}

fn encode_times(out: &mut Vec<u8>, times: &[i64]) {
    varint::write_signed(out, times[0]);
    if times.len() == 1 {
        return;
    }
    let deltas = || times.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]).cast_unsigned());
    let least = deltas().min().expect("two times have a delta");
    varint::write(out, least);
    pack(out, deltas().map(|d| d - least), deltas().max().expect("as above") - least);
}

fn decode_times(bytes: &mut &[u8], count: usize, times: &mut Vec<i64>) -> Option<()> {
    let mut t = varint::read_signed(bytes)?;
    times.push(t);
    if count == 1 {
        return Some(());
    }
    let least = varint::read(bytes)?;
    unpack(bytes, count - 1, |d| {
        t = t.wrapping_add(least.wrapping_add(d).cast_signed());
        times.push(t);
    })
}

/// The least power of ten that makes `v` an integer that reads back bit for bit.
fn exponent_of(v: f64, from: usize) -> Option<usize> {
    (from..=EXPONENT_MAX).find(|e| mantissa(v, *e).is_some())
}

fn mantissa(v: f64, exponent: usize) -> Option<i64> {
    let m = (v * POWERS[exponent]).round();
    // NaN has no mantissa either.
    if m.is_nan() || m.abs() >= MANTISSA_MAX {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "an integer below 2^53, checked above")]
    let m = m as i64;
    // Through the integer, as decoding does: -0.0 must not pass.
    (value_of(m, exponent).to_bits() == v.to_bits()).then_some(m)
}

#[expect(clippy::cast_precision_loss, reason = "mantissas lie below 2^53; what damage made larger is only not to panic")]
fn value_of(mantissa: i64, exponent: usize) -> f64 {
    mantissa as f64 / POWERS[exponent]
}

/// `None` if too many values are no short decimals.
fn encode_decimal(values: &[f64]) -> Option<Vec<u8>> {
    let exceptions_max = values.len() / 8 + 1;
    let mut exponent = 0;
    let mut hopeless = 0;
    for v in values {
        match exponent_of(*v, exponent) {
            Some(e) => exponent = e,
            None => hopeless += 1,
        }
        if hopeless > exceptions_max {
            return None;
        }
    }
    let mut mantissas = Vec::with_capacity(values.len());
    let mut exceptions = Vec::new();
    for (i, v) in values.iter().enumerate() {
        mantissas.push(mantissa(*v, exponent).unwrap_or_else(|| {
            exceptions.push((i, v.to_bits()));
            // A repeat of the one before costs least; decoding puts the exact bits in its place.
            mantissas.last().copied().unwrap_or(0)
        }));
    }
    if exceptions.len() > exceptions_max {
        return None;
    }
    let mut out = vec![u8::try_from(exponent).expect("at most 15")];
    varint::write(&mut out, exceptions.len() as u64);
    for (i, bits) in exceptions {
        varint::write(&mut out, i as u64);
        out.extend_from_slice(&bits.to_le_bytes());
    }
    let (low, high) = bounds(mantissas.iter().copied());
    let deltas = || mantissas.windows(2).map(|pair| pair[1] - pair[0]);
    let (delta_low, delta_high) = bounds(deltas());
    let spread = |low: i64, high: i64| (high - low).cast_unsigned();
    // Deltas pay for counters and slow gauges, plain offsets for noise.
    if spread(delta_low, delta_high) < spread(low, high) {
        out.push(1);
        varint::write_signed(&mut out, mantissas[0]);
        varint::write_signed(&mut out, delta_low);
        pack(&mut out, deltas().map(|d| spread(delta_low, d)), spread(delta_low, delta_high));
    } else {
        out.push(0);
        varint::write_signed(&mut out, low);
        pack(&mut out, mantissas.iter().map(|m| spread(low, *m)), spread(low, high));
    }
    Some(out)
}

fn bounds(mut numbers: impl Iterator<Item = i64>) -> (i64, i64) {
    let first = numbers.next().unwrap_or(0);
    numbers.fold((first, first), |(low, high), n| (low.min(n), high.max(n)))
}

fn decode_decimal(bytes: &mut &[u8], count: usize, values: &mut Vec<f64>) -> Option<()> {
    let begin = values.len();
    let exponent = usize::from(*bytes.split_off_first()?);
    if exponent > EXPONENT_MAX {
        return None;
    }
    let exceptions_count = usize::try_from(varint::read(bytes)?).ok().filter(|n| *n <= count)?;
    let mut exceptions = Vec::with_capacity(exceptions_count);
    for _ in 0..exceptions_count {
        let i = usize::try_from(varint::read(bytes)?).ok().filter(|i| *i < count)?;
        exceptions.push((i, u64::from_le_bytes(bytes.split_off(..8)?.try_into().ok()?)));
    }
    let value = |m| value_of(m, exponent);
    let is_delta = *bytes.split_off_first()? == 1;
    let mut m = varint::read_signed(bytes)?;
    if is_delta {
        values.push(value(m));
        let low = varint::read_signed(bytes)?;
        unpack(bytes, count - 1, |d| {
            m = m.wrapping_add(low).wrapping_add(d.cast_signed());
            values.push(value(m));
        })?;
    } else {
        unpack(bytes, count, |d| values.push(value(m.wrapping_add(d.cast_signed()))))?;
    }
    for (i, bits) in exceptions {
        values[begin + i] = f64::from_bits(bits);
    }
    Some(())
}

/// Gorilla's XOR coding.
fn encode_xor(values: &[f64]) -> Vec<u8> {
    let mut bits = BitWriter::default();
    let mut before = values[0].to_bits();
    bits.put(before, 64);
    let (mut window_leading, mut window_width) = (0, 0);
    for v in &values[1..] {
        let xor = v.to_bits() ^ before;
        before = v.to_bits();
        if xor == 0 {
            bits.put(0, 1);
            continue;
        }
        let (leading, trailing) = (xor.leading_zeros().min(31), xor.trailing_zeros());
        let fits = window_width > 0 && leading >= window_leading && trailing >= 64 - window_leading - window_width;
        if fits {
            bits.put(0b01, 2);
        } else {
            (window_leading, window_width) = (leading, 64 - leading - trailing);
            bits.put(0b11, 2);
            bits.put(u64::from(window_leading), 5);
            bits.put(u64::from(window_width - 1), 6);
        }
        bits.put(xor >> (64 - window_leading - window_width), window_width);
    }
    bits.finish()
}

fn decode_xor(bytes: &mut &[u8], count: usize, values: &mut Vec<f64>) -> Option<()> {
    let mut bits = BitReader { bytes, at: 0 };
    let mut before = bits.get(64)?;
    values.push(f64::from_bits(before));
    let (mut leading, mut width) = (0, 0);
    for _ in 1..count {
        if bits.get(1)? == 1 {
            if bits.get(1)? == 1 {
                leading = u32::try_from(bits.get(5)?).expect("five bits");
                width = u32::try_from(bits.get(6)?).expect("six bits") + 1;
            }
            if width == 0 || leading + width > 64 {
                return None;
            }
            before ^= bits.get(width)? << (64 - leading - width);
        }
        values.push(f64::from_bits(before));
    }
    let used = bits.at.div_ceil(8);
    bytes.split_off(..used).map(drop)
}

/// Writes a width byte and the numbers packed to it. `max` is the largest of them.
fn pack(out: &mut Vec<u8>, numbers: impl Iterator<Item = u64>, max: u64) {
    let width = 64 - max.leading_zeros();
    out.push(u8::try_from(width).expect("at most 64"));
    if width > 0 {
        let mut bits = BitWriter::default();
        numbers.for_each(|n| bits.put(n, width));
        out.extend_from_slice(&bits.finish());
    }
}

fn unpack(bytes: &mut &[u8], count: usize, mut take: impl FnMut(u64)) -> Option<()> {
    let width = u32::from(*bytes.split_off_first()?);
    if width > 64 {
        return None;
    }
    let packed = bytes.split_off(..(count * width as usize).div_ceil(8))?;
    let mut bits = BitReader { bytes: packed, at: 0 };
    for _ in 0..count {
        take(bits.get(width)?);
    }
    Some(())
}

/// Bits from the low end of each byte up.
#[derive(Default)]
struct BitWriter {
    out: Vec<u8>,
    pending: u128,
    count: u32,
}

impl BitWriter {
    fn put(&mut self, bits: u64, width: u32) {
        self.pending |= u128::from(bits) << self.count;
        self.count += width;
        while self.count >= 8 {
            self.out.push(self.pending.to_le_bytes()[0]);
            self.pending >>= 8;
            self.count -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.out.push(self.pending.to_le_bytes()[0]);
        }
        self.out
    }
}

struct BitReader<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl BitReader<'_> {
    fn get(&mut self, width: u32) -> Option<u64> {
        if width == 0 {
            return Some(0);
        }
        let end = self.at + width as usize;
        if end > self.bytes.len() * 8 {
            return None;
        }
        let first = self.at / 8;
        let word = match self.bytes.get(first..first + 16) {
            Some(whole) => u128::from_le_bytes(whole.try_into().expect("sixteen bytes")),
            None => {
                let mut padded = [0; 16];
                let rest = &self.bytes[first..];
                padded[..rest.len()].copy_from_slice(rest);
                u128::from_le_bytes(padded)
            }
        };
        self.at = end;
        #[expect(clippy::cast_possible_truncation, reason = "masked to at most 64 bits")]
        Some((word >> (first_bit(end, width) % 8)) as u64 & (u64::MAX >> (64 - width)))
    }
}

fn first_bit(end: usize, width: u32) -> usize {
    end - width as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(times: &[i64], values: &[f64]) -> Vec<u8> {
        let bytes = encode(times, values);
        let (mut t, mut v) = (Vec::new(), Vec::new());
        assert_eq!(decode(&bytes, &mut t, &mut v), Some(times.len()));
        assert_eq!(t, times);
        assert_eq!(v.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), values.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        bytes
    }

    fn regular(count: usize) -> Vec<i64> {
        (0..count).map(|i| 1_700_000_000_000 + i as i64 * 10_000).collect()
    }

    #[test]
    fn a_two_decimal_gauge_costs_little_more_than_a_byte_a_sample() {
        let mut x = 50.0f64;
        let values: Vec<f64> = (0..SAMPLES)
            .map(|i| {
                x += ((i * 7919) % 100) as f64 / 100.0 - 0.5;
                (x * 100.0).round() / 100.0
            })
            .collect();
        let bytes = round_trip(&regular(SAMPLES), &values);
        assert_eq!(bytes[0], DECIMAL);
        assert!(bytes.len() < SAMPLES * 5 / 4, "{} bytes", bytes.len());
    }

    #[test]
    fn a_constant_costs_nothing_per_sample() {
        assert!(round_trip(&regular(SAMPLES), &[0.1; SAMPLES]).len() < 30);
        assert!(round_trip(&regular(SAMPLES), &[1.0 / 3.0; SAMPLES]).len() < 50);
    }

    #[test]
    fn special_values_keep_every_bit_among_decimals() {
        let mut values: Vec<f64> = (0..60).map(|i| f64::from(i * 37 % 100) / 100.0).collect();
        values[7] = f64::from_bits(model::STALE_NAN_BITS);
        values[8] = -0.0;
        values[59] = f64::NEG_INFINITY;
        assert_eq!(round_trip(&regular(60), &values)[0], DECIMAL);
        round_trip(&[i64::MIN, 0, i64::MAX], &[f64::MAX, f64::MIN_POSITIVE, f64::NAN]);
        round_trip(&[5], &[f64::from_bits(model::STALE_NAN_BITS)]);
    }

    #[test]
    fn noise_is_kept_raw_and_repeats_by_xor() {
        let noise: Vec<f64> = (1..=60u64).map(|i| f64::from_bits(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        assert_eq!(round_trip(&regular(60), &noise)[0], RAW);
        let thirds: Vec<f64> = (0..60).map(|i| f64::from(i / 20) / 3.0 + 0.1).collect();
        assert_eq!(round_trip(&regular(60), &thirds)[0], XOR);
    }

    #[test]
    fn a_chunk_cut_anywhere_is_refused_and_leaves_the_columns_alone() {
        for values in [vec![1.25, 2.5, 4.75], vec![0.1 / 3.0, 0.1 / 3.0, 0.2 / 3.0]] {
            let bytes = encode(&[1, 2, 4], &values);
            for cut in 0..bytes.len() {
                let (mut t, mut v) = (vec![7], vec![7.0]);
                assert_eq!(decode(&bytes[..cut], &mut t, &mut v), None, "cut at {cut}");
                assert_eq!((t, v), (vec![7], vec![7.0]));
            }
        }
    }

    proptest! {
        #[test]
        fn any_columns_read_back(
            t0 in -1_000_000_000_000i64..4_000_000_000_000,
            deltas in proptest::collection::vec(1i64..100_000, 0..200),
            kind in 0..3,
            seed in proptest::collection::vec(any::<u64>(), 200),
        ) {
            let times: Vec<i64> = std::iter::once(t0).chain(deltas.iter().scan(t0, |t, d| { *t += d; Some(*t) })).collect();
            let values: Vec<f64> = seed.iter().take(times.len()).map(|s| match kind {
                0 => f64::from_bits(*s),
                1 => (s % 100_000) as f64 / 1000.0,
                _ => (*s as f64).sqrt(),
            }).collect();
            let n = times.len().min(values.len());
            round_trip(&times[..n], &values[..n]);
        }

        #[test]
        fn random_bytes_never_panic_the_decoder(codec in 0u8..4, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut all = vec![codec];
            all.extend(bytes);
            let (mut t, mut v) = (Vec::new(), Vec::new());
            let _ = decode(&all, &mut t, &mut v);
            prop_assert_eq!(t.len(), v.len());
        }
    }
}
