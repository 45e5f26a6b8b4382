//! Newcomers: which absent keys of a push get a row.
//!
//! Owns the coins and the counts of pushes of absent keys. Adding rows is left to `table`.
//!
//! Counts lie in lines of the cache, a key's all in one: four rows of 15 counters of 8 bits, of
//! which a key has one in each row, and how often the line has counted. A count is the least of a
//! key's four, so it is never too low but for what was forgotten: once a line has counted half of
//! what admits, for each counter of a row, all its counters are halved. A line so stands for the
//! last pushes of its keys, however long the job.
//!
//! Invariant: whether a key gets a row depends on the pushes of the keys of its line alone, in
//! their order; and the line is chosen by the bits that choose a key's shard, so that a line has
//! keys of one shard only. The same pushes so admit the same keys on any number of servers.
//!
//! Source: count-min with conservative update (Cormode, Muthukrishnan, J. Algorithms 2005; Estan,
//! Varghese, SIGCOMM 2002), within one line as blocked Bloom filters are (Putze, Sanders, Singler,
//! WEA 2007), aged by halving as TinyLFU does (Einziger, Friedman, Manes, TOS 2017).

use kernels::hash::mix;
use memory::Arena;
use wire::{Key, KeyAdmission, PARTITIONS, ring_number};

use super::copies::Paper;
use super::counts::CountsSnapshot;
use super::index::NoMemory;

/// Counters of each row of a line.
const COUNTERS: usize = 15;
/// Rows of a line.
const ROWS: usize = 4;

/// Most lines that count, 64 MiB: with admission at 2 pushes, 8 million pushes of absent keys go
/// by before one is forgotten.
const LINES_MAX: u64 = 1 << 20;
/// Least lines that count, 256 KiB: one for each partition, since no line may have keys of two.
const LINES_MIN: u64 = PARTITIONS as u64;
/// One byte in so many that the table may take is for counting, between the two limits.
const TABLE_BYTES_A_BYTE: u64 = 16;

/// Sets the draws of coins apart from other uses of a key's hash.
const COIN_SALT: u64 = 0x636F_696E_2074_6F73;

/// Decides which absent keys get a row.
#[derive(Debug)]
pub(super) enum Newcomers {
    /// All do.
    All,
    /// Those whose coin, of 32 bits, is below this.
    Coin { below: u64 },
    /// Those that were counted so often.
    Counted { pushes: u8, sketch: Sketch },
}

impl Newcomers {
    /// Nobody has come yet.
    ///
    /// - `bytes_max`: what the table may take; [`Newcomers::bytes`] of it go to counting.
    /// - Errors: the kernel gives no memory to count in.
    pub(super) fn new(admission: KeyAdmission, bytes_max: u64) -> Result<Newcomers, NoMemory> {
        Ok(match admission {
            KeyAdmission::All => Newcomers::All,
            KeyAdmission::Probability(probability) => {
                Newcomers::Coin { below: (f64::from(probability) * 2_f64.powi(32)) as u64 }
            }
            KeyAdmission::Count(pushes) => {
                let lines = bytes_max / TABLE_BYTES_A_BYTE / size_of::<CountLine>() as u64;
                let lines = lines.clamp(LINES_MIN, LINES_MAX).ilog2();
                Newcomers::Counted { pushes, sketch: Sketch::new(lines, pushes)? }
            }
        })
    }

    /// Whether this absent key of a push gets a row. Counts the push.
    ///
    /// - `seed`: of the push: the same when it is sent again.
    #[inline]
    pub(super) fn admits(&mut self, key: u64, seed: u64) -> bool {
        match self {
            Newcomers::All => true,
            Newcomers::Coin { below } => mix(key ^ mix(seed ^ COIN_SALT)) >> 32 < *below,
            Newcomers::Counted { pushes, sketch } => sketch.count(key) >= *pushes,
        }
    }

    /// The counts, where pushes of absent keys are counted.
    pub(super) fn sketch(&mut self) -> Option<&mut Sketch> {
        match self {
            Newcomers::All | Newcomers::Coin { .. } => None,
            Newcomers::Counted { sketch, .. } => Some(sketch),
        }
    }

    /// Bytes that counting takes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Newcomers::All | Newcomers::Coin { .. } => 0,
            Newcomers::Counted { sketch, .. } => size_of_val(sketch.lines.as_slice()),
        }
    }
}

/// Four rows of counters, then how often the line has counted since it was last halved.
pub(super) type CountLine = [u8; 64];
/// Where in a line that number stands, in 32 bits.
const COUNTED: usize = COUNTERS * ROWS;

/// So many times 64 lines, 256 KiB, are looked at at once for what they have counted.
const WORDS_LOOKED_AT: usize = 64;

