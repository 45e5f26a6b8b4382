//! Reading a model directory.
//!
//! Owns streaming parts in bounded memory and finding that one was cut off or changed. What to do
//! with the rows is the caller's.
//!
//! Invariant: a part that was read to its end without an error has the bytes that were written.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use kernels::Isa;
use kernels::crc32c::crc32c;

use super::ModelError;
use super::format::{BLOCK_BYTES, HEADER_BYTES, Header, decode, row_bytes};
use super::manifest::{Manifest, Part};

/// A model directory whose manifest was read and checked.
#[derive(Clone, Debug)]
pub struct ModelReader {
    dir: PathBuf,
    manifest: Manifest,
    isa: Isa,
}

/// A part, read from front to back.
#[derive(Debug)]
pub struct PartReader {
    file: File,
    path: PathBuf,
    isa: Isa,
    part: Part,
    row_width: u32,
    rows_left: u64,
    /// Of the bytes read so far.
    crc32c: u32,
    block: Vec<u8>,
}

/// Keys and their rows: `rows` is `[keys, row_width]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowBatch {
    /// The keys.
    pub keys: Vec<u64>,
    /// What the table keeps of each, one after the other.
    pub rows: Vec<f32>,
}

impl ModelReader {
    /// Opens the model at `dir`: reads `model.json` and checks it. Parts are opened later.
    pub fn open(dir: &Path) -> Result<ModelReader, ModelError> {
        let manifest = Manifest::read(dir)?;
        Ok(ModelReader { dir: dir.to_owned(), manifest, isa: Isa::detect() })
    }

    /// What the model holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The model's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The parts of all tables, each opened when it is its turn.
    pub fn parts(&self) -> impl Iterator<Item = Result<PartReader, ModelError>> {
        self.manifest.parts.iter().map(|part| self.open_part(part))
    }

    /// The parts of the table of this index, each opened when it is its turn.
    pub fn parts_of(&self, table: u32) -> impl Iterator<Item = Result<PartReader, ModelError>> {
        let parts = self.manifest.parts.iter().filter(move |part| part.table == table);
        parts.map(|part| self.open_part(part))
    }

    fn open_part(&self, part: &Part) -> Result<PartReader, ModelError> {
        let path = self.dir.join(&part.file);
        let mut file = File::open(&path).map_err(ModelError::io("open", &path))?;
        let found_bytes = file.metadata().map_err(ModelError::io("read", &path))?.len();
        if found_bytes != part.bytes {
            return Err(ModelError::Length { path, expected_bytes: part.bytes, found_bytes });
        }
        let row_width = self.manifest.tables[part.table as usize].row_width;
        let mut header = [0; HEADER_BYTES];
        file.read_exact(&mut header).map_err(ModelError::io("read", &path))?;
        Header { row_width, rows: part.rows }.check(&path, &header)?;
        Ok(PartReader {
            file,
            path,
            isa: self.isa,
            row_width,
            rows_left: part.rows,
            crc32c: crc32c(self.isa, 0, &header),
            block: Vec::new(),
            part: part.clone(),
        })
    }
}

impl PartReader {
    /// The index of the part's table.
    pub fn table(&self) -> u32 {
        self.part.table
    }

    /// f32 a key.
    pub fn row_width(&self) -> u32 {
        self.row_width
    }

    /// Replaces the batch by the next rows, 1 MiB at most unless one row is longer. Returns
    /// whether there were any: once it says `false`, the checksum of the whole part was right.
    ///
    /// - Errors: the part was cut off or changed. What earlier calls gave may be wrong too.
    pub fn next_batch(&mut self, batch: &mut RowBatch) -> Result<bool, ModelError> {
        batch.keys.clear();
        batch.rows.clear();
        if self.rows_left == 0 {
            self.check_end()?;
            return Ok(false);
        }
        let row_bytes = row_bytes(self.row_width);
        let rows_max = (BLOCK_BYTES / row_bytes).max(1);
        let rows = usize::try_from(self.rows_left).map_or(rows_max, |left| left.min(rows_max));
        self.block.resize(rows * row_bytes, 0);
        self.file.read_exact(&mut self.block).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => self.cut_off(),
            _ => ModelError::io("read", &self.path)(error),
        })?;
        self.crc32c = crc32c(self.isa, self.crc32c, &self.block);
        self.rows_left -= rows as u64;
        decode(&self.block, self.row_width, &mut batch.keys, &mut batch.rows);
        Ok(true)
    }

    fn check_end(&self) -> Result<(), ModelError> {
        let (path, expected, found) = (self.path.clone(), self.part.crc32c, self.crc32c);
        if expected == found {
            return Ok(());
        }
        Err(ModelError::Checksum { path, expected, found })
    }

    /// The file became shorter after it was opened.
    fn cut_off(&self) -> ModelError {
        let found_bytes = self.file.metadata().map_or(0, |metadata| metadata.len());
        let path = self.path.clone();
        ModelError::Length { path, expected_bytes: self.part.bytes, found_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read_all, saved};
    use super::*;
    use std::fs;

    #[test]
    fn each_flipped_bit_of_a_part_is_found_and_the_file_named() {
        let dir = saved(3);
        let model = dir.path().join("m");
        let path = model.join("part-00000.rows");
        let whole = fs::read(&path).unwrap();
        assert_eq!(whole.len(), HEADER_BYTES + 3 * 16);
        for bit in 0..8 * whole.len() {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, flipped).unwrap();
            let error = read_all(&model).expect_err("a flipped bit");
            assert!(error.to_string().contains("part-00000.rows"), "{error}");
        }
        fs::write(&path, whole).unwrap();
        assert_eq!(read_all(&model).unwrap().0.len(), 3);
    }

    #[test]
    fn a_part_of_another_length_is_found_with_both_lengths() {
        let dir = saved(3);
        let model = dir.path().join("m");
        let path = model.join("part-00000.rows");
        let mut bytes = fs::read(&path).unwrap();
        bytes.push(0);
        for length in (0..bytes.len() - 1).chain([bytes.len()]) {
            fs::write(&path, &bytes[..length]).unwrap();
            let found_bytes = length as u64;
            let expected =
                ModelError::Length { path: path.clone(), expected_bytes: 80, found_bytes };
            assert_eq!(read_all(&model), Err(expected));
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(read_all(&model), Err(ModelError::Io { verb: "open", .. })));
    }

    #[test]
    fn a_part_cut_off_while_it_is_read_is_found() {
        let dir = saved(200_000);
        let path = dir.path().join("m/part-00000.rows");
        let model = ModelReader::open(&dir.path().join("m")).unwrap();
        let mut part = model.parts().next().unwrap().unwrap();
        let mut batch = RowBatch::default();
        assert!(part.next_batch(&mut batch).unwrap());
        assert_eq!(batch.rows.len(), 2 * batch.keys.len());
        File::options().write(true).open(&path).unwrap().set_len(2_000_000).unwrap();
        let error = loop {
            match part.next_batch(&mut batch) {
                Ok(more) => assert!(more),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ModelError::Length { found_bytes: 2_000_000, .. }), "{error}");
    }

    #[test]
    fn a_directory_without_a_manifest_is_no_model() {
        let dir = tempfile::tempdir().unwrap();
        let error = ModelReader::open(dir.path()).unwrap_err();
        assert!(matches!(error, ModelError::NoManifest { .. }));
    }
}
