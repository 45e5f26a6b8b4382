//! Where pushes are acknowledged: a table's choice.
//!
//! Owns the two words and their byte in a definition. What each costs and promises is left to
//! `shard` and `worker`.

use std::fmt;
use std::str::FromStr;

/// Which server of a chain acknowledges the pushes of a table. Pushes that end a clock, and all
/// else that is asked of a table, are acknowledged at the tail whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acknowledge {
    /// The last one: all have a push once its worker is told so, and it outlives any of them.
    #[default]
    Tail,
    /// The first one, as soon as it has applied a push and keeps it for the next. The worker keeps
    /// it, too, and sends it again if the first one is gone before the last one had it: it is lost
    /// if both die, and until it is there again reads may miss what they have shown before.
    Head,
}

impl Acknowledge {
    pub(crate) const fn to_u8(self) -> u8 {
        match self {
            Acknowledge::Tail => 0,
            Acknowledge::Head => 1,
        }
    }

    pub(crate) const fn from_u8(raw: u8) -> Option<Acknowledge> {
        match raw {
            0 => Some(Acknowledge::Tail),
            1 => Some(Acknowledge::Head),
            _ => None,
        }
    }
}

impl fmt::Display for Acknowledge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Acknowledge::Tail => "tail",
            Acknowledge::Head => "head",
        })
    }
}

impl FromStr for Acknowledge {
    type Err = String;

    /// Reads what [`Acknowledge`] displays as; the error says what is expected and what was found.
    fn from_str(text: &str) -> Result<Acknowledge, String> {
        match text {
            "tail" => Ok(Acknowledge::Tail),
            "head" => Ok(Acknowledge::Head),
            _ => Err(format!("expected tail or head, found '{text}'")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_words_read_back_as_written_and_no_other_is_one() {
        for one in [Acknowledge::Tail, Acknowledge::Head] {
            assert_eq!(one.to_string().parse(), Ok(one));
            assert_eq!(Acknowledge::from_u8(one.to_u8()), Some(one));
        }
        assert_eq!(Acknowledge::from_u8(2), None);
        let error = "middle".parse::<Acknowledge>().expect_err("nobody in between does");
        assert_eq!(error, "expected tail or head, found 'middle'");
    }
}
