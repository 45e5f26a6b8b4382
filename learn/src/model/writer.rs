//! Writing a model directory.
//!
//! Owns the temporary directory beside the target, and the part files in it. Parts are written on
//! any threads, one each. Replacing the target is left to `place`.
//!
//! Invariant: the target changes in `commit` only, after every byte is on disk. A writer that is
//! dropped before removes what it wrote.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kernels::Isa;
use kernels::crc32c::crc32c;

use super::checksum::combine;
use super::format::{BLOCK_BYTES, HEADER_BYTES, Header, encode, row_bytes};
use super::manifest::{MANIFEST_FILE, Manifest, Part, part_file};
use super::place;
use super::whole_file::{beside, sync_dir};
use super::{ModelError, ROW_WIDTH_MAX};

/// Names tried for the temporary directory: others are left from runs that were killed.
const TEMPORARY_TRIES_MAX: u32 = 100;

/// A model directory in the making.
#[derive(Debug)]
pub struct ModelWriter {
    target: PathBuf,
    /// Empty once there is nothing to remove.
    temporary: PathBuf,
    isa: Isa,
    /// The row width of each part's file.
    row_widths: Vec<u32>,
}

/// One file of rows in the making. Its file is whole only after [`PartWriter::finish`].
#[derive(Debug)]
pub struct PartWriter {
    file: File,
    path: PathBuf,
    isa: Isa,
    row_width: u32,
    /// `crc32c` is of the rows that are in the file, `bytes` is not set yet.
    part: Part,
    /// Rows on their way to the file.
    block: Vec<u8>,
}

impl ModelWriter {
    /// Begins a model that shall be at `dir`, in a directory beside it.
    ///
    /// - Errors: as [`super::check_target`]; nothing was written.
    pub fn create(dir: &Path) -> Result<ModelWriter, ModelError> {
        let target = place::resolve(dir)?;
        place::inspect(&target)?;
        let temporary = make_temporary(&target)?;
        Ok(ModelWriter { target, temporary, isa: Isa::detect(), row_widths: Vec::new() })
    }

    /// Begins a file of rows of the table of this index.
    ///
    /// - `row_width`: f32 a key, [`ROW_WIDTH_MAX`] at most, or it panics.
    pub fn part(&mut self, table: u32, row_width: u32) -> Result<PartWriter, ModelError> {
        assert!(row_width <= ROW_WIDTH_MAX, "{row_width} f32 a key, {ROW_WIDTH_MAX} at most");
        let name = part_file(self.row_widths.len());
        let path = self.temporary.join(&name);
        let mut file = create_new(&path)?;
        // Its rows are known at the end.
        file.write_all(&[0; HEADER_BYTES]).map_err(ModelError::io("write", &path))?;
        self.row_widths.push(row_width);
        let part = Part { file: name, table, rows: 0, bytes: 0, crc32c: 0 };
        let block = Vec::with_capacity(BLOCK_BYTES.max(row_bytes(row_width)));
        Ok(PartWriter { file, path, isa: self.isa, row_width, part, block })
    }

    /// Puts the model in its place, durably, in one step. A model that was there is removed.
    ///
    /// - `manifest`: its `parts` and its tables' `rows` are set here.
    /// - `parts`: what each part's `finish` returned.
    /// - Panics: if a part that was begun is missing, or is none of the manifest's tables'.
    pub fn commit(mut self, manifest: Manifest, parts: Vec<Part>) -> Result<(), ModelError> {
        let manifest = self.complete(manifest, parts);
        let path = self.temporary.join(MANIFEST_FILE);
        let bytes = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| ModelError::json(&path, &error))?;
        let mut file = create_new(&path)?;
        file.write_all(&bytes).map_err(ModelError::io("write", &path))?;
        file.sync_all().map_err(ModelError::io("write", &path))?;
        sync_dir(&self.temporary).map_err(ModelError::io("write", &self.temporary))?;
        let old = place::swap(&self.temporary, &self.target)?;
        // From here on there is nothing of ours to remove.
        mem::take(&mut self.temporary);
        place::settle(&self.target, old.as_deref())
    }

    fn complete(&self, mut manifest: Manifest, mut parts: Vec<Part>) -> Manifest {
        parts.sort_by(|a, b| a.file.cmp(&b.file));
        let names: Vec<&str> = parts.iter().map(|part| &*part.file).collect();
        let expected: Vec<String> = (0..self.row_widths.len()).map(part_file).collect();
        assert_eq!(names, expected, "each part that was begun is finished and named once");
        for table in &mut manifest.tables {
            assert!(table.parameters.iter().all(|value| value.is_finite()), "{table:?}");
            table.rows = 0;
        }
        for (part, row_width) in parts.iter().zip(&self.row_widths) {
            let table = &mut manifest.tables[part.table as usize];
            assert_eq!(table.row_width, *row_width, "row width of table {}", table.name);
            table.rows += part.rows;
        }
        manifest.parts = parts;
        manifest
    }
}

