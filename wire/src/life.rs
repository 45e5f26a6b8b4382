//! How rows come and go: which new keys get one, and when one goes away.
//!
//! Owns the two settings of a table, their bounds, their words and their bytes. Carrying them out
//! is left to `shard`.

use std::fmt;
use std::str::FromStr;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most pushes that [`KeyAdmission::Count`] may ask for: they are counted in 8 bits.
pub const ADMISSION_COUNT_MAX: u8 = u8::MAX;

/// Most clocks that [`Expiry::Clocks`] may name: ages are told apart by the sign of 32 bits.
pub const EXPIRY_CLOCKS_MAX: u32 = 1 << 30;

/// When rows of a table begin and end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowLife {
    /// Which keys that a push names for the first time get a row.
    pub admission: KeyAdmission,
    /// When a row goes away.
    pub expiry: Expiry,
}

/// Which absent keys of a push get a row. The delta of another one is dropped, and a pull reads
/// it as zeros, as it does any absent key. A load asks nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum KeyAdmission {
    /// All.
    #[default]
    All,
    /// Each with this probability, above 0 and at most 1: a coin for each key and each clock of
    /// each worker.
    Probability(f32),
    /// Those that were pushed so often, 1 to [`ADMISSION_COUNT_MAX`] times, this push included.
    /// Pushes are counted in few bytes: a count may be too high, and of long ago be forgotten.
    Count(u8),
}

/// When a row goes away. Its use is a push or a load; being pulled is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    #[default]
    Never,
    /// Once it was not used for more than so many clocks of the job, 1 to [`EXPIRY_CLOCKS_MAX`].
    Clocks(u32),
    /// When the table has no more room for new ones: those that were not used for long go first.
    Recent,
}

/// Why rows cannot come and go so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RowLifeError {
    /// The probability is not above 0 and at most 1.
    Probability {
        /// What it is.
        found: f32,
    },
    /// A count of no push.
    NoCount,
    /// The clocks are none or more than [`EXPIRY_CLOCKS_MAX`].
    Clocks {
        /// How many there are.
        found: u32,
    },
}

impl fmt::Display for RowLifeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowLifeError::Probability { found } => {
                write!(f, "a probability of {found}; above 0 and at most 1 is needed")
            }
            RowLifeError::NoCount => {
                write!(f, "admission at 0 pushes; 1 to {ADMISSION_COUNT_MAX} are needed")
            }
            RowLifeError::Clocks { found } => {
                write!(f, "expiry after {found} clocks; 1 to {EXPIRY_CLOCKS_MAX} are needed")
            }
        }
    }
}

impl std::error::Error for RowLifeError {}

impl RowLife {
    /// Whether all numbers are in range.
    ///
    /// - Errors: the first that is not.
    pub fn check(&self) -> Result<(), RowLifeError> {
        match self.admission {
            KeyAdmission::Probability(p) if !(p > 0.0 && p <= 1.0) => {
                return Err(RowLifeError::Probability { found: p });
            }
            KeyAdmission::Count(0) => return Err(RowLifeError::NoCount),
            _ => {}
        }
        match self.expiry {
            Expiry::Clocks(found) if !(1..=EXPIRY_CLOCKS_MAX).contains(&found) => {
                Err(RowLifeError::Clocks { found })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for KeyAdmission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyAdmission::All => f.write_str("all"),
            KeyAdmission::Probability(probability) => write!(f, "probability:{probability}"),
            KeyAdmission::Count(pushes) => write!(f, "count:{pushes}"),
        }
    }
}

impl FromStr for KeyAdmission {
    type Err = String;

    /// Reads what [`KeyAdmission`] displays as; the error says what is expected and what was found.
    fn from_str(text: &str) -> Result<KeyAdmission, String> {
        let wrong = || {
            format!(
                "expected all, probability:P with P above 0 and at most 1, or count:N with N \
                 from 1 to {ADMISSION_COUNT_MAX}, found '{text}'"
            )
        };
        let admission = match text.split_once(':') {
            None if text == "all" => KeyAdmission::All,
            Some(("probability", p)) => KeyAdmission::Probability(p.parse().map_err(|_| wrong())?),
            Some(("count", pushes)) => KeyAdmission::Count(pushes.parse().map_err(|_| wrong())?),
            _ => return Err(wrong()),
        };
        let life = RowLife { admission, expiry: Expiry::Never };
        life.check().map(|()| admission).map_err(|_| wrong())
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expiry::Never => f.write_str("never"),
            Expiry::Clocks(clocks) => write!(f, "clocks:{clocks}"),
            Expiry::Recent => f.write_str("recent"),
        }
    }
}

impl FromStr for Expiry {
    type Err = String;

