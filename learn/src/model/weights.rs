//! The weights in a table's rows, and names for a row's columns.
//!
//! Owns which f32 of a row are weights: FTRL, alone, in half the memory or with a group lasso,
//! derives them; every other rule keeps them first.

use kernels::{ftrl, ftrl_compact, ftrl_group};

use super::TableManifest;

/// How to take the weights out of a table's rows.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    dim: usize,
    row_width: usize,
    derived: Derived,
}

/// What weights are made of.
#[derive(Clone, Copy, Debug)]
enum Derived {
    /// They lie first in the row.
    Kept,
    /// Of `[z[dim] | n[dim]]`; FTRL alone has no group penalty.
    Ftrl(ftrl_group::Step),
    /// Of `[word[dim]]`, each with both.
    Words(ftrl::Step),
}

impl Weights {
    /// The weights of this table.
    pub fn of(table: &TableManifest) -> Weights {
        let (dim, row_width) = (table.dim as usize, table.row_width as usize);
        let [alpha, beta, l1, l2, l21, ..] = table.parameters;
        let own = ftrl::Step { alpha, beta, l1, l2 };
        let grouped = |l21| Derived::Ftrl(ftrl_group::Step { ftrl: own, l21 });
        let derived = match table.rule.as_str() {
            "ftrl" if row_width >= 2 * dim => grouped(0.0),
            "ftrl-group" if row_width >= 2 * dim => grouped(l21),
            "ftrl-compact" if row_width == dim => Derived::Words(own),
            _ => Derived::Kept,
        };
        Weights { dim, row_width, derived }
    }

    /// Weights a key.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Writes a row's weights.
    ///
    /// - `row`: `[row_width]`. `weights`: `[dim]`.
    /// - Panics: if the lengths differ.
    pub fn read(&self, row: &[f32], weights: &mut [f32]) {
        assert_eq!((row.len(), weights.len()), (self.row_width, self.dim));
        match &self.derived {
            Derived::Kept => weights.copy_from_slice(&row[..self.dim]),
            Derived::Ftrl(step) => {
                let (z, n) = row.split_at(self.dim);
                ftrl_group::weights(z, &n[..self.dim], step, weights);
            }
            Derived::Words(step) => {
                for (weight, &word) in weights.iter_mut().zip(row) {
                    let [z, n] = ftrl_compact::unpack(word);
                    *weight = ftrl::weight(z, n, step);
                }
            }
        }
    }

    /// Numbers of a row besides its weights, as [`Weights::read_state`] gives them.
    pub(super) fn state_count(&self) -> usize {
        match self.derived {
            Derived::Kept => self.row_width - self.dim,
            Derived::Ftrl(_) => self.row_width,
            Derived::Words(_) => 2 * self.dim,
        }
    }

    /// Writes what the row keeps besides its weights.
    ///
    /// - `row`: `[row_width]`. `state`: `[state_count]`.
    /// - Panics: if the lengths differ.
    pub(super) fn read_state(&self, row: &[f32], state: &mut [f32]) {
        match self.derived {
            Derived::Kept => state.copy_from_slice(&row[self.dim..]),
            Derived::Ftrl(_) => state.copy_from_slice(row),
            Derived::Words(_) => {
                let (all_z, all_n) = state.split_at_mut(self.dim);
                for ((z, n), &word) in all_z.iter_mut().zip(all_n).zip(row) {
                    [*z, *n] = ftrl_compact::unpack(word);
                }
            }
        }
    }

    /// Names of the columns of an export: weights, then state.
    pub(super) fn columns(&self, rule: &str) -> Vec<String> {
        let dim = self.dim;
        let blocks: &[&str] = match rule {
            "ftrl" | "ftrl-compact" | "ftrl-group" => &["z", "n"],
            "momentum" => &["velocity"],
            "adagrad" => &["accum"],
            "rmsprop" => &["mean_square"],
            "adam" | "adamw" => &["m", "v"],
            _ => &[],
        };
        let singles: &[&str] = match rule {
            "adam" | "adamw" => &["beta1_power", "beta2_power"],
            _ => &[],
        };
        let state = |index: usize| {
            let (block, single) = (index / dim, index.wrapping_sub(blocks.len() * dim));
            match (blocks.get(block), singles.get(single)) {
                (Some(name), _) => format!("{name}_{}", index % dim),
                (None, Some(name)) => (*name).to_owned(),
                (None, None) => format!("state_{index}"),
            }
        };
        let weights = (0..dim).map(|index| format!("weight_{index}"));
        weights.chain((0..self.state_count()).map(state)).collect()
    }
}

