//! The rule `ftrl-compact`, which rounds by chance.
//!
//! Owns which numbers a word replaces and where its seed comes from. Parameters are FTRL's, the
//! arithmetic is left to `kernels::ftrl_compact`.

use std::sync::Arc;

use kernels::{Isa, ftrl_compact};

use super::{Ftrl, PARAMETERS_MAX, Rows, Rule, Widths};

/// FTRL-Proximal in half the memory: `z` and `n` of a value share 32 bits, rounded by chance. Row
/// `[word]`, delta and value those of [`Ftrl`]. A row of dim 1 lies with its key in 12.8 bytes, of
/// which a table fills eight to nine tenths. Source: McMahan et al., KDD 2013, section 4.2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FtrlCompact(
    /// FTRL's own parameters.
    pub Ftrl,
);

impl FtrlCompact {
    pub(super) const NAME: &str = "ftrl-compact";

    pub(super) fn make(parameters: &[f32; PARAMETERS_MAX]) -> Option<Arc<dyn Rule>> {
        Ftrl::of(parameters).map(|ftrl| Arc::new(FtrlCompact(ftrl)) as Arc<dyn Rule>)
    }
}

impl Rule for FtrlCompact {
    fn name(&self) -> &'static str {
        FtrlCompact::NAME
    }

    fn parameters(&self) -> [f32; PARAMETERS_MAX] {
        self.0.parameters()
    }

    fn widths(&self, dim: usize) -> Widths {
        Widths { row: dim, ..self.0.widths(dim) }
    }

    fn apply(&self, isa: Isa, rows: Rows<&mut [f32]>, at: &[u32], deltas: &[f32]) {
        self.apply_seeded(isa, rows, at, deltas, 0);
    }

    fn apply_seeded(
        &self,
        isa: Isa,
        rows: Rows<&mut [f32]>,
        at: &[u32],
        deltas: &[f32],
        seed: u64,
    ) {
        let Rows { floats, stride, dim } = rows;
        let step = ftrl_compact::Step { ftrl: self.0.step(), seed };
        ftrl_compact::apply_rows(isa, floats, stride, dim, at, deltas, &step);
    }

    fn read(&self, isa: Isa, rows: Rows<&[f32]>, at: &[u32], values: &mut [f32]) {
        let Rows { floats, stride, dim } = rows;
        ftrl_compact::read_rows(isa, floats, stride, dim, at, values, &self.0.step());
    }
}
