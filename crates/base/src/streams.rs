//! Random streams addressed by (seed, purpose, index) instead of advanced as hidden state, so that
//! a resumed run draws exactly what an uninterrupted one would have drawn.

use rand::SeedableRng;

/// The generator behind every draw: its output is specified, not an implementation detail.
pub type Stream = rand_chacha::ChaCha8Rng;

/// The stream for draw number `index` of one `purpose` (`"augment"`, `"ccfs"`, ...) under `seed`.
///
/// Streams of different (seed, purpose, index) are independent: the three are hashed into the key.
pub fn stream(seed: u64, purpose: &str, index: u64) -> Stream {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&index.to_le_bytes());
    hasher.update(purpose.as_bytes());
    Stream::from_seed(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::stream;
    use rand::RngExt;

    #[test]
    fn each_coordinate_changes_the_stream() {
        let draw = |s, p, i| stream(s, p, i).random::<u64>();
        let reference = draw(1, "shuffle", 2);
        assert_eq!(reference, draw(1, "shuffle", 2));
        assert_ne!(reference, draw(2, "shuffle", 2));
        assert_ne!(reference, draw(1, "augment", 2));
        assert_ne!(reference, draw(1, "shuffle", 3));
    }

    #[test]
    fn output_is_pinned() {
        // A change here silently changes every published result: bump the major version instead.
        assert_eq!(stream(0, "pin", 0).random::<u64>(), PINNED);
    }
    const PINNED: u64 = 4_081_731_992_713_553_342;
}
