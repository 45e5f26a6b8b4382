//! What a session promises, against stand-ins for shards over the simulated network.

mod fake;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use fake::Rig;
use gradwire_worker::{Awaited, Then, WorkerError};
use proptest::prelude::*;
use transport::simulated::Faults;
use transport::{Fault, Limits, Transport};
use wire::{
    Acknowledge, Clock, JobId, Join, Joined, Key, Kind, Malformed, Refusal, RowLife, ScanCursor,
    ShardId, Staleness, TableId, TableSpec, WorkerId,
};

const TABLE: TableId = TableId::new(3);

fn spec() -> TableSpec {
    let (name, rule) = ("weights".into(), "sgd".into());
    let (life, acknowledge) = (RowLife::default(), Acknowledge::Tail);
    TableSpec {
        name,
        rule,
        dim: 2,
        parameters: [0.0; 8],
        layout: 1,
        life,
        acknowledge,
        aggregate: false,
    }
}

fn join() -> Join {
    Join { job: JobId::new(1), workers: 1, staleness: Staleness::BSP }
}

/// Deltas by which each value tells its key and column.
fn telling(keys: &[u64], width: usize) -> Rc<Vec<f32>> {
    let value = |&key: &u64| (0..width).map(move |column| (key * 10 + column as u64) as f32);
    Rc::new(keys.iter().flat_map(value).collect())
}

#[test]
fn what_was_pushed_is_pulled_and_every_shard_ticks_once() {
    let mut rig = Rig::quiet(3, 2);
    let deadline = rig.after_s(10);
    rig.session.join(join(), deadline).expect("nothing speaks against it");
    rig.session.define(TABLE, &spec(), deadline).expect("nothing speaks against it");
    let keys: Vec<u64> = (0..100).collect();
    let split = rig.session.split(&keys).expect("sorted");
    let deltas = telling(&keys, 2);
    rig.session.push(TABLE, &split, Rc::clone(&deltas), 2, Then::Tick).expect("there is room");
    assert_eq!(rig.session.clock(), Clock::new(1));
    let ticket = rig.session.pull(TABLE, &split, 2).expect("there is room");
    let values = rig.session.wait_pull(ticket, deadline).expect("all shards answer");
    assert_eq!(values.as_slice(), deltas.as_slice());
    assert_eq!(values.row(7), [70.0, 71.0]);
    rig.session.recycle(values);
    rig.session.tick().expect("there is room");
    rig.session.wait_pushes(0, deadline).expect("all shards answer");
    rig.session.leave(deadline).expect("nothing speaks against it");
    for shard in &rig.shards {
        let shard = shard.borrow();
        assert_eq!(shard.ticks, 2);
        assert_eq!((shard.kinds[0], shard.kinds[1]), (Kind::Join, Kind::Define));
        assert_eq!(shard.kinds.last(), Some(&Kind::Leave));
    }
    assert_eq!(rig.session.counts().resends, 0);
}

#[test]
fn a_tick_reaches_shards_that_own_none_of_the_pushed_keys() {
    let mut rig = Rig::quiet(4, 1);
    let split = rig.session.split(&[8]).expect("sorted");
    rig.session.push(TABLE, &split, Rc::new(vec![1.0]), 1, Then::Tick).expect("there is room");
    rig.session.wait_pushes(0, rig.after_s(1)).expect("all shards answer");
    assert!(rig.shards.iter().all(|shard| shard.borrow().ticks == 1));
    assert_eq!(rig.rows(), BTreeMap::from([(8, vec![1.0])]));
}

#[test]
fn a_request_without_an_answer_is_sent_again_after_its_time_out_and_counts_once() {
    let mut rig = Rig::quiet(1, 1);
    let lossy = Faults { loss_per_mille: 1000, ..Faults::NONE };
    let split = rig.session.split(&[1, 2]).expect("sorted");
    rig.session.push(TABLE, &split, Rc::new(vec![1.0, 2.0]), 1, Then::More).expect("room");
    rig.session.poll().expect("all is well");
    rig.world.set_faults(lossy); // The push is on its way; its answer gets lost.
    let half_a_second = rig.session.now() + Duration::from_millis(500);
    let error = rig.session.wait_pushes(0, half_a_second).expect_err("no answer comes");
    assert!(matches!(error, WorkerError::TimedOut { .. }), "{error}");
    rig.world.set_faults(Faults::NONE);
    rig.session.wait_pushes(0, rig.after_s(3)).expect("the second answer comes");
    let counts = rig.session.counts();
    assert_eq!((counts.resends, counts.duplicates), (1, 1));
    assert_eq!(rig.rows(), BTreeMap::from([(1, vec![1.0]), (2, vec![2.0])]));
}

