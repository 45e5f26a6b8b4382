//! Loads and stores of vector registers, and hints to the cache.
//!
//! Owns every pointer that this crate makes: an array of the register's size on one side, a
//! register on the other. What the register means is left to the kernel that asked.
//!
//! Invariant: a load reads and a store writes exactly the array that its caller borrowed.

#[cfg(target_arch = "aarch64")]
use std::arch::asm;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128i, __m256, __m256i, __m512, __m512i, _MM_HINT_T0, _MM_HINT_T1, _mm_loadu_ps,
    _mm_loadu_si128, _mm_prefetch, _mm_sfence, _mm_storeu_si128, _mm_stream_ps, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_storeu_ps, _mm256_storeu_si256, _mm256_stream_ps,
    _mm256_stream_si256, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_storeu_ps,
    _mm512_storeu_si512, _mm512_stream_ps, _mm512_stream_si512,
};

/// Bytes that one line of the cache holds on every processor that has the levels above scalar.
pub(crate) const CACHE_LINE_BYTES: usize = 64;

/// Asks for the cache line of `items[index]`, to be read within a few hundred instructions; or
/// for nothing that matters, where there is no such item.
#[inline(always)]
pub fn prefetch<T>(items: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        let address = items.as_ptr().wrapping_add(index);
        // SAFETY: a prefetch reads nothing that the program can see and never faults, so any
        // address will do; `wrapping_add` makes one out of bounds without undefined behaviour.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    {
        let address = items.as_ptr().wrapping_add(index);
        // SAFETY: as above; the instruction changes no register, flag or memory.
        unsafe {
            asm!(
                "prfm pldl1keep, [{}]",
                in(reg) address,
                options(nostack, preserves_flags, readonly),
            );
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = (items, index);
}

/// As [`prefetch`], for what the next kernel reads: past the first-level cache, whose few buffers
/// for lines under way this kernel needs itself. Looking up keys gained a third by it.
#[inline(always)]
pub(crate) fn prefetch_for_later<T>(items: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        let address = items.as_ptr().wrapping_add(index);
        // SAFETY: as in `prefetch`: any address will do, and `wrapping_add` makes any.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    {
        let address = items.as_ptr().wrapping_add(index);
        // SAFETY: as in `prefetch`.
        unsafe {
            asm!(
                "prfm pldl2keep, [{}]",
                in(reg) address,
                options(nostack, preserves_flags, readonly),
            );
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = (items, index);
}

/// The sixteen 32-bit words of a line, as they lie in memory.
#[inline(always)]
pub(crate) const fn line_words(line: &[u64; 8]) -> &[u32; 16] {
    // SAFETY: `line` borrows 64 bytes, all written, that lie more strictly than a `u32` needs; any
    // 32 bits are a `u32`, and the result borrows as `line` does.
    unsafe { &*std::ptr::from_ref(line).cast() }
}

/// The eight words of a line, half by half.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_avx2(keys: &[u64; 8]) -> [__m256i; 2] {
    let (halves, _) = keys.as_chunks::<4>();
    [load_half(&halves[0]), load_half(&halves[1])]
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn load_half(keys: &[u64; 4]) -> __m256i {
    // SAFETY: `keys` borrows the 32 bytes that are read; an unaligned load needs no more.
    unsafe { _mm256_loadu_si256(keys.as_ptr().cast()) }
}

/// The eight words of a line.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_avx512(keys: &[u64; 8]) -> __m512i {
    // SAFETY: `keys` borrows the 64 bytes that are read; an unaligned load needs no more.
    unsafe { _mm512_loadu_si512(keys.as_ptr().cast()) }
}

/// Sixty-four bytes, the first in the lowest place.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_bytes_avx512(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: `bytes` borrows the 64 bytes that are read; an unaligned load needs no more.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Writes the register's sixty-four bytes, the lowest place first.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store_bytes_avx512(bytes: &mut [u8; 64], register: __m512i) {
    // SAFETY: `bytes` borrows, alone, the 64 bytes that are written; an unaligned store needs no
    // more.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), register) }
}

/// Copies lines past the cache, halves at a time.
///
/// - Panics: if the first line to write does not start on a line of the cache.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(crate) fn stream_avx2(from: &[[u8; CACHE_LINE_BYTES]], to: &mut [[u8; CACHE_LINE_BYTES]]) {
    assert!(to.as_ptr().addr().is_multiple_of(CACHE_LINE_BYTES), "lines start on lines");
    let (from, to) = (from.as_flattened().as_chunks(), to.as_flattened_mut().as_chunks_mut::<32>());
    for (from, to) in from.0.iter().zip(to.0) {
        let half = load_bytes_avx2(from);
        // SAFETY:
        // - In bounds: `to` borrows, alone, the 32 bytes that are written.
        // - Aligned: the first is by the assertion above, and the others follow without a gap.
        // - Ordered: nothing touches these bytes before the fence below: `to` is borrowed for all
        //   of this function.
        unsafe { _mm256_stream_si256(to.as_mut_ptr().cast(), half) };
    }
    _mm_sfence();
}

/// Thirty-two bytes, the first in the lowest place.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_bytes_avx2(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: `bytes` borrows the 32 bytes that are read; an unaligned load needs no more.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Copies lines past the cache.
///
/// - Panics: as [`stream_avx2`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub(crate) fn stream_avx512(from: &[[u8; CACHE_LINE_BYTES]], to: &mut [[u8; CACHE_LINE_BYTES]]) {
    assert!(to.as_ptr().addr().is_multiple_of(CACHE_LINE_BYTES), "lines start on lines");
    for (from, to) in from.iter().zip(to) {
        let line = load_bytes_avx512(from);
        // SAFETY: as in `stream_avx2`, of 64 bytes.
        unsafe { _mm512_stream_si512(to.as_mut_ptr().cast(), line) };
    }
    _mm_sfence();
}

