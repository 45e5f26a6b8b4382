//! Copies for another core: past this core's cache.
//!
//! Owns how bytes are written that another core reads next. Where they lie and how that core is
//! told is left to `transport`.
//!
//! A store to a line that another core's cache holds waits until that core has given it up, one
//! line after another; a store past the cache does not ask. Between two processors whose
//! last-level caches are not the same one, a copy of 400 KB took a tenth of the time (measured on
//! family 25, model 17: 20 GB/s against 2); within one such cache both were alike.

use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Level;
use crate::lanes::CACHE_LINE_BYTES;

/// Shorter copies go through the cache: they are over before another core would notice.
const STREAMED_BYTES_MIN: usize = 1024;

/// Copies `from` to `to`, which another core reads next and this one does not.
///
/// - `from`, `to`: the same length, in bytes, anywhere.
/// - Result: `to` holds the bytes of `from`, on every `isa`; whoever sees a later release store of
///   this thread sees them.
/// - Panics: if the lengths differ.
pub fn for_other_core(isa: Isa, from: &[u8], to: &mut [u8]) {
    assert_eq!(from.len(), to.len(), "bytes to copy against their place");
    if to.len() < STREAMED_BYTES_MIN {
        return to.copy_from_slice(from);
    }
    // Whole lines of the cache, and what is before the first and after the last.
    let head = to.as_ptr().align_offset(CACHE_LINE_BYTES);
    let (from_head, from) = from.split_at(head);
    let (to_head, to) = to.split_at_mut(head);
    let (from, from_tail) = from.as_chunks();
    let (to, to_tail) = to.as_chunks_mut();
    to_head.copy_from_slice(from_head);
    lines(isa, from, to);
    to_tail.copy_from_slice(from_tail);
}

fn lines(isa: Isa, from: &[[u8; CACHE_LINE_BYTES]], to: &mut [[u8; CACHE_LINE_BYTES]]) {
    match isa.level() {
        // SAFETY: only `Isa::detect` makes an `Isa` of level `Avx512`, after CPUID reported it.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { crate::lanes::stream_avx512(from, to) },
        // SAFETY: the same for `Avx2`.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { crate::lanes::stream_avx2(from, to) },
        _ => to.copy_from_slice(from),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_level_copies_all_bytes_and_no_other(
            bytes in proptest::collection::vec(any::<u8>(), 0..3 * STREAMED_BYTES_MIN),
            offset in 0..2 * CACHE_LINE_BYTES,
        ) {
            for isa in Isa::available() {
                let mut place = vec![0xa5; offset + bytes.len() + CACHE_LINE_BYTES];
                for_other_core(isa, &bytes, &mut place[offset..][..bytes.len()]);
                prop_assert_eq!(&place[offset..][..bytes.len()], &bytes[..]);
                let mut around = place[..offset].iter().chain(&place[offset + bytes.len()..]);
                prop_assert!(around.all(|&byte| byte == 0xa5));
            }
        }
    }
}