/// What people call a rule's parameter.
pub(super) fn parameter_name(rule: &str, index: usize) -> String {
    let names: &[&str] = match rule {
        "ftrl" | "ftrl-compact" => &["alpha", "beta", "l1", "l2"],
        "ftrl-group" => &["alpha", "beta", "l1", "l2", "l21"],
        "sgd" => &["rate"],
        "momentum" => &["rate", "momentum"],
        "adagrad" => &["rate", "epsilon"],
        "rmsprop" => &["rate", "decay", "epsilon"],
        "adam" => &["rate", "beta1", "beta2", "epsilon"],
        "adamw" => &["rate", "beta1", "beta2", "epsilon", "weight_decay"],
        _ => &[],
    };
    names.get(index).map_or_else(|| format!("parameter {index}"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::Isa;
    use shard::rule::{
        AdaGrad, Adam, AdamW, Ftrl, FtrlCompact, FtrlGroup, Momentum, RmsProp, Rows, Rule, Sgd,
        Sum, table_spec,
    };

    fn rules() -> [Box<dyn Rule>; 10] {
        let ftrl = Ftrl { alpha: 0.2, beta: 1.0, l1: 0.5, l2: 0.1 };
        let adam = Adam { rate: 0.1, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
        [
            Box::new(Sgd { rate: 0.1 }),
            Box::new(Momentum { rate: 0.1, momentum: 0.9 }),
            Box::new(AdaGrad { rate: 0.1, epsilon: 1e-8 }),
            Box::new(RmsProp { rate: 0.1, decay: 0.99, epsilon: 1e-8 }),
            Box::new(adam),
            Box::new(AdamW { adam, weight_decay: 0.01 }),
            Box::new(ftrl),
            Box::new(FtrlCompact(ftrl)),
            Box::new(FtrlGroup { ftrl, l21: 0.3 }),
            Box::new(Sum),
        ]
    }

    #[test]
    fn the_weights_of_every_builtin_rule_are_the_first_values_of_its_pull() {
        for rule in rules() {
            for dim in [1, 3] {
                let widths = rule.widths(dim);
                let row: Vec<f32> = (0..widths.row).map(|i| i as f32 * 0.7 + 0.1).collect();
                let mut pulled = vec![0.0; widths.value];
                let rows = Rows { floats: &*row, stride: widths.row, dim };
                rule.read(Isa::detect(), rows, &[0], &mut pulled);
                let spec = table_spec("t", dim as u32, &*rule);
                let table = TableManifest::of(&spec, widths.row as u32);
                let mut weights = vec![f32::NAN; dim];
                Weights::of(&table).read(&row, &mut weights);
                assert_eq!(weights, pulled[..dim], "{} dim {dim}", rule.name());
            }
        }
    }

    #[test]
    fn the_state_of_words_is_what_they_stand_for() {
        let rule = FtrlCompact(Ftrl { alpha: 0.2, beta: 1.0, l1: 0.0, l2: 0.0 });
        let mut row = [0.0; 2];
        let rows = Rows { floats: &mut row[..], stride: 2, dim: 2 };
        rule.apply(Isa::detect(), rows, &[0], &[1.0, -2.0, 1.0, 4.0]);
        let table = TableManifest::of(&table_spec("t", 2, &rule), 2);
        let weights = Weights::of(&table);
        let mut state = vec![f32::NAN; weights.state_count()];
        weights.read_state(&row, &mut state);
        for (found, pushed) in state.into_iter().zip([1.0, -2.0, 1.0, 4.0]) {
            assert!((found / pushed - 1.0_f32).abs() <= 1.0 / 64.0, "{found} of {pushed}");
        }
    }

    #[test]
    fn the_columns_of_every_builtin_rule_have_names() {
        let names = rules().map(|rule| {
            let spec = table_spec("t", 2, &*rule);
            let table = TableManifest::of(&spec, rule.widths(2).row as u32);
            Weights::of(&table).columns(rule.name()).join(" ")
        });
        assert_eq!(
            names,
            [
                "weight_0 weight_1",
                "weight_0 weight_1 velocity_0 velocity_1",
                "weight_0 weight_1 accum_0 accum_1",
                "weight_0 weight_1 mean_square_0 mean_square_1",
                "weight_0 weight_1 m_0 m_1 v_0 v_1 beta1_power beta2_power",
                "weight_0 weight_1 m_0 m_1 v_0 v_1 beta1_power beta2_power",
                "weight_0 weight_1 z_0 z_1 n_0 n_1",
                "weight_0 weight_1 z_0 z_1 n_0 n_1",
                "weight_0 weight_1 z_0 z_1 n_0 n_1",
                "weight_0 weight_1",
            ]
        );
    }
}
