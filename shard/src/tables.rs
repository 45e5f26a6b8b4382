//! The tables of a shard, by number.
//!
//! Owns their definition: a table is made once, and whoever defines it again must mean the same.

use kernels::Isa;
use wire::{Refusal, TableId, TableSpec};

use crate::change::Changes;
use crate::room::Room;
use crate::rule::{NoRule, Rules, layout_hash};
use crate::table::{Table, Upkeep};

/// Most tables a job may have.
pub const TABLES_MAX: usize = 64;

/// All tables of a shard.
#[derive(Debug)]
pub(crate) struct Tables {
    tables: Vec<Table>,
    /// How often all were dropped.
    dropped: u64,
    rules: Rules,
    bytes_max: u64,
    /// What all may still take; none where nobody bounds them.
    room: Option<Room>,
    seed: u64,
    isa: Isa,
}

impl Tables {
    /// No table yet; each may take `bytes_max` bytes. `seed`: the order of keys in them.
    pub(crate) fn new(isa: Isa, rules: Rules, bytes_max: u64, seed: u64) -> Tables {
        Tables { tables: Vec::new(), dropped: 0, rules, bytes_max, room: None, seed, isa }
    }

    /// Drops all tables.
    pub(crate) fn clear(&mut self) {
        self.tables.clear();
        self.dropped += 1;
    }

    /// The order of keys in them.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// How often all were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The table of this number.
    pub(crate) fn get(&mut self, id: TableId) -> Result<&mut Table, Refusal> {
        let tables = self.tables.len() as u16; // TABLES_MAX fits.
        self.tables.get_mut(usize::from(id.get())).ok_or(Refusal::NoSuchTable { tables })
    }

    /// Whether there is room for what a push of these keys may add to a table.
    ///
    /// - Errors: there is not. Nothing changed.
    pub(crate) fn check_room(&self, id: TableId, keys: &[u64], clock: u32) -> Result<(), Refusal> {
        let table = self.tables.get(usize::from(id.get()));
        match (self.room, table) {
            (Some(room), Some(table)) if table.lacks_room(room.bytes, keys, clock) => {
                Err(room.busy())
            }
            _ => Ok(()),
        }
    }

    /// Says what all may still take; `None` bounds them no more.
    pub(crate) fn set_room(&mut self, room: Option<Room>) {
        self.room = room;
        let bytes = room.map_or(u64::MAX, |room| room.bytes / self.tables.len().max(1) as u64);
        self.tables.iter_mut().for_each(|table| table.allow_growth(bytes));
    }

    /// A table has grown by so many bytes.
    pub(crate) fn take_room(&mut self, bytes: u64) {
        if let Some(room) = &mut self.room {
            room.bytes = room.bytes.saturating_sub(bytes);
        }
    }

    /// Does a part of the upkeep of the table that needs it most. What is left of all.
    pub(crate) fn tend(&mut self) -> Upkeep {
        let needs_most = self.tables.iter_mut().max_by_key(|table| table.upkeep());
        if let Some(table) = needs_most.filter(|table| table.upkeep() != Upkeep::None) {
            table.tend();
        }
        self.upkeep()
    }

    /// The most urgent upkeep of any table.
    pub(crate) fn upkeep(&self) -> Upkeep {
        self.tables.iter().map(Table::upkeep).max().unwrap_or(Upkeep::None)
    }

    /// All, in order.
    pub(crate) fn all(&self) -> &[Table] {
        &self.tables
    }

    /// All, in order, to change.
    pub(crate) fn all_mut(&mut self) -> &mut [Table] {
        &mut self.tables
    }

    /// Makes the next table, or checks that the table of this number is the same.
    pub(crate) fn define(&mut self, id: TableId, spec: TableSpec) -> Result<Changes, Refusal> {
        if let Ok(known) = self.get(id) {
            return match *known.spec() == spec {
                true => Ok(Changes::Nothing),
                false => Err(Refusal::TableMismatch),
            };
        }
        let next = self.tables.len();
        if usize::from(id.get()) != next || next == TABLES_MAX {
            return Err(Refusal::NoSuchTable { tables: next as u16 });
        }
        let rule = self.rules.make(&spec.rule, &spec.parameters).map_err(|no| match no {
            NoRule::Unknown => Refusal::NoSuchRule,
            NoRule::Parameters => Refusal::BadParameters,
        })?;
        if spec.dim as usize > DIM_MAX {
            return Err(Refusal::BadParameters);
        }
        if layout_hash(&*rule, spec.dim) != spec.layout {
            return Err(Refusal::TableMismatch);
        }
        let table = Table::new(self.isa, spec, rule, self.bytes_max, self.seed)
            .map_err(|full| Refusal::TableFull { rows: full.rows })?;
        self.tables.push(table);
        Ok(Changes::Something)
    }
}

/// Most values a key may have: the widest row must fit a message's 16-bit width.
const DIM_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use wire::Acknowledge;

    use super::*;
    use crate::rule::{Ftrl, Sgd, table_spec};

    const FTRL: Ftrl = Ftrl { alpha: 0.2, beta: 1.0, l1: 0.0, l2: 0.0 };

    fn tables() -> Tables {
        Tables::new(Isa::detect(), Rules::builtin(), 1 << 20, 0)
    }

    #[test]
    fn a_table_defined_again_must_be_the_same() {
        let mut tables = tables();
        let first = TableId::new(0);
        let spec = table_spec("weights", 1, &FTRL);
        assert_eq!(tables.define(first, spec.clone()), Ok(Changes::Something));
        assert_eq!(tables.define(first, spec), Ok(Changes::Nothing));
        let other = table_spec("weights", 1, &Ftrl { alpha: 0.3, ..FTRL });
        assert_eq!(tables.define(first, other), Err(Refusal::TableMismatch));
        let at_head = table_spec("weights", 1, &FTRL);
        let at_head = TableSpec { acknowledge: Acknowledge::Head, ..at_head };
        assert_eq!(tables.define(first, at_head), Err(Refusal::TableMismatch));
    }

    #[test]
    fn a_definition_that_cannot_be_met_says_why() {
        let mut tables = tables();
        let sgd = table_spec("weights", 1, &Sgd { rate: 0.1 });
        let define = |tables: &mut Tables, number, spec| tables.define(TableId::new(number), spec);
        let spec = TableSpec { rule: "magic".into(), ..sgd.clone() };
        assert_eq!(define(&mut tables, 0, spec), Err(Refusal::NoSuchRule));
        let spec = TableSpec { parameters: [0.0; 8], ..sgd.clone() };
        assert_eq!(define(&mut tables, 0, spec), Err(Refusal::BadParameters));
        let spec = TableSpec { layout: 1, ..sgd.clone() };
        assert_eq!(define(&mut tables, 0, spec), Err(Refusal::TableMismatch));
        let spec = table_spec("weights", 1 << 20, &Sgd { rate: 0.1 });
        assert_eq!(define(&mut tables, 0, spec), Err(Refusal::BadParameters));
        assert_eq!(define(&mut tables, 1, sgd), Err(Refusal::NoSuchTable { tables: 0 }));
    }
}
