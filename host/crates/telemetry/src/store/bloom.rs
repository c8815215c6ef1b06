//! Which trace ids a split may hold, in 10 bits an id: a look-up by id opens few splits in vain
//! (1 %) instead of all.

/// Bits an id; with [`HASHES`] about 1 % false positives.
const BITS_PER_ID: usize = 10;
const HASHES: u64 = 7;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bloom(Vec<u8>);

impl Bloom {
    pub fn of<'a>(ids: impl ExactSizeIterator<Item = &'a [u8]>) -> Self {
        let mut bits = vec![0; (ids.len() * BITS_PER_ID).div_ceil(8)];
        for id in ids {
            for place in places(id, bits.len()) {
                bits[place / 8] |= 1 << (place % 8);
            }
        }
        Self(bits)
    }

    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// False: it is not there.
    pub fn may_hold(&self, id: &[u8]) -> bool {
        !self.0.is_empty() && places(id, self.0.len()).all(|place| self.0[place / 8] & (1 << (place % 8)) != 0)
    }
}

/// FNV-1a, stirred: stored, so it must be the same on every machine and version.
fn places(id: &[u8], bytes: usize) -> impl Iterator<Item = usize> {
    let fnv = id.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    let stir = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let (first, step) = (stir(fnv), stir(fnv.wrapping_add(0x9e37_79b9_7f4a_7c15)) | 1);
    let bits = (bytes * 8) as u64;
    (0..HASHES).map(move |i| (first.wrapping_add(step.wrapping_mul(i)) % bits) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_there_is_never_denied_and_few_others_are_taken() {
        let id = |i: u32| i.to_be_bytes().repeat(4);
        let ids: Vec<Vec<u8>> = (0..2_000).map(id).collect();
        let bloom = Bloom::of(ids.iter().map(Vec::as_slice));
        assert!(ids.iter().all(|id| bloom.may_hold(id)));
        let wrong = (2_000..12_000).filter(|i| bloom.may_hold(&id(*i))).count();
        assert!(wrong < 300, "{wrong} of 10,000");
        assert!(!Bloom::of(std::iter::empty()).may_hold(&id(1)));
        assert_eq!(Bloom::from_bytes(bloom.bytes()), bloom);
    }
}
