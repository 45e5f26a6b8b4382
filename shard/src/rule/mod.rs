//! Rules: the only code that touches a row's state.
//!
//! Owns the [`Rule`] trait, the registry by name, and the table specification that two processes
//! compare. The arithmetic is left to `kernels`.
//!
//! Invariant: a rule is a pure function of rows, deltas and the push's name; the same input gives
//! the same bits on every instruction set.

mod builtin;
mod ftrl_compact;

use std::fmt;
use std::sync::Arc;

use kernels::Isa;
use kernels::hash::hash_bytes;
use wire::{Acknowledge, RowLife};
pub use wire::{PARAMETERS_MAX, TableSpec};

pub use builtin::{AdaGrad, Adam, AdamW, Ftrl, FtrlGroup, Momentum, RmsProp, Sgd, Sum};
pub use ftrl_compact::FtrlCompact;

/// How many f32 a key has in each place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    /// What a push carries.
    pub delta: usize,
    /// What the shard keeps.
    pub row: usize,
    /// What a pull returns.
    pub value: usize,
}

/// What a pull returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// The row itself, bit by bit.
    Row,
    /// What [`Rule::read`] makes of it.
    View,
}

/// A table's rows as a rule sees them: row `r` starts at `floats[r * stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<F> {
    /// The arena of the table, as `&[f32]` or `&mut [f32]`.
    pub floats: F,
    /// From one row to the next, in f32.
    pub stride: usize,
    /// Values a key.
    pub dim: usize,
}

/// What a push does to a row, and what a pull returns of it. A row begins as zeros.
pub trait Rule: fmt::Debug + Send + Sync {
    /// The rule's name in a table's definition.
    fn name(&self) -> &'static str;

    /// The rule's parameters, as a table's definition carries them.
    fn parameters(&self) -> [f32; PARAMETERS_MAX];

    /// Its widths in a table of this dim.
    fn widths(&self, dim: usize) -> Widths;

    /// How many numbers, from a row's beginning on, a checkpoint may round to bf16 if whoever takes
    /// it wants it shorter: those whose eight leading bits are enough, whatever rounds them.
    /// Unless a rule says so, none: what is counted, or packed, or close to one, is not what it was
    /// once it is rounded.
    fn roundable(&self, _dim: usize) -> usize {
        0
    }

    /// What a pull returns. If it is the row, a table may copy rows without asking the rule.
    fn pulled(&self) -> Pulled {
        Pulled::View
    }

    /// Applies `[at, widths.delta]` deltas to the rows of these numbers, which are distinct.
    fn apply(&self, isa: Isa, rows: Rows<&mut [f32]>, at: &[u32], deltas: &[f32]);

    /// As [`Rule::apply`], for a rule that rounds by chance; every other one takes no notice of the
    /// seed. A shard calls this.
    ///
    /// - `seed`: decides every draw of the call. It is made of the push's name, so the same push
    ///   gives the same bits, and the next one has other draws.
    fn apply_seeded(
        &self,
        isa: Isa,
        rows: Rows<&mut [f32]>,
        at: &[u32],
        deltas: &[f32],
        _seed: u64,
    ) {
        self.apply(isa, rows, at, deltas);
    }

    /// Writes `[at, widths.value]` values of the rows of these numbers. `kernels::MISSING` reads
    /// as a row of zeros.
    fn read(&self, isa: Isa, rows: Rows<&[f32]>, at: &[u32], values: &mut [f32]);
}

/// Makes a rule of its parameters, or says by `None` that they are out of range.
pub type MakeRule = fn(&[f32; PARAMETERS_MAX]) -> Option<Arc<dyn Rule>>;

/// The rules a shard knows, by name.
#[derive(Clone)]
pub struct Rules(Vec<(&'static str, MakeRule)>);

/// Why there is no such rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRule {
    /// No rule has this name.
    Unknown,
    /// The rule refuses its parameters.
    Parameters,
}

impl Rules {
    /// SGD with and without momentum, AdaGrad, RMSProp, Adam, AdamW, FTRL-Proximal alone, in half
    /// the memory and with a group lasso, and sum.
    pub fn builtin() -> Rules {
        Rules(vec![
            (Sgd::NAME, Sgd::make),
            (Momentum::NAME, Momentum::make),
            (AdaGrad::NAME, AdaGrad::make),
            (RmsProp::NAME, RmsProp::make),
            (Adam::NAME, Adam::make),
            (AdamW::NAME, AdamW::make),
            (Ftrl::NAME, Ftrl::make),
            (FtrlCompact::NAME, FtrlCompact::make),
            (FtrlGroup::NAME, FtrlGroup::make),
            (Sum::NAME, Sum::make),
        ])
    }

    /// These rules and one more. A name that was taken now means the new rule.
    #[must_use]
    pub fn with(mut self, name: &'static str, make: MakeRule) -> Rules {
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, make));
        self
    }

    /// The rule of this name with these parameters.
    pub fn make(
        &self,
        name: &str,
        parameters: &[f32; PARAMETERS_MAX],
    ) -> Result<Arc<dyn Rule>, NoRule> {
        let (_, make) = self.0.iter().find(|(known, _)| *known == name).ok_or(NoRule::Unknown)?;
        make(parameters).ok_or(NoRule::Parameters)
    }
}