#[test]
fn within_memory_a_slow_server_is_asked_once_and_over_a_new_link_again() {
    let mut rig = Rig::over_memory(1);
    rig.shards[0].borrow_mut().stopped = true;
    let split = rig.session.split(&[1]).expect("sorted");
    rig.session.push(TABLE, &split, Rc::new(vec![1.0]), 1, Then::Tick).expect("room");
    let error = rig.session.wait_pushes(0, rig.after_s(4)).expect_err("nobody answers");
    assert!(matches!(error, WorkerError::TimedOut { .. }), "{error}");
    rig.shards[0].borrow_mut().stopped = false;
    rig.shards[0].borrow_mut().turn();
    rig.session.wait_pushes(0, rig.after_s(1)).expect("now it does");
    assert_eq!(rig.shards[0].borrow().kinds, [Kind::Push]);
    rig.session.tick().expect("there is room");
    rig.session.flush();
    rig.shards[0].borrow_mut().endpoint.close(transport::PeerId::new(0));
    let error = rig.session.wait_pushes(0, rig.after_s(1)).expect_err("the link is gone");
    assert!(matches!(error, WorkerError::ServerLost { .. }), "{error}");
    rig.reconnect(0);
    rig.session.wait_pushes(0, rig.after_s(1)).expect("the new link carries it");
    assert_eq!(rig.shards[0].borrow().ticks, 2);
}

