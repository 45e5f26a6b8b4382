//! A disk in memory that fails when it is told to, and forgets what was not synced: for tests.
//!
//! Owns two states of each file and directory: as processes see it, and as it is after a power cut.
//! A sync makes the second like the first, of one file or of one directory's names.
//!
//! Invariant: what a disk does follows from the calls and the faults it was told.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::{Disk, DiskEntry, DiskEntryKind, DiskFile, Local, Options};
use crate::store::Store;

/// What goes wrong, by the number of the call from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The power goes: this call is done in part or not at all, and nothing answers any more.
    Power(u64),
    /// This call fails, the next ones do not.
    Once(u64, io::ErrorKind),
}

/// What is left of what was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Left {
    /// Nothing of it.
    Nothing,
    /// All of it.
    Everything,
    /// Of each name and each file's end something, by this seed.
    Some(u64),
}

/// The disk. Clones are the same one.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Sim>>);

#[derive(Clone)]
struct Sim {
    nodes: Vec<Node>,
    fault: Fault,
    calls: u64,
    fired: bool,
    syncs: Syncs,
}

/// Whether a sync does what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncs {
    /// It does.
    Do,
    /// It says so, and does nothing: a defect.
    Lie,
}

#[derive(Clone)]
enum Node {
    File { now: Vec<u8>, durable: Vec<u8>, lost: bool },
    Dir { now: Names, durable: Names },
}

type Names = BTreeMap<String, usize>;

const ROOT: usize = 0;

impl SimDisk {
    /// An empty one.
    pub fn new(syncs: Syncs) -> SimDisk {
        let root = Node::Dir { now: Names::new(), durable: Names::new() };
        let sim = Sim { nodes: vec![root], fault: Fault::None, calls: 0, fired: false, syncs };
        SimDisk(Arc::new(Mutex::new(sim)))
    }

    /// A copy that goes its own way and fails so.
    pub fn with_fault(&self, fault: Fault) -> SimDisk {
        let sim = Sim { fault, calls: 0, fired: false, ..self.sim().clone() };
        SimDisk(Arc::new(Mutex::new(sim)))
    }

    /// The disk as it is found when the power is back.
    pub fn after_power_cut(&self, left: Left) -> SimDisk {
        let mut sim = self.sim().clone();
        let mut random = match left {
            Left::Some(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            Left::Nothing | Left::Everything => 1,
        };
        let mut coin = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            match left {
                Left::Nothing => false,
                Left::Everything => true,
                Left::Some(_) => random & 64 != 0,
            }
        };
        for node in &mut sim.nodes {
            match node {
                Node::File { now, durable, .. } => *now = torn(now, durable, &mut coin),
                Node::Dir { now, durable } => {
                    let names: Vec<String> = now.keys().chain(durable.keys()).cloned().collect();
                    for name in names {
                        let state = if coin() { now.get(&name) } else { durable.get(&name) };
                        let state = state.copied();
                        for names in [&mut *now, &mut *durable] {
                            match state {
                                Some(node) => names.insert(name.clone(), node),
                                None => names.remove(&name),
                            };
                        }
                    }
                }
            }
        }
        Sim { fault: Fault::None, calls: 0, fired: false, ..sim }.into()
    }

    /// From now on it fails so; calls are counted anew.
    pub fn set_fault(&self, fault: Fault) {
        let mut sim = self.sim();
        (sim.fault, sim.calls, sim.fired) = (fault, 0, false);
    }

    /// The power goes, and comes back: all clones go on with what is left.
    pub fn cut_power(&self, left: Left) {
        let after = self.after_power_cut(left);
        let after = after.sim().clone();
        *self.sim() = after;
    }

    /// A store in a directory of this disk.
    pub fn store(&self, directory: &str, options: &Options) -> Store {
        let disk = Arc::new(self.clone());
        Store::over(Arc::new(Local::new(disk, PathBuf::from(directory))), options)
    }

    /// Whether the fault has come.
    pub fn fired(&self) -> bool {
        self.sim().fired
    }

    fn sim(&self) -> MutexGuard<'_, Sim> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Sim> for SimDisk {
    fn from(sim: Sim) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(sim)))
    }
}

/// What is left of a file: each 16 bytes that were not synced are there, or zeros; then its end.
fn torn(now: &[u8], durable: &[u8], coin: &mut impl FnMut() -> bool) -> Vec<u8> {
    let mut left = durable.to_vec();
    for (at, piece) in now.chunks(16).enumerate().map(|(index, piece)| (16 * index, piece)) {
        if durable.get(at..at + piece.len()) == Some(piece) || !coin() {
            continue;
        }
        left.resize(left.len().max(at + piece.len()), 0);
        left[at..at + piece.len()].copy_from_slice(piece);
    }
    left
}

