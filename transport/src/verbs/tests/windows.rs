//! Memory windows: whom they let in, and how long.

use std::rc::Rc;

use super::*;
use crate::api::Limits;
use crate::verbs::settings::VerbsSettings;
use crate::verbs::station::Station;
use crate::verbs::window::MemoryWindow;

const REGION_BYTES: usize = 1 << 16;
const OPEN: std::ops::Range<usize> = 4096..8192;

/// Memory that peers write through windows alone, if this device has them.
fn region(test: &str, device: &Device) -> Option<Rc<Registered>> {
    if let Err(why) = MemoryWindow::probe(device) {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
        return None;
    }
    Some(Rc::new(Registered::register(device, REGION_BYTES, Access::Windows).unwrap()))
}

/// A window over `OPEN`, bound by this end.
fn bind(end: &mut End, memory: &Rc<Registered>) -> MemoryWindow {
    let window = MemoryWindow::new(memory, OPEN).unwrap();
    end.qp.post_bind(77, &window).unwrap();
    let seen = end.next();
    assert_eq!(seen.wr_id, 77);
    seen.outcome.unwrap();
    window
}

/// What comes of a write of eight times `byte` at `offset` of the region, by this key.
fn write(
    from: &mut End,
    memory: &Registered,
    (offset, rkey): (usize, u32),
    byte: u8,
) -> Result<(), Status> {
    let write = WriteImm {
        wr_id: 5,
        payload: Payload::Inline(&[byte; 8]),
        remote_address: memory.address() + offset as u64,
        rkey,
        imm: 1,
        signal: Signal::Completes,
    };
    from.qp.post_writes(&[write]).unwrap();
    let seen = from.next();
    assert_eq!(seen.wr_id, 5);
    seen.outcome.map(|_| ()).map_err(|failure| failure.status)
}

/// What lies there, after all writes are over.
fn at(memory: &Registered, offset: usize) -> u8 {
    // SAFETY: nobody has a slice to write of it, and the callers have seen every write's end.
    let bytes = unsafe { memory.slice(offset..offset + 1) };
    bytes[0]
}

#[test]
fn the_key_of_a_window_lets_its_own_queue_pair_in_and_any_other_fails_by_itself() {
    let test = "the_key_of_a_window_lets_its_own_queue_pair_in_and_any_other_fails_by_itself";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let Some(memory) = region(test, &device) else { return };
    let ((mut a, mut b), (mut c, mut d)) = (pair(&device, &choice), pair(&device, &choice));
    b.qp.post_recvs(3, 1).unwrap();
    d.qp.post_recvs(3, 1).unwrap();
    let window = bind(&mut b, &memory);
    let place = (OPEN.start, window.rkey());
    assert_eq!(write(&mut a, &memory, place, 1), Ok(()));
    assert_eq!(write(&mut c, &memory, place, 2), Err(Status::REMOTE_ACCESS));
    assert_eq!(at(&memory, OPEN.start), 1, "what the stranger wrote is nowhere");
    assert_eq!(write(&mut a, &memory, place, 3), Ok(()), "the rightful one is not disturbed");
    assert_eq!(at(&memory, OPEN.start), 3);
    let of_region = (OPEN.start, memory.rkey());
    assert_eq!(write(&mut a, &memory, of_region, 4), Err(Status::REMOTE_ACCESS));
    assert_eq!(at(&memory, OPEN.start), 3, "the region's own key opens nothing");
}

#[test]
fn the_key_of_a_window_is_dead_once_it_is_freed() {
    let test = "the_key_of_a_window_is_dead_once_it_is_freed";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let Some(memory) = region(test, &device) else { return };
    let (mut a, mut b) = pair(&device, &choice);
    b.qp.post_recvs(3, 1).unwrap();
    let window = bind(&mut b, &memory);
    let place = (OPEN.start, window.rkey());
    assert_eq!(write(&mut a, &memory, place, 1), Ok(()));
    drop(window);
    assert_eq!(write(&mut a, &memory, place, 2), Err(Status::REMOTE_ACCESS));
    assert_eq!(at(&memory, OPEN.start), 1);
}