#[test]
fn answers_that_are_damaged_on_the_way_are_asked_for_again() {
    let corrupt = Faults { corrupt_per_mille: 300, ..Faults::NONE };
    let mut rig = Rig::new(3, corrupt, Limits::default(), 1, 8);
    let keys: Vec<u64> = (0..500).collect();
    let split = rig.session.split(&keys).expect("sorted");
    for _ in 0..20 {
        let ticket = rig.session.pull(TABLE, &split, 8).expect("there is room");
        match rig.session.wait_pull(ticket, rig.after_s(1000)) {
            Ok(values) => {
                assert!(values.iter().all(|&value| value == 0.0));
                rig.session.recycle(values);
            }
            // A length that was hit has broken the framing.
            Err(WorkerError::ServerLost { .. }) => rig.reconnect(0),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(rig.session.counts().damaged > 0);
}

#[test]
fn within_memory_a_damaged_answer_ends_the_link_since_nothing_damages_it_by_chance() {
    let mut rig = Rig::over_memory(1);
    rig.session.tick().expect("there is room");
    rig.session.poll().expect("all is well");
    rig.world.set_faults(Faults { corrupt_per_mille: 1000, ..Faults::NONE });
    let error = rig.session.wait_pushes(0, rig.after_s(1)).expect_err("a bit has flipped");
    assert!(matches!(error, WorkerError::ServerLost { .. }), "{error}");
}

#[test]
fn a_closed_server_ends_a_wait_at_once_and_is_named() {
    let mut rig = Rig::quiet(2, 1);
    let keys: Vec<u64> = (0..50).collect();
    let split = rig.session.split(&keys).expect("sorted");
    rig.session.poll().expect("all is well");
    let started = rig.session.now();
    let ticket = rig.session.pull(TABLE, &split, 1).expect("there is room");
    let peers_of_shard_1 = transport::PeerId::new(0);
    rig.shards[1].borrow_mut().endpoint.close(peers_of_shard_1);
    let deadline = rig.after_s(60);
    let error = rig.session.wait_pull(ticket, deadline).expect_err("half of it never comes");
    assert!(rig.session.now() - started < Duration::from_millis(10), "long before any time-out");
    assert_eq!(error.to_string(), "server host1:7000 is lost: the peer closed the connection");
}

#[test]
fn a_server_that_closes_when_nothing_is_wanted_from_it_is_no_error() {
    let mut rig = Rig::quiet(1, 1);
    rig.session.leave(rig.after_s(1)).expect("nothing speaks against it");
    rig.shards[0].borrow_mut().endpoint.close(transport::PeerId::new(0));
    let until = rig.after_s(2);
    while rig.session.now() < until {
        rig.session.poll().expect("nothing is wanted");
        rig.session.park(until);
    }
    let error = rig.session.tick().and_then(|()| rig.session.poll()).expect_err("now it is");
    let WorkerError::ServerLost { fault: Fault::PeerClosed, .. } = error else { panic!("{error}") };
}

#[test]
fn a_server_that_is_silent_for_the_give_up_time_is_given_up() {
    let mut rig = Rig::quiet(1, 1);
    rig.session.poll().expect("all is well");
    rig.world.set_faults(Faults { loss_per_mille: 1000, ..Faults::NONE });
    rig.session.tick().expect("there is room");
    let deadline = rig.after_s(100);
    let error = rig.session.wait_pushes(0, deadline).expect_err("nobody answers");
    let WorkerError::Silent { silence, .. } = &error else { panic!("{error}") };
    assert!((5.0..7.0).contains(&silence.as_secs_f64()), "{silence:?}");
    assert!(error.to_string().starts_with("server host0:7000 has been silent for "), "{error}");
    assert_eq!(rig.session.poll(), Err(error), "until it has a new link");
    rig.world.set_faults(Faults::NONE);
    rig.reconnect(0);
    rig.session.wait_pushes(0, deadline).expect("a new link mends it");
    assert_eq!(rig.shards[0].borrow().ticks, 1);
}

#[test]
fn a_worker_that_computed_long_does_not_take_its_own_silence_for_the_servers() {
    let mut rig = Rig::quiet(1, 1);
    rig.session.tick().expect("there is room");
    rig.session.poll().expect("all is well");
    rig.world.advance_to(rig.after_s(30)); // Nobody polls meanwhile, and the shard has no turn.
    rig.session.poll().expect("the answer may just not have been found yet");
    rig.session.wait_pushes(0, rig.after_s(1)).expect("it comes");
}

#[test]
fn a_pull_waits_for_a_slow_worker_until_the_callers_deadline_and_not_longer() {
    let mut rig = Rig::quiet(1, 1);
    rig.session.tick().expect("there is room");
    rig.shards[0].borrow_mut().slowest = 0;
    let split = rig.session.split(&[1]).expect("sorted");
    let ticket = rig.session.pull(TABLE, &split, 1).expect("there is room");
    let error = rig.session.wait_pull(ticket, rig.after_s(20)).expect_err("nobody else ticks");
    let WorkerError::TimedOut { awaited: Awaited::Values { table: 3, .. }, waited, .. } = &error
    else {
        panic!("{error}")
    };
    assert!(*waited >= Duration::from_secs(20), "a waiting pull is no silent server: {waited:?}");
    assert_eq!(
        error.to_string(),
        "waited 20.0 s on server host0:7000 for values of table 3 at clock 1 \
         (the slowest worker is at clock 0)"
    );
    let ticket = rig.session.pull(TABLE, &split, 1).expect("there is room");
    rig.shards[0].borrow_mut().slowest = 1;
    let values = rig.session.wait_pull(ticket, rig.after_s(20)).expect("the slow one ticked");
    assert_eq!(values.as_slice(), [0.0]);
    rig.session.recycle(values);
    rig.session.wait_pushes(0, rig.after_s(1)).expect("it was answered long ago");
    assert!(rig.session.counts().answers_late > 0, "answers to the first pull find nobody");
}

#[test]
fn a_refusal_names_the_server_and_both_sides_numbers() {
    let mut rig = Rig::quiet(1, 1);
    let deadline = rig.after_s(10);
    let refuse =
        |rig: &Rig, kind, refusal| rig.shards[0].borrow_mut().refuses = Some((kind, refusal));
    refuse(&rig, Kind::Define, Refusal::NoSuchRule);
    let error = rig.session.define(TABLE, &spec(), deadline).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "server host0:7000 refused the definition of table 3: the server has no such rule: \
         run it with the binary that has it"
    );
    let split = rig.session.split(&[1, 2]).expect("sorted");
    refuse(&rig, Kind::Pull, Refusal::WorkerLost { worker: WorkerId::new(9) });
    let ticket = rig.session.pull(TABLE, &split, 1).expect("there is room");
    let error = rig.session.wait_pull(ticket, deadline).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "server host0:7000 refused a pull of 2 keys of table 3 at clock 0: \
         worker 9 of this job has died"
    );
    refuse(&rig, Kind::Push, Refusal::NotJoined);
    rig.session.tick().expect("there is room");
    let error = rig.session.wait_pushes(0, deadline).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "server host0:7000 refused push 1 with 0 keys of table 0 at clock 0: \
         the worker has not joined the job there"
    );
    assert_eq!(rig.session.tick(), Err(error), "its clock cannot be finished any more");
}

