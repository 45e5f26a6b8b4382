//! Pages ahead of need: a thread has the kernel fill them in before anybody waits for one.
//!
//! Owns that thread and what it is asked for. Which pages will be needed is left to whoever asks.
//! A first touch of a huge page costs the kernel's clearing of it, a tenth of a millisecond, and
//! where the host of a virtual machine has to find memory too, several: too much for a turn.
//!
//! Invariant: filling in changes no byte, so that it may be late, or never come, and costs whoever
//! touches a page first its time and nothing else.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;

use crate::map::{HUGE_PAGE_BYTES, Mapping};

/// Requests that may wait for the thread. One more is dropped.
const REQUESTS_MAX: usize = 256;

/// Requests that the thread works on in turn; the others wait.
const UNDER_WAY_MAX: usize = 64;

/// Which end of a range will be needed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// Its beginning.
    Low,
    /// Its end.
    High,
}

/// Bytes of one mapping that will be needed.
struct Request {
    map: Arc<Mapping>,
    left: Range<usize>,
    first: First,
    filled: Arc<AtomicUsize>,
}

/// Starts the thread that fills pages in, which may run where the caller may. Without this it
/// starts when it is first needed, and then shares the processor of a caller that is pinned to one.
pub fn start_filling() {
    thread_of_pages();
}

fn thread_of_pages() -> Option<&'static SyncSender<Request>> {
    static THREAD: OnceLock<Option<SyncSender<Request>>> = OnceLock::new();
    let start = || {
        let (sender, requests) = sync_channel(REQUESTS_MAX);
        let name = "gradwire-pages".to_owned();
        let started = thread::Builder::new().name(name).spawn(move || serve(&requests));
        started.is_ok().then_some(sender)
    };
    THREAD.get_or_init(start).as_ref()
}

/// Asks that `range` (byte offsets) is filled in.
///
/// - `filled`: its bytes are added as they are there.
pub(crate) fn ask(
    map: &Arc<Mapping>,
    range: Range<usize>,
    first: First,
    filled: &Arc<AtomicUsize>,
) {
    if let Some(thread) = thread_of_pages() {
        let (map, filled) = (Arc::clone(map), Arc::clone(filled));
        // Dropped where too many wait: see the invariant.
        let _ = thread.try_send(Request { map, left: range, first, filled });
    }
}

/// Fills in a piece of each request in turn. Sleeps where there is none: the thread lives as long
/// as the process.
fn serve(requests: &Receiver<Request>) {
    let mut under_way: Vec<Request> = Vec::with_capacity(UNDER_WAY_MAX);
    loop {
        if under_way.is_empty() {
            let Ok(request) = requests.recv() else { return };
            under_way.push(request);
        }
        let room = UNDER_WAY_MAX - under_way.len();
        under_way.extend(requests.try_iter().take(room));
        under_way.retain_mut(fill_piece);
    }
}

/// Fills in the next piece, up to a huge page. Whether there is more to do.
fn fill_piece(request: &mut Request) -> bool {
    let Request { map, left, first, filled } = request;
    let is_wanted = Arc::strong_count(map) > 1;
    if left.start >= left.end || !is_wanted {
        return false;
    }
    let piece = match first {
        First::Low => {
            let end = (left.start + 1).next_multiple_of(HUGE_PAGE_BYTES).min(left.end);
            std::mem::replace(&mut left.start, end)..end
        }
        First::High => {
            let start = ((left.end - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES).max(left.start);
            start..std::mem::replace(&mut left.end, start)
        }
    };
    let bytes = piece.len();
    // No memory, or a kernel before 5.14: whoever needs the pages finds out.
    let is_done = map.populate(piece).is_ok();
    if is_done {
        filled.fetch_add(bytes, Ordering::Relaxed);
    }
    is_done && left.start < left.end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{Access, PAGE_BYTES};

    fn request(bytes: usize, left: Range<usize>, first: First) -> (Arc<Mapping>, Request) {
        let map = Mapping::new(bytes, HUGE_PAGE_BYTES, Access::ReadWrite).expect("a few MiB");
        let (map, filled) = (Arc::new(map), Arc::default());
        (Arc::clone(&map), Request { map, left, first, filled })
    }

    #[test]
    fn a_range_is_filled_in_from_the_end_that_is_needed_first() {
        let range = PAGE_BYTES..2 * HUGE_PAGE_BYTES + PAGE_BYTES;
        let (_low_owner, mut low) = request(3 * HUGE_PAGE_BYTES, range.clone(), First::Low);
        let (_high_owner, mut high) = request(3 * HUGE_PAGE_BYTES, range.clone(), First::High);
        assert!(fill_piece(&mut low) && fill_piece(&mut high));
        assert_eq!(low.left, HUGE_PAGE_BYTES..range.end);
        assert_eq!(high.left, range.start..2 * HUGE_PAGE_BYTES);
        assert!(fill_piece(&mut low) && fill_piece(&mut high));
        assert!(!fill_piece(&mut low) && !fill_piece(&mut high));
        for done in [low, high] {
            assert_eq!(done.filled.load(Ordering::Relaxed), range.len());
        }
    }

    #[test]
    fn nothing_is_filled_in_for_a_mapping_that_nobody_has_any_more() {
        let (owner, mut request) = request(HUGE_PAGE_BYTES, 0..PAGE_BYTES, First::Low);
        drop(owner);
        assert!(!fill_piece(&mut request));
        assert_eq!(request.filled.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn pages_without_rights_are_left_alone() {
        let map = Mapping::new(HUGE_PAGE_BYTES, HUGE_PAGE_BYTES, Access::Reserved).expect("small");
        let (map, filled) = (Arc::new(map), Arc::<AtomicUsize>::default());
        let mut request =
            Request { map: Arc::clone(&map), left: 0..PAGE_BYTES, first: First::Low, filled };
        assert!(!fill_piece(&mut request));
        assert_eq!(request.filled.load(Ordering::Relaxed), 0);
    }
}