/// Writes one line after another past the cache, as many as there are of both.
///
/// - Panics: as [`stream_avx2`].
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn stream_f32_avx512(
    lines: impl Iterator<Item = __m512>,
    to: &mut [[f32; CACHE_LINE_BYTES / 4]],
) {
    let first = to.as_ptr().addr();
    assert!(to.is_empty() || first.is_multiple_of(CACHE_LINE_BYTES), "lines start on lines");
    for (line, to) in lines.zip(to) {
        // SAFETY: as in `stream_avx2`, of 64 bytes.
        unsafe { _mm512_stream_ps(to.as_mut_ptr(), line) };
    }
    _mm_sfence();
}

/// As [`stream_f32_avx512`], half a line at a time.
///
/// - Panics: as [`stream_avx2`].
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn stream_f32_avx2(
    halves: impl Iterator<Item = __m256>,
    to: &mut [[f32; CACHE_LINE_BYTES / 4]],
) {
    let first = to.as_ptr().addr();
    assert!(to.is_empty() || first.is_multiple_of(CACHE_LINE_BYTES), "lines start on lines");
    let (to, _) = to.as_flattened_mut().as_chunks_mut::<8>();
    for (half, to) in halves.zip(to) {
        // SAFETY: as in `stream_avx2`.
        unsafe { _mm256_stream_ps(to.as_mut_ptr(), half) };
    }
    _mm_sfence();
}

/// A row of eight numbers that can be written past the cache.
#[cfg(target_arch = "x86_64")]
#[repr(C, align(16))]
pub(crate) struct StreamedRow([f32; 8]);

#[cfg(target_arch = "x86_64")]
impl StreamedRow {
    /// Numbers as rows; none unless they start where rows can and are whole rows.
    pub(crate) fn of(numbers: &mut [f32]) -> Option<&mut [StreamedRow]> {
        let (rows, rest) = numbers.as_chunks_mut::<8>();
        let rows: *mut [[f32; 8]] = rows;
        if !rest.is_empty() || !rows.cast::<StreamedRow>().is_aligned() {
            return None;
        }
        // SAFETY:
        // - In bounds and unaliased: `rows` borrows, alone, as many rows of the same 32 bytes.
        // - Aligned: checked above. Any bits are a row, as they are eight numbers.
        Some(unsafe { &mut *(rows as *mut [StreamedRow]) })
    }

    /// Writes the row past the cache. Others see it after [`fence_streams`].
    #[inline(always)]
    pub(crate) fn write(&mut self, row: [f32; 8]) {
        let (halves, _) = row.as_chunks::<4>();
        for (to, half) in self.0.as_chunks_mut::<4>().0.iter_mut().zip(halves) {
            // SAFETY: `half` borrows the 16 bytes that are read; an unaligned load needs no more
            // but SSE, which each x86-64 has.
            let half = unsafe { _mm_loadu_ps(half.as_ptr()) };
            // SAFETY:
            // - In bounds: `to` borrows, alone, the 16 bytes that are written.
            // - Aligned: `self` is, to the 16 bytes that a half has. SSE: each x86-64 has it.
            // - Ordered: whoever makes rows, `of`'s callers, calls `fence_streams` while it still
            //   borrows the numbers.
            unsafe { _mm_stream_ps(to.as_mut_ptr(), half) };
        }
    }
}

/// Lets what was written past the cache be seen before what is written from here on.
#[cfg(target_arch = "x86_64")]
pub(crate) fn fence_streams() {
    // SAFETY: it needs SSE, which each x86-64 has.
    unsafe { _mm_sfence() };
}

/// Sixteen numbers.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_f32_avx512(numbers: &[f32; 16]) -> __m512 {
    // SAFETY: `numbers` borrows the 64 bytes that are read; an unaligned load needs no more.
    unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
}

/// Writes sixteen numbers.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store_f32_avx512(numbers: &mut [f32; 16], register: __m512) {
    // SAFETY: `numbers` borrows, alone, the 64 bytes that are written.
    unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), register) }
}

/// Eight numbers.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_f32_avx2(numbers: &[f32; 8]) -> __m256 {
    // SAFETY: `numbers` borrows the 32 bytes that are read; an unaligned load needs no more.
    unsafe { _mm256_loadu_ps(numbers.as_ptr()) }
}

/// Writes eight numbers.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn store_f32_avx2(numbers: &mut [f32; 8], register: __m256) {
    // SAFETY: `numbers` borrows, alone, the 32 bytes that are written.
    unsafe { _mm256_storeu_ps(numbers.as_mut_ptr(), register) }
}

/// Sixteen half-width words.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_u16x16(words: &[u16; 16]) -> __m256i {
    // SAFETY: `words` borrows the 32 bytes that are read; an unaligned load needs no more.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

/// Writes sixteen half-width words.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn store_u16x16(words: &mut [u16; 16], register: __m256i) {
    // SAFETY: `words` borrows, alone, the 32 bytes that are written.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), register) }
}

/// Eight half-width words.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_u16x8(words: &[u16; 8]) -> __m128i {
    // SAFETY: `words` borrows the 16 bytes that are read; an unaligned load needs no more.
    unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
}

/// Writes eight half-width words.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn store_u16x8(words: &mut [u16; 8], register: __m128i) {
    // SAFETY: `words` borrows, alone, the 16 bytes that are written.
    unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), register) }
}