#[test]
fn a_push_that_the_shard_cannot_remember_yet_is_asked_again_and_not_an_error() {
    let mut rig = Rig::quiet(1, 1);
    let newest = wire::Sequence::new(0);
    rig.shards[0].borrow_mut().refuses = Some((Kind::Push, Refusal::SequenceTooNew { newest }));
    rig.session.tick().expect("there is room");
    let error = rig.session.wait_pushes(0, rig.after_s(1)).expect_err("it never takes it");
    assert!(matches!(error, WorkerError::TimedOut { .. }), "{error}");
    rig.shards[0].borrow_mut().refuses = None;
    rig.session.wait_pushes(0, rig.after_s(1)).expect("now it does");
    assert_eq!(rig.shards[0].borrow().ticks, 1);
}

#[test]
fn an_answer_of_another_shape_than_asked_for_ends_the_session() {
    let mut rig = Rig::quiet(1, 2);
    rig.shards[0].borrow_mut().answers_width = Some(3);
    let split = rig.session.split(&[1]).expect("sorted");
    let ticket = rig.session.pull(TABLE, &split, 2).expect("there is room");
    let error = rig.session.wait_pull(ticket, rig.after_s(1)).expect_err("three values came");
    assert_eq!(
        error.to_string(),
        "server host0:7000 answered with Values of 1 keys by 3 values; asked were 1 by 2"
    );
}

#[test]
fn keys_out_of_order_and_rows_wider_than_a_message_are_refused_before_anything_is_sent() {
    let limits = Limits { message_bytes_max: 1024, ..Limits::default() };
    let mut rig = Rig::new(1, Faults::NONE, limits, 1, 1);
    let error = rig.session.split(&[2, 1]).expect_err("2 stands before 1");
    assert_eq!(error, WorkerError::Keys(Malformed::Order { index: 1 }));
    let split = rig.session.split(&[1]).expect("sorted");
    let error = rig.session.pull(TABLE, &split, 300).expect_err("1200 bytes a key");
    let expected = WorkerError::WidthTooLarge { width: 300, message_bytes_max: 1024 };
    assert_eq!(error, expected);
}

#[test]
fn values_that_are_held_never_keep_answers_to_pushes_away() {
    let limits = Limits { recv_bytes_max: 64 << 10, ..Limits::default() };
    let mut rig = Rig::new(1, Faults::NONE, limits, 1, 8);
    let keys: Vec<u64> = (0..900).collect();
    let split = rig.session.split(&keys).expect("sorted");
    let deadline = rig.after_s(10);
    let mut held = Vec::new();
    for _ in 0..10 {
        let ticket = rig.session.pull(TABLE, &split, 8).expect("there is room");
        held.push(rig.session.wait_pull(ticket, deadline).expect("it is answered"));
    }
    rig.session.tick().expect("there is room");
    rig.session.wait_pushes(0, deadline).expect("its answer finds room");
    held.into_iter().for_each(|values| rig.session.recycle(values));
}