#[test]
fn the_key_of_a_lane_that_ended_is_dead_for_the_next_one() {
    let test = "the_key_of_a_lane_that_ended_is_dead_for_the_next_one";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let Some(memory) = region(test, &device) else { return };
    let (a, mut b) = pair(&device, &choice);
    let window = bind(&mut b, &memory);
    let old = (OPEN.start, window.rkey());
    // As a lane ends: failed, closed to the peer, destroyed.
    b.qp.fail().unwrap();
    drop(window);
    drop((b, a));
    let (mut a, mut b) = pair(&device, &choice);
    b.qp.post_recvs(3, 1).unwrap();
    let window = bind(&mut b, &memory);
    assert_ne!(window.rkey(), old.1);
    assert_eq!(write(&mut a, &memory, old, 1), Err(Status::REMOTE_ACCESS));
    assert_eq!(at(&memory, OPEN.start), 0);
}

#[test]
fn a_write_past_the_end_of_a_window_is_refused() {
    let test = "a_write_past_the_end_of_a_window_is_refused";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let Some(memory) = region(test, &device) else { return };
    let (mut a, mut b) = pair(&device, &choice);
    b.qp.post_recvs(3, 1).unwrap();
    let window = bind(&mut b, &memory);
    let past = write(&mut a, &memory, (OPEN.end, window.rkey()), 1);
    if past.is_ok() && is_soft_roce(&device) {
        let why = "soft-RoCE checks the bounds of the region and not of the window";
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
        return;
    }
    assert_eq!(past, Err(Status::REMOTE_ACCESS));
    assert_eq!(at(&memory, OPEN.end), 0);
}

/// Of all devices this attribute is soft-RoCE's alone.
fn is_soft_roce(device: &Device) -> bool {
    FilePath::new(&format!("/sys/class/infiniband/{}/parent", device.name())).exists()
}

#[test]
fn a_window_over_memory_that_allows_none_is_not_bound() {
    let test = "a_window_over_memory_that_allows_none_is_not_bound";
    let Some((device, choice, _guard)) = device_for(test) else { return };
    let Some(_) = region(test, &device) else { return };
    let memory = Registered::register(&device, REGION_BYTES, Access::RemoteWrite).unwrap();
    let window = MemoryWindow::new(&Rc::new(memory), OPEN).unwrap();
    let (_a, mut b) = pair(&device, &choice);
    b.qp.post_bind(6, &window).unwrap();
    let status = b.next().outcome.unwrap_err().status;
    // Soft-RoCE does not say why.
    assert!(status == Status::NOT_BOUND || is_soft_roce(&device) && status == Status::FLUSHED);
}

#[test]
fn rings_have_their_regions_key_once_the_first_window_was_refused_and_not_later() {
    let test = "rings_have_their_regions_key_once_the_first_window_was_refused_and_not_later";
    let Some((device, _, _guard)) = device_for(test) else { return };
    let Some(_) = region(test, &device) else { return };
    let (limits, settings) = (Limits::default(), VerbsSettings::default());
    let mut station = Station::open(device.name(), &limits, &settings).unwrap();
    let by_window = station.ring(&limits).unwrap();
    assert!(by_window.window().unwrap().is_some() && station.suits(&by_window));
    station.windows_refused(&limits);
    let by_region = station.ring(&limits).unwrap();
    assert!(by_region.window().unwrap().is_none() && by_region.region_rkey() != 0);
    assert!(station.suits(&by_region) && !station.suits(&by_window));
    drop(by_window);
    assert!(station.suits(&station.ring(&limits).unwrap()), "rings of before do not come back");

    let mut station = Station::open(device.name(), &limits, &settings).unwrap();
    let ring = station.ring(&limits).unwrap();
    station.window_bound();
    station.windows_refused(&limits);
    assert!(station.suits(&ring), "no peer loses what it was given");
}