impl Drop for ModelWriter {
    fn drop(&mut self) {
        if self.temporary.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.temporary) {
            let path = self.temporary.display();
            tracing::warn!(%path, %error, "an unfinished model cannot be removed");
        }
    }
}

impl PartWriter {
    /// Appends rows.
    ///
    /// - `keys`: `[count]`, each once in its table. `rows`: `[count, row_width]`.
    /// - Errors: the system's. The part is of no use any more.
    /// - Panics: if `rows` has another length.
    pub fn write(&mut self, keys: &[u64], rows: &[f32]) -> Result<(), ModelError> {
        let width = self.row_width as usize;
        assert_eq!(rows.len(), keys.len() * width, "{} keys of {width} f32", keys.len());
        self.part.rows += keys.len() as u64;
        let (mut keys, mut rows) = (keys, rows);
        while !keys.is_empty() {
            let rows_free = (self.block.capacity() - self.block.len()) / row_bytes(self.row_width);
            if rows_free == 0 {
                self.write_block()?;
                continue;
            }
            let (keys_now, keys_later) = keys.split_at(rows_free.min(keys.len()));
            let (rows_now, rows_later) = rows.split_at(keys_now.len() * width);
            encode(keys_now, rows_now, self.row_width, &mut self.block);
            (keys, rows) = (keys_later, rows_later);
        }
        Ok(())
    }

    /// Begins the part again, without a row: what was read so far is not all of one state.
    ///
    /// - Errors: the system's. The part is of no use any more.
    pub fn restart(&mut self) -> Result<(), ModelError> {
        self.block.clear();
        (self.part.rows, self.part.crc32c) = (0, 0);
        let head = HEADER_BYTES as u64;
        let emptied = self.file.set_len(head).and_then(|()| self.file.seek(SeekFrom::Start(head)));
        emptied.map(drop).map_err(ModelError::io("write", &self.path))
    }

    /// Ends the part and makes its bytes durable.
    pub fn finish(mut self) -> Result<Part, ModelError> {
        self.write_block()?;
        let header = Header { row_width: self.row_width, rows: self.part.rows }.to_bytes();
        self.file.write_all_at(&header, 0).map_err(ModelError::io("write", &self.path))?;
        self.file.sync_all().map_err(ModelError::io("write", &self.path))?;
        let rows_bytes = self.part.rows * row_bytes(self.row_width) as u64;
        self.part.bytes = HEADER_BYTES as u64 + rows_bytes;
        self.part.crc32c = combine(crc32c(self.isa, 0, &header), self.part.crc32c, rows_bytes);
        // A part is no whole one if a `write` failed before.
        let found_bytes = self.file.metadata().map_err(ModelError::io("write", &self.path))?.len();
        if found_bytes != self.part.bytes {
            let (path, expected_bytes) = (self.path, self.part.bytes);
            return Err(ModelError::Length { path, expected_bytes, found_bytes });
        }
        Ok(self.part)
    }

    fn write_block(&mut self) -> Result<(), ModelError> {
        self.file.write_all(&self.block).map_err(ModelError::io("write", &self.path))?;
        self.part.crc32c = crc32c(self.isa, self.part.crc32c, &self.block);
        self.block.clear();
        Ok(())
    }
}

fn make_temporary(target: &Path) -> Result<PathBuf, ModelError> {
    let process = std::process::id();
    let mut attempt = 0;
    loop {
        let temporary = beside(target, &format!(".tmp-{process}-{attempt}"));
        match fs::create_dir(&temporary) {
            Ok(()) => return Ok(temporary),
            Err(error)
                if error.kind() == ErrorKind::AlreadyExists && attempt < TEMPORARY_TRIES_MAX => {}
            Err(error) => return Err(ModelError::io("create", &temporary)(error)),
        }
        attempt += 1;
    }
}