#[test]
fn pulls_ahead_that_use_up_the_credit_never_keep_the_tick_they_wait_for() {
    let mut rig = Rig::quiet(1, 1);
    rig.shards[0].borrow_mut().waits_for_ticks = true;
    rig.shards[0].borrow_mut().credit = 4;
    let deadline = rig.after_s(10);
    rig.session.join(join(), deadline).expect("nothing speaks against it");
    let split = rig.session.split(&[1]).expect("sorted");
    let ahead = |rig: &mut Rig| rig.session.pull_ahead(TABLE, &split, 1, 1).expect("room");
    let tickets: Vec<_> = (0..20).map(|_| ahead(&mut rig)).collect();
    rig.session.tick().expect("there is room");
    for ticket in tickets {
        let values = rig.session.wait_pull(ticket, deadline).expect("the tick came through");
        rig.session.recycle(values);
    }
    assert_eq!(rig.session.counts().resends, 0);
    assert_eq!(rig.shards[0].borrow().waiting_most, 2, "half of the credit is the pushes'");
}

#[test]
fn a_buffer_of_deltas_comes_back_once_every_shard_has_answered() {
    let mut rig = Rig::quiet(2, 1);
    let keys: Vec<u64> = (0..20).collect();
    let split = rig.session.split(&keys).expect("sorted");
    let deltas = rig.session.deltas_buffer(20);
    let memory = deltas.as_ptr();
    rig.session.push(TABLE, &split, deltas, 1, Then::More).expect("there is room");
    assert_ne!(rig.session.deltas_buffer(20).as_ptr(), memory, "it may be sent again");
    rig.session.wait_pushes(0, rig.after_s(1)).expect("all shards answer");
    assert_eq!(rig.session.deltas_buffer(20).as_ptr(), memory);
}

#[test]
fn pulls_without_end_are_refused_and_cancelled_ones_make_room() {
    let mut rig = Rig::quiet(1, 1);
    let split = rig.session.split(&[1]).expect("sorted");
    let mut tickets = Vec::new();
    let error = loop {
        match rig.session.pull(TABLE, &split, 1) {
            Ok(ticket) => tickets.push(ticket),
            Err(error) => break error,
        }
    };
    assert_eq!(error.to_string(), "257 pulls would be under way, 256 is the most");
    tickets.into_iter().for_each(|ticket| rig.session.cancel(ticket));
    let ticket = rig.session.pull(TABLE, &split, 1).expect("there is room again");
    let values = rig.session.wait_pull(ticket, rig.after_s(1)).expect("it is answered");
    assert_eq!(values.as_slice(), [0.0]);
}

