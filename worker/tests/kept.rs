//! What a session keeps of pushes that only a head has acknowledged, and sends to the next one.

mod fake;

use std::collections::BTreeMap;
use std::rc::Rc;

use fake::Rig;
use gradwire_worker::Then;
use transport::simulated::Faults;
use wire::{Acknowledge, Kind, RowLife, TableId, TableSpec};

const TABLE: TableId = TableId::new(0);

/// One shard, and a table whose pushes its head acknowledges.
fn rig() -> Rig {
    let mut rig = Rig::quiet(1, 1);
    let (name, rule) = ("weights".into(), "sgd".into());
    let (life, acknowledge) = (RowLife::default(), Acknowledge::Head);
    let spec = TableSpec {
        name,
        rule,
        dim: 1,
        parameters: [0.0; 8],
        layout: 1,
        life,
        acknowledge,
        aggregate: false,
    };
    rig.session.define(TABLE, &spec, rig.after_s(1)).expect("nothing speaks against it");
    rig
}

/// Pushes one to a key, and waits for the answer.
fn push(rig: &mut Rig, key: u64, then: Then) {
    let split = rig.session.split(&[key]).expect("sorted");
    rig.session.push(TABLE, &split, Rc::new(vec![1.0]), 1, then).expect("there is room");
    rig.session.wait_pushes(0, rig.after_s(1)).expect("the shard answers");
}

/// Another head answers from now on, which has nothing of what was pushed before.
fn fail_over(rig: &mut Rig) {
    {
        let mut shard = rig.shards[0].borrow_mut();
        shard.rows.clear();
        shard.applied.clear();
        shard.kinds.clear();
    }
    rig.reconnect(0);
}

#[test]
fn a_push_that_only_the_head_has_acknowledged_is_sent_to_the_next_one_before_it_is_asked() {
    let mut rig = rig();
    push(&mut rig, 7, Then::More);
    push(&mut rig, 8, Then::More);
    fail_over(&mut rig);
    assert_eq!((rig.session.counts().pushes_again, rig.session.pushes_outstanding()), (2, 2));
    let split = rig.session.split(&[7, 8]).expect("sorted");
    let ticket = rig.session.pull(TABLE, &split, 1).expect("there is room");
    let values = rig.session.wait_pull(ticket, rig.after_s(1)).expect("the shard answers");
    assert_eq!(values.as_slice(), [1.0, 1.0]);
    rig.session.recycle(values);
    assert_eq!(rig.shards[0].borrow().kinds, [Kind::Push, Kind::Push, Kind::Pull]);
    rig.session.tick().expect("there is room");
    rig.session.wait_pushes(0, rig.after_s(1)).expect("the shard answers");
    // The third was acknowledged by the tail, and so it has those before.
    fail_over(&mut rig);
    assert_eq!((rig.session.counts().pushes_again, rig.session.pushes_outstanding()), (2, 0));
}

#[test]
fn a_push_that_a_head_forgets_again_and_again_is_sent_to_each_next_one() {
    let mut rig = rig();
    push(&mut rig, 7, Then::More);
    for _ in 0..3 {
        fail_over(&mut rig);
        rig.session.wait_pushes(0, rig.after_s(1)).expect("the shard answers");
        assert_eq!(rig.rows(), BTreeMap::from([(7, vec![1.0])]));
    }
    assert_eq!(rig.session.counts().pushes_again, 3);
}

#[test]
fn a_buffer_of_deltas_comes_back_once_the_tail_has_them() {
    let mut rig = rig();
    let split = rig.session.split(&[7]).expect("sorted");
    let deltas = rig.session.deltas_buffer(1);
    let memory = deltas.as_ptr();
    rig.session.push(TABLE, &split, deltas, 1, Then::More).expect("there is room");
    rig.session.wait_pushes(0, rig.after_s(1)).expect("the shard answers");
    assert_ne!(rig.session.deltas_buffer(1).as_ptr(), memory, "it may be sent again");
    rig.session.tick().expect("there is room");
    rig.session.wait_pushes(0, rig.after_s(1)).expect("the shard answers");
    assert_eq!(rig.session.deltas_buffer(1).as_ptr(), memory);
}

#[test]
fn who_pushes_on_without_a_tick_keeps_a_bounded_number() {
    let mut rig = rig();
    for key in 0..200 {
        push(&mut rig, key, Then::More);
    }
    let at_tail = rig.shards[0].borrow().at_tail;
    assert!((3..20).contains(&at_tail), "{at_tail} of 200 asked for the tail's word");
    fail_over(&mut rig);
    let again = rig.session.counts().pushes_again;
    assert!((1..=32).contains(&again), "{again} were kept");
}

#[test]
fn a_pull_waits_for_what_is_sent_again_though_that_gets_lost_on_its_way() {
    let mut rig = rig();
    push(&mut rig, 7, Then::More);
    fail_over(&mut rig);
    rig.world.set_faults(Faults { loss_per_mille: 1000, ..Faults::NONE });
    rig.session.poll().expect("all is well");
    rig.world.set_faults(Faults::NONE);
    let split = rig.session.split(&[7]).expect("sorted");
    let ticket = rig.session.pull(TABLE, &split, 1).expect("there is room");
    let values = rig.session.wait_pull(ticket, rig.after_s(10)).expect("the shard answers");
    assert_eq!(values.as_slice(), [1.0]);
    assert_eq!(rig.session.counts().resends, 1, "nothing was lost: this proves nothing");
    rig.session.recycle(values);
}

#[test]
fn the_tails_word_for_what_was_sent_before_an_answer_lets_nothing_go() {
    let mut rig = rig();
    let split = rig.session.split(&[7]).expect("sorted");
    rig.session.push(TABLE, &split, Rc::new(vec![1.0]), 1, Then::More).expect("there is room");
    // A head may have had the tick first: then the tail may have that and lack the push.
    rig.session.tick().expect("there is room");
    rig.session.wait_pushes(0, rig.after_s(1)).expect("the shard answers");
    fail_over(&mut rig);
    assert_eq!(rig.session.counts().pushes_again, 1);
}