impl Default for Rules {
    fn default() -> Rules {
        Rules::builtin()
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// The definition of a table under `rule`, with the layout hash of this build; every key gets a row
/// and keeps it, and the tail acknowledges pushes.
///
/// - `dim`: values a key, at least 1.
pub fn table_spec(name: &str, dim: u32, rule: &dyn Rule) -> TableSpec {
    TableSpec {
        name: name.to_owned(),
        rule: rule.name().to_owned(),
        dim,
        parameters: rule.parameters(),
        layout: layout_hash(rule, dim),
        life: RowLife::default(),
        acknowledge: Acknowledge::Tail,
        aggregate: false,
    }
}

/// Changes when the meaning of a row's columns changes.
const LAYOUT_VERSION: u64 = 1;

/// A hash of how `rule` lays out a row: two builds that disagree on it refuse each other.
pub(crate) fn layout_hash(rule: &dyn Rule, dim: u32) -> u64 {
    let Widths { delta, row, value } = rule.widths(dim as usize);
    let text = format!("{} dim {dim} delta {delta} row {row} value {value}", rule.name());
    hash_bytes(LAYOUT_VERSION, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_builtin_rule_is_made_again_from_its_name_and_parameters() {
        let adam = Adam { rate: 0.1, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
        let ftrl = Ftrl { alpha: 0.2, beta: 1.0, l1: 0.0, l2: 0.0 };
        let rules: [&dyn Rule; 10] = [
            &Sgd { rate: 0.1 },
            &Momentum { rate: 0.1, momentum: 0.9 },
            &AdaGrad { rate: 0.1, epsilon: 1e-8 },
            &RmsProp { rate: 0.1, decay: 0.99, epsilon: 1e-8 },
            &adam,
            &AdamW { adam, weight_decay: 0.01 },
            &ftrl,
            &FtrlCompact(ftrl),
            &FtrlGroup { ftrl, l21: 0.5 },
            &Sum,
        ];
        for rule in rules {
            let made = Rules::builtin().make(rule.name(), &rule.parameters());
            let made = made.expect("its own parameters are in range");
            assert_eq!(made.parameters(), rule.parameters());
            assert_eq!(layout_hash(&*made, 3), layout_hash(rule, 3));
            let floats = [0.25, -2.0, f32::INFINITY, 1e-40, 3.0, 4.0];
            let widths = rule.widths(3);
            if rule.pulled() == Pulled::Row {
                assert_eq!(widths.value, widths.row);
                let mut values = [0.0; 3];
                let rows = Rows { floats: floats.as_slice(), stride: 3, dim: 3 };
                rule.read(Isa::detect(), rows, &[1], &mut values);
                assert_eq!(values, floats[3..]);
                rule.read(Isa::detect(), rows, &[0], &mut values);
                assert_eq!(values.map(f32::to_bits), [0, 1, 2].map(|at| floats[at].to_bits()));
            }
        }
    }

    #[test]
    fn an_unknown_name_and_parameters_out_of_range_are_told_apart() {
        let rules = Rules::builtin();
        assert_eq!(rules.make("magic", &[0.0; 8]).err(), Some(NoRule::Unknown));
        assert_eq!(rules.make("ftrl", &[-1.0; 8]).err(), Some(NoRule::Parameters));
        let below_zero = [0.2, 1.0, 0.0, 0.0, -0.1, 0.0, 0.0, 0.0];
        assert_eq!(rules.make("ftrl-group", &below_zero).err(), Some(NoRule::Parameters));
        assert_eq!(rules.make("sgd", &[f32::NAN; 8]).err(), Some(NoRule::Parameters));
        assert_eq!(rules.make("momentum", &[1.0; 8]).err(), Some(NoRule::Parameters));
        assert_eq!(rules.make("rmsprop", &[1.0; 8]).err(), Some(NoRule::Parameters));
        let whole_weight = [0.5, 0.9, 0.999, 1e-8, 2.0, 0.0, 0.0, 0.0];
        assert_eq!(rules.make("adamw", &whole_weight).err(), Some(NoRule::Parameters));
    }

    #[test]
    fn another_dim_or_rule_has_another_layout() {
        let sgd = Sgd { rate: 0.1 };
        assert_ne!(layout_hash(&sgd, 1), layout_hash(&sgd, 2));
        assert_ne!(layout_hash(&sgd, 1), layout_hash(&Sum, 1));
    }
}