    /// Reads what [`Expiry`] displays as; the error says what is expected and what was found.
    fn from_str(text: &str) -> Result<Expiry, String> {
        let wrong = || {
            format!(
                "expected never, recent, or clocks:N with N from 1 to {EXPIRY_CLOCKS_MAX}, \
                 found '{text}'"
            )
        };
        let expiry = match text.split_once(':') {
            None if text == "never" => Expiry::Never,
            None if text == "recent" => Expiry::Recent,
            Some(("clocks", clocks)) => Expiry::Clocks(clocks.parse().map_err(|_| wrong())?),
            _ => return Err(wrong()),
        };
        let life = RowLife { admission: KeyAdmission::All, expiry };
        life.check().map(|()| expiry).map_err(|_| wrong())
    }
}

/// The settings as they stand in a definition, without a boundary to begin at.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct LifeLayout {
    /// 0 all, 1 probability, 2 count.
    admission: u8,
    /// 0 never, 1 clocks, 2 recent.
    expiry: u8,
    /// The bits of the probability, or the count; else 0.
    admission_number: U32,
    /// The clocks; else 0.
    expiry_clocks: U32,
}

impl LifeLayout {
    /// The bytes of settings that were checked.
    pub(crate) fn of(life: &RowLife) -> LifeLayout {
        let (admission, admission_number) = match life.admission {
            KeyAdmission::All => (0, 0),
            KeyAdmission::Probability(probability) => (1, probability.to_bits()),
            KeyAdmission::Count(pushes) => (2, pushes.into()),
        };
        let (expiry, expiry_clocks) = match life.expiry {
            Expiry::Never => (0, 0),
            Expiry::Clocks(clocks) => (1, clocks),
            Expiry::Recent => (2, 0),
        };
        let [admission_number, expiry_clocks] = [admission_number, expiry_clocks].map(U32::new);
        LifeLayout { admission, expiry, admission_number, expiry_clocks }
    }

    /// The settings, in range; the error names the field that is not.
    pub(crate) fn read(&self) -> Result<RowLife, &'static str> {
        let admission = match (self.admission, self.admission_number.get()) {
            (0, 0) => KeyAdmission::All,
            (1, bits) => KeyAdmission::Probability(f32::from_bits(bits)),
            (2, pushes) => KeyAdmission::Count(u8::try_from(pushes).map_err(|_| "admission")?),
            _ => return Err("admission"),
        };
        let expiry = match (self.expiry, self.expiry_clocks.get()) {
            (0, 0) => Expiry::Never,
            (1, clocks) => Expiry::Clocks(clocks),
            (2, 0) => Expiry::Recent,
            _ => return Err("expiry"),
        };
        let life = RowLife { admission, expiry };
        life.check().map_err(|error| match error {
            RowLifeError::Clocks { .. } => "expiry",
            _ => "admission",
        })?;
        Ok(life)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read_back_as_written_in_bytes_and_words() {
        let admissions =
            [KeyAdmission::All, KeyAdmission::Probability(0.25), KeyAdmission::Count(3)];
        for admission in admissions {
            assert_eq!(admission.to_string().parse(), Ok(admission));
            for expiry in [Expiry::Never, Expiry::Clocks(100), Expiry::Recent] {
                assert_eq!(expiry.to_string().parse(), Ok(expiry));
                let life = RowLife { admission, expiry };
                assert_eq!(LifeLayout::of(&life).read(), Ok(life));
            }
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_their_field() {
        let admission = |number, kind| LifeLayout {
            admission: kind,
            admission_number: U32::new(number),
            ..LifeLayout::of(&RowLife::default())
        };
        for probability in [0.0, -1.0, 1.5, f32::NAN, f32::INFINITY] {
            assert_eq!(admission(probability.to_bits(), 1).read(), Err("admission"));
        }
        for (number, kind) in [(0, 2), (256, 2), (1, 0), (0, 3)] {
            assert_eq!(admission(number, kind).read(), Err("admission"));
        }
        for (clocks, kind) in [(0, 1), (EXPIRY_CLOCKS_MAX + 1, 1), (1, 0), (1, 2), (0, 3)] {
            let layout = LifeLayout {
                expiry: kind,
                expiry_clocks: U32::new(clocks),
                ..LifeLayout::of(&RowLife::default())
            };
            assert_eq!(layout.read(), Err("expiry"));
        }
        for text in ["", "some", "count:0", "count:256", "count:", "probability:0", "clocks:1"] {
            assert!(text.parse::<KeyAdmission>().is_err(), "{text}");
        }
        for text in ["", "clocks:0", "clocks:-1", "clocks:2000000000", "recent:2", "all"] {
            assert!(text.parse::<Expiry>().is_err(), "{text}");
        }
    }
}