/// Counts of pushes of absent keys.
#[derive(Debug)]
pub(super) struct Sketch {
    lines: Arena<CountLine>,
    /// Bits of a key's place on the ring that choose its line.
    line_bits: u32,
    /// A line that has counted so often is halved.
    halved_at: u32,
    /// Bits of the lines that have counted since they were last sent, while somebody is filled.
    unsent: Vec<u64>,
    /// Words of them whose lines were looked at for what they had counted before.
    looked_at: usize,
    /// None where nobody wants the counts as they were.
    snapshot: Option<Box<CountsSnapshot>>,
}

impl Sketch {
    fn new(line_bits: u32, pushes: u8) -> Result<Sketch, NoMemory> {
        let mut lines = Arena::reserve(1 << line_bits).map_err(|_| NoMemory)?;
        lines.grow_to(1 << line_bits).map_err(|_| NoMemory)?;
        let halved_at = (COUNTERS as u32 * u32::from(pushes)).div_ceil(2);
        Ok(Sketch { lines, line_bits, halved_at, unsent: Vec::new(), looked_at: 0, snapshot: None })
    }

    /// From now on it is known which lines are not sent: at first those that have counted, which
    /// are looked for in parts.
    pub(super) fn begin_sending(&mut self) {
        self.unsent = vec![0; self.lines.as_slice().len().div_ceil(64)];
        self.looked_at = 0;
    }

    /// Nobody wants to know that any more.
    pub(super) fn end_sending(&mut self) {
        self.unsent = Vec::new();
    }

    /// Whether all lines are sent that have counted.
    pub(super) fn is_sent(&self) -> bool {
        self.looked_at >= self.unsent.len() && self.unsent.iter().all(|&word| word == 0)
    }

    /// Takes `count` lines at most that are not sent, each with its number; it may find none yet.
    pub(super) fn send(&mut self, count: usize, mut take: impl FnMut(u64, &CountLine)) {
        self.look();
        let (mut left, lines) = (count, self.lines.as_slice());
        for (at, word) in self.unsent.iter_mut().enumerate() {
            while *word != 0 && left > 0 {
                let line = at * 64 + word.trailing_zeros() as usize;
                take(line as u64, &lines[line]);
                *word &= *word - 1;
                left -= 1;
            }
        }
    }

    /// Looks at some more lines for what they have counted before.
    fn look(&mut self) {
        let words = self.unsent.iter_mut().zip(self.lines.as_slice().chunks(64));
        for (word, lines) in words.skip(self.looked_at).take(WORDS_LOOKED_AT) {
            let counted = lines.iter().enumerate().filter(|(_, line)| **line != [0; 64]);
            *word |= counted.fold(0, |word, (bit, _)| word | 1 << bit);
        }
        self.looked_at = self.unsent.len().min(self.looked_at + WORDS_LOOKED_AT);
    }

    /// What the counts are now can be taken by pieces, whatever becomes of them.
    pub(super) fn begin_snapshot(&mut self, paper: Paper) {
        self.snapshot = Some(Box::new(CountsSnapshot::new(self.lines.as_slice().len(), paper)));
    }

    /// Nobody wants to know that any more.
    pub(super) fn end_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// The counts as they were, if somebody wants them.
    pub(super) fn snapshot(&mut self) -> Option<&mut CountsSnapshot> {
        self.snapshot.as_deref_mut()
    }

    /// Goes on with the walk over the counts as they were. Whether there were any left.
    pub(super) fn walk(&mut self, lines_max: usize) -> bool {
        let snapshot = self.snapshot.as_mut();
        snapshot.is_some_and(|snapshot| snapshot.walk(self.lines.as_slice(), lines_max))
    }