fn create_new(path: &Path) -> Result<File, ModelError> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    file.map_err(ModelError::io("create", path))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read_all, rows_of, save, save_table, saved, table};
    use super::super::{MANIFEST_FILE, ModelReader, TableManifest};
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        entries.map(|name| name.into_string().unwrap()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn what_is_written_is_read_back_part_by_part(
            row_width in 1_u32..40, counts in proptest::collection::vec(0_usize..20_000, 0..4),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("m");
            let table = TableManifest { row_width, ..table() };
            save_table(&path, &table, &counts);
            let (keys, rows) = read_all(&path).unwrap();
            let (mut keys_expected, mut rows_expected) = (vec![], vec![]);
            for (part, &count) in counts.iter().enumerate() {
                let (keys, rows) = rows_of(part, count, row_width);
                keys_expected.extend(keys);
                rows_expected.extend(rows);
            }
            prop_assert_eq!(keys, keys_expected);
            prop_assert_eq!(rows, rows_expected);
        }
    }

    #[test]
    fn an_existing_model_and_an_empty_directory_are_replaced_and_nothing_is_left() {
        let dir = saved(5);
        let path = dir.path().join("m");
        save(&path, 3);
        assert_eq!(read_all(&path).unwrap().0.len(), 3);
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        save(&empty, 4);
        assert_eq!(read_all(&empty).unwrap().0.len(), 4);
        let mut names = names(dir.path());
        names.sort();
        assert_eq!(names, ["empty", "m"]);
    }

    #[test]
    fn a_part_that_was_begun_again_has_the_rows_since_then_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let mut writer = ModelWriter::create(&path).unwrap();
        let mut part = writer.part(0, 2).unwrap();
        let many: Vec<u64> = (0..200_000).collect();
        part.write(&many, &vec![0.5; 2 * many.len()]).unwrap();
        part.restart().unwrap();
        part.write(&[7], &[1.0, 2.0]).unwrap();
        let parts = vec![part.finish().unwrap()];
        let table = TableManifest { row_width: 2, ..table() };
        writer.commit(Manifest::new("lr", vec![table]), parts).unwrap();
        assert_eq!(read_all(&path).unwrap(), (vec![7], vec![1.0, 2.0]));
    }

    #[test]
    fn a_writer_dropped_before_commit_leaves_the_old_model_and_nothing_else() {
        let dir = saved(5);
        let path = dir.path().join("m");
        let mut writer = ModelWriter::create(&path).unwrap();
        let mut part = writer.part(0, 2).unwrap();
        part.write(&[1], &[1.0, 2.0]).unwrap();
        part.finish().unwrap();
        drop(writer);
        assert_eq!(names(dir.path()), ["m"]);
        assert_eq!(read_all(&path).unwrap().0.len(), 5);
    }

    #[test]
    fn a_process_killed_before_commit_leaves_nothing_that_opens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let mut writer = ModelWriter::create(&path).unwrap();
        let mut part = writer.part(0, 2).unwrap();
        part.write(&[1], &[1.0, 2.0]).unwrap();
        part.finish().unwrap();
        // A killed process drops nothing.
        mem::forget(writer);
        for name in names(dir.path()) {
            let error = ModelReader::open(&dir.path().join(name)).unwrap_err();
            assert!(matches!(error, ModelError::NoManifest { .. }), "{error}");
        }
        assert!(!path.exists());
        save(&path, 2);
        assert_eq!(read_all(&path).unwrap().0.len(), 2);
    }

    #[test]
    #[should_panic(expected = "each part that was begun is finished and named once")]
    fn a_commit_without_one_of_its_parts_panics() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ModelWriter::create(&dir.path().join("m")).unwrap();
        writer.part(0, 2).unwrap();
        let _ = writer.commit(Manifest::new("lr", vec![table()]), Vec::new());
    }

    #[test]
    fn a_directory_of_nobody_is_an_error_that_names_it() {
        let error = ModelWriter::create(Path::new("/proc/model")).unwrap_err();
        let ModelError::Io { verb: "create", path, .. } = &error else { panic!("{error}") };
        assert!(path.starts_with("/proc"), "{error}");
    }

    /// A file system of its own, gone with the value.
    struct Disk(tempfile::TempDir);

    impl Drop for Disk {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
        }
    }

    fn small_disk(bytes: u64) -> Result<Disk, String> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .output()
            .map_err(|error| format!("mount: {error}"))?;
        if !mount.status.success() {
            return Err(String::from_utf8_lossy(&mount.stderr).trim().to_owned());
        }
        Ok(Disk(dir))
    }

    #[test]
    fn a_full_disk_is_an_error_and_leaves_the_old_model() {
        let disk = match small_disk(256 << 10) {
            Ok(disk) => disk,
            Err(reason) => {
                eprintln!("SKIPPED: a_full_disk_is_an_error_and_leaves_the_old_model: {reason}");
                return;
            }
        };
        let path = disk.0.path().join("m");
        save(&path, 3);
        let mut writer = ModelWriter::create(&path).unwrap();
        let mut part = writer.part(0, 2).unwrap();
        let (keys, rows) = rows_of(0, 100_000, 2);
        let error = part.write(&keys, &rows).and_then(|()| part.finish()).unwrap_err();
        assert!(error.to_string().contains("No space left on device"), "{error}");
        drop(writer);
        assert_eq!(names(disk.0.path()), ["m"]);
        assert_eq!(read_all(&path).unwrap().0.len(), 3);
    }

    #[test]
    fn the_manifest_is_written_last() {
        let dir = saved(1);
        let at = |name: &str| fs::metadata(dir.path().join("m").join(name)).unwrap();
        let modified = |name: &str| at(name).modified().unwrap();
        assert!(modified(MANIFEST_FILE) >= modified("part-00000.rows"));
    }
}
