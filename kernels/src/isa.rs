//! Which instructions this processor has, asked once.
//!
//! Owns [`Isa`], the proof that a level's instructions exist, and the one place where a portable
//! kernel is compiled for each level. Kernels that need intrinsics of their own match on
//! [`Isa::level`] and keep their proof beside the call.
//!
//! Invariant: an `Isa` never names a level that CPUID did not report: [`Isa::detect`] makes the
//! highest one and [`Isa::at_most`] only goes down.

use std::fmt;
use std::str::FromStr;

/// A set of instructions that kernels are written for, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What the target guarantees. The reference for every other level.
    Scalar,
    /// AArch64's 128-bit vectors. They belong to the target, so the reference is compiled with
    /// them too: this level says which instructions run, and runs what `Scalar` does.
    Neon,
    /// AVX2, with SSE4.2 (for its CRC instruction), PCLMULQDQ, POPCNT and F16C.
    Avx2,
    /// AVX-512 F, BW, VL and DQ, on top of all that `Avx2` has.
    Avx512,
}

impl Level {
    /// Every level, ascending.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Neon, Self::Avx2, Self::Avx512];

    /// Whether processors of the target that this was compiled for can have it.
    const fn is_of_target(self) -> bool {
        match self {
            Self::Scalar => true,
            Self::Neon => cfg!(target_arch = "aarch64"),
            Self::Avx2 | Self::Avx512 => cfg!(target_arch = "x86_64"),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        let found = Self::ALL.into_iter().find(|level| level.name() == text);
        found.ok_or_else(|| UnknownLevel { text: text.to_owned() })
    }
}

/// A text that names no level. The caller shows it and asks for one of those that exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownLevel {
    /// What was given.
    pub text: String,
}

impl fmt::Display for UnknownLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level {:?} is not one of scalar, neon, avx2, avx512", self.text)
    }
}

impl std::error::Error for UnknownLevel {}

/// Proof that the processor has the instructions of a [`Level`]. Made once at start, passed down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa {
    level: Level,
    /// VPCLMULQDQ: the carry-less product of four pairs at once. Only ever true at `Avx512`.
    wide_carryless: bool,
}

impl Isa {
    /// Asks the processor. The highest level whose instructions it has all of.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("sse4.2")
                && is_x86_feature_detected!("pclmulqdq")
                && is_x86_feature_detected!("popcnt")
                && is_x86_feature_detected!("f16c");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            if avx512 {
                let wide_carryless = is_x86_feature_detected!("vpclmulqdq");
                return Self { level: Level::Avx512, wide_carryless };
            }
            if avx2 {
                return Self { level: Level::Avx2, wide_carryless: false };
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            return Self { level: Level::Neon, wide_carryless: false };
        }
        Self::scalar()
    }

    /// The reference level, which every processor has.
    #[must_use]
    pub const fn scalar() -> Self {
        Self { level: Level::Scalar, wide_carryless: false }
    }

    /// One `Isa` for each level that this processor has, ascending, `scalar` first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let highest = Self::detect();
        let levels = Level::ALL.into_iter().filter(|level| level.is_of_target());
        let levels = levels.filter(|&level| level <= highest.level);
        levels.map(|level| highest.at_most(level)).collect()
    }

    /// This level, or `level` where that is the lower one; or, where `level` is another
    /// architecture's, the reference.
    #[must_use]
    pub fn at_most(self, level: Level) -> Self {
        match self.level <= level {
            true => self,
            false if level.is_of_target() => Self { level, wide_carryless: false },
            false => Self::scalar(),
        }
    }

    /// The level that this proves.
    #[must_use]
    pub const fn level(self) -> Level {
        self.level
    }

    /// Whether VPCLMULQDQ exists on top of `Level::Avx512`.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const fn has_wide_carryless(self) -> bool {
        self.wide_carryless
    }

    #[cfg(test)]
    pub(crate) const fn without_wide_carryless(self) -> Self {
        Self { wide_carryless: false, ..self }
    }

    /// Runs a portable kernel, compiled for this level.
    #[inline]
    pub(crate) fn run<K: Portable>(self, kernel: K) -> K::Output {
        match self.level {
            // SAFETY: `self.level` is `Avx512` only where `detect` saw CPUID report every feature
            // that `avx512` enables; `at_most` never raises a level.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512(kernel) },
            // SAFETY: the same for `Avx2`, whose features `Avx512` includes.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2(kernel) },
            _ => kernel.scalar(), // With NEON, where the target has it.
        }
    }
}

/// A kernel written once, in plain Rust, that the compiler turns into each level's instructions.
///
/// The struct that implements it carries the arguments. Rust neither fuses a product with a sum
/// nor changes the order of float operations, so every level returns the same bits by
/// construction; the tests check it all the same. Written so, the optimizers measured within 3 %
/// of hand-written intrinsics, because division and square root bind them. Kernels that the
/// compiler does not vectorise (`probe`, `crc32c`) are written with intrinsics instead.
pub(crate) trait Portable {
    /// What the kernel returns.
    type Output;

    /// The reference. Implementations are `#[inline(always)]`: only code that is inlined in
    /// `avx2` and `avx512` below is compiled with their instructions.
    fn scalar(self) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,sse4.2,pclmulqdq,popcnt,f16c")]
fn avx2<K: Portable>(kernel: K) -> K::Output {
    kernel.scalar()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,sse4.2,pclmulqdq,popcnt,f16c")]
fn avx512<K: Portable>(kernel: K) -> K::Output {
    kernel.scalar()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_levels_ascend_from_scalar_to_the_detected_one() {
        let available = Isa::available();
        assert_eq!(available.first(), Some(&Isa::scalar()));
        assert_eq!(available.last(), Some(&Isa::detect()));
        assert!(available.is_sorted_by(|a, b| a.level() < b.level()));
    }

    #[test]
    fn at_most_never_raises_a_level() {
        assert_eq!(Isa::scalar().at_most(Level::Avx512), Isa::scalar());
        assert_eq!(Isa::detect().at_most(Level::Scalar), Isa::scalar());
        for level in Level::ALL {
            let lowered = Isa::detect().at_most(level);
            assert!(lowered.level() <= level && Isa::available().contains(&lowered), "{level}");
        }
    }

    #[test]
    fn a_level_reads_back_from_its_name_and_another_text_is_refused() {
        for level in Level::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        let refused = UnknownLevel { text: "sse9".to_owned() };
        assert_eq!("sse9".parse::<Level>(), Err(refused));
    }
}