    /// The lines that are not zero, each with its number.
    pub(super) fn counted(&self) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let lines = (0_u64..).zip(self.lines.as_slice());
        lines.filter(|(_, line)| **line != [0; 64]).map(|(number, line)| (number, line.to_vec()))
    }

    /// Forgets all counts.
    pub(super) fn clear(&mut self) {
        self.lines.as_mut_slice().fill([0; 64]);
    }

    /// Overwrites a line. Whether there is one of this number.
    pub(super) fn overwrite(&mut self, line: u64, counts: &CountLine) -> bool {
        let lines = self.lines.as_mut_slice();
        let line = usize::try_from(line).ok().and_then(|line| lines.get_mut(line));
        line.map(|line| *line = *counts).is_some()
    }

    /// Counts a push of this key. How often it was counted, this time included.
    fn count(&mut self, key: u64) -> u8 {
        let line = ring_number(Key::new(key)) >> (u64::BITS - self.line_bits);
        if let Some(word) = self.unsent.get_mut(line as usize / 64) {
            *word |= 1 << (line % 64);
        }
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.line_changes(line as usize, &self.lines.as_slice()[line as usize]);
        }
        let line = &mut self.lines.as_mut_slice()[line as usize];
        let draw = mix(key);
        let at: [usize; ROWS] = std::array::from_fn(|row| {
            let part = (draw >> (16 * row)) & 0xFFFF;
            row * COUNTERS + ((part as usize * COUNTERS) >> 16)
        });
        let least = at.iter().map(|&at| line[at]).min().expect("a key has four counters");
        let count = least.saturating_add(1);
        at.iter().for_each(|&at| line[at] = line[at].max(count));
        let counted = line.last_chunk_mut::<4>().expect("a line has 64 bytes");
        let times = u32::from_le_bytes(*counted) + 1;
        if times < self.halved_at {
            *counted = times.to_le_bytes();
        } else {
            *counted = (times / 2).to_le_bytes();
            line[..COUNTED].iter_mut().for_each(|count| *count /= 2);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(pushes: u8) -> Newcomers {
        Newcomers::new(KeyAdmission::Count(pushes), 1 << 20).expect("a small sketch")
    }

    #[test]
    fn a_key_is_admitted_at_the_push_that_makes_its_count() {
        for pushes in [1, 2, 3, 100, 255] {
            let mut newcomers = counted(pushes);
            let admitted: Vec<bool> =
                (0..u16::from(pushes) + 3).map(|_| newcomers.admits(77, 0)).collect();
            let first = admitted.iter().position(|&one| one);
            assert_eq!(first, Some(usize::from(pushes) - 1));
        }
    }

    #[test]
    fn of_keys_that_come_once_few_are_admitted_and_of_those_that_come_often_all() {
        let mut newcomers = counted(5);
        let lines = LINES_MIN;
        let (mut strangers, mut late) = (0, 0);
        // Ten pushes of a known key between those of many that come once.
        for round in 0..10 {
            for known in 0..lines {
                let is_in = newcomers.admits(known, 0);
                late += u64::from(!is_in && round == 9);
            }
            for stranger in 0..2 * lines {
                let key = mix(round << 32 | stranger) | 1 << 63;
                strangers += u64::from(newcomers.admits(key, 0));
            }
        }
        assert!(strangers < lines / 5, "{strangers} of {}", 20 * lines);
        assert!(late < lines / 10, "{late} of {lines} are not in at their tenth push");
    }

    #[test]
    fn counts_are_looked_for_in_parts_and_each_is_sent_as_it_is_at_the_end() {
        let bytes_max = 16 * LINES_MIN * size_of::<CountLine>() as u64 * TABLE_BYTES_A_BYTE;
        let newcomers = Newcomers::new(KeyAdmission::Count(200), bytes_max);
        let mut newcomers = newcomers.expect("a sketch of 4 MiB");
        let mut copy = std::collections::BTreeMap::new();
        (0..5000).for_each(|id| _ = newcomers.admits(mix(id), 0));
        let sketch = newcomers.sketch().expect("it counts");
        let words = sketch.lines.as_slice().len() / 64;
        assert!(words > 4 * WORDS_LOOKED_AT, "{words}");
        sketch.begin_sending();
        let mut sends = 0;
        while let Some(sketch) = newcomers.sketch().filter(|sketch| !sketch.is_sent()) {
            sketch.send(100, |number, line| _ = copy.insert(number, line.to_vec()));
            // Counted meanwhile, where it has been looked and where not.
            if sends < 40 {
                (0..9).for_each(|id| _ = newcomers.admits(mix(sends * 1000 + id), 0));
            }
            sends += 1;
        }
        assert!(sends as usize >= words / WORDS_LOOKED_AT, "{sends}");
        let sketch = newcomers.sketch().expect("it counts");
        assert!(copy.into_iter().eq(sketch.counted()));
        sketch.end_sending();
    }

    #[test]
    fn keys_of_two_partitions_never_share_a_line_so_servers_count_alike() {
        let keys: Vec<u64> = (0..200_000).map(|id| mix(id % 60_000)).collect();
        let mut all = counted(2);
        let mut halves = [counted(2), counted(2)];
        for &key in &keys {
            // Any way to deal partitions to servers.
            let partition = ring_number(Key::new(key)) >> (u64::BITS - PARTITIONS.ilog2());
            let half = &mut halves[mix(partition) as usize % 2];
            assert_eq!(all.admits(key, 0), half.admits(key, 0));
        }
    }

    #[test]
    fn a_coin_falls_alike_for_the_same_push_and_as_often_as_it_should() {
        let mut newcomers = Newcomers::new(KeyAdmission::Probability(0.25), 0).expect("no memory");
        let falls = |newcomers: &mut Newcomers, seed| -> Vec<bool> {
            (0..10_000).map(|key| newcomers.admits(key, seed)).collect()
        };
        let first = falls(&mut newcomers, 1);
        assert_eq!(first, falls(&mut newcomers, 1));
        let second = falls(&mut newcomers, 2);
        let heads = first.iter().filter(|&&one| one).count();
        assert!((2300..2700).contains(&heads), "{heads}");
        let both = first.iter().zip(second).filter(|&(&one, other)| one && other).count();
        assert!((500..750).contains(&both), "{both}");
        let mut all = Newcomers::new(KeyAdmission::Probability(1.0), 0).expect("no memory");
        assert!(falls(&mut all, 3).iter().all(|&one| one));
    }
}