impl Sim {
    /// Counts a call. Fails if it is to.
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        match self.fault {
            Fault::Power(at) if self.calls >= at => {
                self.fired = true;
                Err(io::Error::other("the power is gone"))
            }
            Fault::Once(at, kind) if self.calls == at => {
                self.fired = true;
                Err(kind.into())
            }
            _ => Ok(()),
        }
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let mut at = ROOT;
        for name in path.iter().map(|name| name.to_str().expect("our own names")) {
            if name != "/" {
                at = *self.names(at)?.get(name).ok_or(io::ErrorKind::NotFound)?;
            }
        }
        Ok(at)
    }

    /// The directory that a path lies in, and its name there.
    fn place(&self, path: &Path) -> io::Result<(usize, String)> {
        // The root has no name, and is there.
        let name = path.file_name().ok_or(io::ErrorKind::AlreadyExists)?;
        let name = name.to_str().expect("our own names");
        Ok((self.find(path.parent().expect("no root"))?, name.to_owned()))
    }

    fn names(&self, dir: usize) -> io::Result<&Names> {
        match &self.nodes[dir] {
            Node::Dir { now, .. } => Ok(now),
            Node::File { .. } => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn names_mut(&mut self, dir: usize) -> &mut Names {
        match &mut self.nodes[dir] {
            Node::Dir { now, .. } => now,
            Node::File { .. } => panic!("a file has no names"),
        }
    }

    fn add(&mut self, path: &Path, node: Node) -> io::Result<usize> {
        let (dir, name) = self.place(path)?;
        if self.names(dir)?.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let index = self.nodes.len();
        self.nodes.push(node);
        self.names_mut(dir).insert(name, index);
        Ok(index)
    }

    fn take(&mut self, path: &Path) -> io::Result<usize> {
        let (dir, name) = self.place(path)?;
        self.names_mut(dir).remove(&name).ok_or(io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.sim();
        sim.call()?;
        sim.add(path, Node::Dir { now: Names::new(), durable: Names::new() }).map(drop)
    }

    fn create_new(&self, path: &Path) -> io::Result<SimFile> {
        let mut sim = self.sim();
        sim.call()?;
        let node = sim.add(path, Node::File { now: vec![], durable: vec![], lost: false })?;
        Ok(SimFile { disk: self.clone(), node, offset: 0, is_direct: false })
    }

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        let mut sim = self.sim();
        sim.call()?;
        Ok(SimFile { disk: self.clone(), node: sim.find(path)?, offset: 0, is_direct: false })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut sim = self.sim();
        sim.call()?;
        let node = sim.take(from)?;
        let (dir, name) = sim.place(to)?;
        sim.names_mut(dir).insert(name, node);
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut sim = self.sim();
        sim.call()?;
        let node = sim.find(from)?;
        let (dir, name) = sim.place(to)?;
        if sim.names(dir)?.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        sim.names_mut(dir).insert(name, node);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.sim();
        sim.call()?;
        sim.take(path).map(drop)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.sim();
        sim.call()?;
        let node = sim.find(path)?;
        if !sim.names(node)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        sim.take(path).map(drop)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.sim();
        sim.call()?;
        let (node, lies) = (sim.find(path)?, sim.syncs == Syncs::Lie);
        if let Node::Dir { now, durable } = &mut sim.nodes[node]
            && !lies
        {
            durable.clone_from(now);
        }
        Ok(())
    }

    fn entries(&self, path: &Path) -> io::Result<Vec<DiskEntry>> {
        let mut sim = self.sim();
        sim.call()?;
        let names = sim.names(sim.find(path)?)?;
        let entry = |(name, &node): (&String, &usize)| {
            let kind = match &sim.nodes[node] {
                Node::Dir { .. } => DiskEntryKind::Dir,
                Node::File { now, .. } => DiskEntryKind::File { bytes: now.len() as u64 },
            };
            DiskEntry { name: name.clone(), kind }
        };
        Ok(names.iter().map(entry).collect())
    }
}

/// An open file of the disk.
pub(crate) struct SimFile {
    disk: SimDisk,
    node: usize,
    offset: usize,
    is_direct: bool,
}

impl DiskFile for SimFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let is_page =
            bytes.len().is_multiple_of(4096) && bytes.as_ptr().addr().is_multiple_of(4096);
        assert!(!self.is_direct || is_page, "{} bytes past the cache", bytes.len());
        let mut sim = self.disk.sim();
        let called = sim.call();
        let written = if called.is_ok() { bytes.len() } else { bytes.len() / 2 };
        if let Node::File { now, .. } = &mut sim.nodes[self.node] {
            now.extend_from_slice(&bytes[..written]);
        }
        called
    }

    fn set_direct(&mut self, is_direct: bool) -> io::Result<()> {
        self.is_direct = is_direct;
        Ok(())
    }

    /// As Linux does it: pages that could not be written are clean after the sync that said so, and
    /// the next sync knows nothing of them.
    fn sync(&mut self) -> io::Result<()> {
        let mut sim = self.disk.sim();
        let called = sim.call();
        let lies = sim.syncs == Syncs::Lie;
        if let Node::File { now, durable, lost } = &mut sim.nodes[self.node] {
            *lost |= called.is_err();
            if !*lost && !lies {
                durable.clone_from(now);
            }
        }
        called
    }

    fn bytes(&self) -> io::Result<u64> {
        let mut sim = self.disk.sim();
        sim.call()?;
        match &sim.nodes[self.node] {
            Node::File { now, .. } => Ok(now.len() as u64),
            Node::Dir { .. } => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut sim = self.disk.sim();
        sim.call()?;
        let Node::File { now, .. } = &sim.nodes[self.node] else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        let rest = &now[self.offset..];
        let bytes = rest.len().min(into.len());
        into[..bytes].copy_from_slice(&rest[..bytes]);
        self.offset += bytes;
        Ok(bytes)
    }
}