#[test]
fn rows_that_were_loaded_are_scanned_page_by_page() {
    let mut rig = Rig::quiet(2, 2);
    let deadline = rig.after_s(10);
    let keys: Vec<u64> = (0..20).rev().collect();
    let rows = telling(&keys, 2);
    rig.session.load(TABLE, &keys, &rows, 2, deadline).expect("nothing speaks against it");
    let mut found = BTreeMap::new();
    let mut measured = 0;
    for shard in (0..2).map(ShardId::new) {
        let mut cursor = ScanCursor::START;
        while cursor != ScanCursor::END {
            let page = rig.session.scan(shard, TABLE, cursor, deadline).expect("it is answered");
            for (key, row) in page.keys.iter().zip(page.rows.chunks(page.width.into())) {
                assert_eq!(rig.session.routing().shard_of(Key::new(*key)), shard);
                found.insert(*key, row.to_vec());
            }
            cursor = page.next;
        }
        measured += rig.session.measure(shard, TABLE, deadline).expect("it is answered").rows;
    }
    let expected = keys.iter().copied().zip(rows.chunks(2).map(<[f32]>::to_vec)).collect();
    assert_eq!(found, expected);
    assert_eq!(measured, 20);
    rig.session.remove(TABLE, &keys[3..], deadline).expect("nothing speaks against it");
    let left: u64 = (0..2)
        .map(|shard| rig.session.measure(ShardId::new(shard), TABLE, deadline))
        .map(|size| size.expect("it is answered").rows)
        .sum();
    assert_eq!(left, 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn values_come_in_the_order_of_the_keys_however_they_are_split_and_cut(
        keys in proptest::collection::btree_set(0_u64..1 << 20, 0..300),
        shards in 1_usize..5, width in 1_u16..12, message_bytes_max in 256_usize..4096,
    ) {
        let keys: Vec<u64> = keys.into_iter().collect();
        let limits = Limits { message_bytes_max, ..Limits::default() };
        let mut rig = Rig::new(1, Faults::NONE, limits, shards, width);
        let deadline = rig.after_s(10);
        let split = rig.session.split(&keys).expect("a set is sorted");
        let deltas = telling(&keys, width.into());
        rig.session.push(TABLE, &split, Rc::clone(&deltas), width, Then::Tick).expect("room");
        let first = rig.session.pull(TABLE, &split, width).expect("there is room");
        let second = rig.session.pull(TABLE, &split, width).expect("there is room");
        for ticket in [second, first] {
            let values = rig.session.wait_pull(ticket, deadline).expect("all shards answer");
            prop_assert_eq!(values.as_slice(), deltas.as_slice());
            rig.session.recycle(values);
        }
        rig.session.wait_pushes(0, deadline).expect("all shards answer");
        prop_assert!(rig.shards.iter().all(|shard| shard.borrow().ticks == 1));
    }

    #[test]
    fn each_push_counts_once_whatever_the_network_does(seed in any::<u64>()) {
        let (clocks, shards) = (20, 3);
        let faults = Faults { clock_ahead_ns_max: 0, ..Faults::from_seed(seed) };
        let limits = Limits { message_bytes_max: 512, ..Limits::default() };
        let mut rig = Rig::new(seed, faults, limits, shards, 2);
        let keys: Vec<u64> = (0..64).collect();
        let deadline = rig.after_s(100_000);
        for clock in 0..clocks {
            let split = rig.session.split(&keys).expect("sorted");
            let ticket = rig.session.pull(TABLE, &split, 2).expect("there is room");
            rig.session.push(TABLE, &split, telling(&keys, 2), 2, Then::Tick).expect("room");
            loop {
                prop_assert!(rig.session.now() < deadline, "clock {} never ends", clock);
                match rig.session.poll() {
                    Ok(()) if rig.session.is_over(&ticket)
                        && rig.session.pushes_outstanding() == 0 => break,
                    Ok(()) => rig.session.park(deadline),
                    Err(WorkerError::ServerLost { server, .. }
                        | WorkerError::Silent { server, .. }) => {
                        let shard = server["host".len()..].split(':').next().expect("a number");
                        rig.reconnect(shard.parse().expect("a number"));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            let values = rig.session.wait_pull(ticket, deadline).expect("it is over");
            prop_assert_eq!(values.len(), 128);
            rig.session.recycle(values);
            prop_assert_eq!(rig.session.clock(), Clock::new(clock + 1));
        }
        for (key, row) in rig.rows() {
            let once = (key * 10) as f32;
            prop_assert_eq!(row, vec![once * clocks as f32, (once + 1.0) * clocks as f32]);
        }
        prop_assert!(rig.shards.iter().all(|shard| shard.borrow().ticks == clocks));
    }
}

#[test]
fn a_later_life_sends_only_what_each_shard_lacks_under_the_former_lifes_numbers() {
    let mut rig = Rig::quiet(2, 1);
    rig.shards[0].borrow_mut().joined = Joined { clock: 3, tick_sequence: 8 };
    rig.shards[1].borrow_mut().joined = Joined { clock: 2, tick_sequence: 5 };
    let deadline = rig.after_s(5);
    rig.session.join(join(), deadline).expect("welcome");
    assert_eq!(rig.session.clock(), Clock::new(2));
    let keys: Vec<u64> = (0..40).collect();
    let split = rig.session.split(&keys).expect("sorted");
    for then in [Then::More, Then::Tick, Then::Tick] {
        rig.session.push(TABLE, &split, Rc::new(vec![1.0; 40]), 1, then).expect("room");
    }
    assert_eq!(rig.session.clocks_outstanding(), 2);
    rig.session.wait_clocks(0, deadline).expect("answers");
    let numbers = |shard: usize| {
        let shard = rig.shards[shard].borrow();
        let mut numbers: Vec<u64> = shard.applied.iter().map(|name| name.2).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!((numbers(0), numbers(1)), (vec![9], vec![6, 7, 8]));
}
