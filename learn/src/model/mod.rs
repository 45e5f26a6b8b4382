//! A trained model as a directory: `model.json` and the rows of its tables in part files.
//!
//! Owns the format, writing it so that it is there whole or not at all, reading it with every byte
//! checked, and exports for people and other programs. What a row means is left to the rule of its
//! table, how input was parsed to `data`: the manifest only carries that, opaque.
//!
//! A part file is a header of [`HEADER_BYTES`] and rows, all little-endian:
//!
//! ```text
//! 0   magic "GRDWROWS"     8   version u32     12  row_width u32
//! 16  rows u64             24  zeros
//! 32  rows × ( key u64, row_width × f32 )
//! ```
//!
//! Invariant: a directory that has a `model.json` has every part that it names, as long and with
//! the checksum that it says, unless something changed the files later; reading finds that.

mod checksum;
mod error;
mod export;
mod format;
mod manifest;
mod parquet;
mod place;
mod reader;
#[cfg(test)]
mod testing;
mod weights;
mod whole_file;
mod writer;

pub use error::ModelError;
pub use export::{ExportRows, export_text};
pub use format::{HEADER_BYTES, ROW_WIDTH_MAX};
pub use manifest::{
    FORMAT, FORMAT_VERSION, MANIFEST_FILE, Manifest, Part, TableManifest, check_table,
};
pub use parquet::export_parquet;
pub use place::check_target;
pub use reader::{ModelReader, PartReader, RowBatch};
pub use weights::Weights;
pub use whole_file::write_whole_file;
pub use writer::{ModelWriter, PartWriter};
