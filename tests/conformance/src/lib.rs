//! One suite over every transport: what `transport::Transport` promises, law by law.
//!
//! Owns the laws, each a function whose name is the sentence it proves, and the rigs that open and
//! join a back end's endpoints. Which laws a back end must keep is chosen by the suites below:
//! all of them by every one, those that need a second thread or process where there can be one.
//!
//! Lanes by RDMA, and the faults that break them, have tests and rigs of their own ([`lanes`]).
//!
//! Invariant: a law knows a back end by its [`rig::Rig`] only.
#![forbid(unsafe_code)]

pub mod far;
pub mod lanes;
pub mod laws;
pub mod message;
pub mod node;
pub mod rig;

/// Makes a test of each law named. `$rig` gives a `Result` of a rig or of the reason why this
/// machine has none; then the tests say by name that they were skipped.
#[macro_export]
macro_rules! laws {
    ($rig:expr; $($room:ident { $($law:ident)* })*) => {
        $($(
            #[test]
            fn $law() {
                match $rig {
                    Ok(rig) => $crate::laws::$room::$law(&rig),
                    Err(reason) => eprintln!("SKIPPED: {}: {reason}", stringify!($law)),
                }
            }
        )*)*
    };
}

/// The laws of every back end: both ends are polled by one thread.
#[macro_export]
macro_rules! suite {
    ($rig:expr) => {
        $crate::laws! { $rig;
            order {
                every_message_arrives_once_whole_and_in_order
                the_shortest_and_the_longest_message_arrive_whole
                slots_posted_in_any_order_arrive_in_the_order_of_acquisition
                a_cancelled_or_dropped_slot_vanishes
                a_message_cut_shorter_arrives_cut
                slots_are_released_in_any_order
                every_slot_begins_at_a_multiple_of_64
                one_flush_sends_all_that_was_posted_to_every_peer
                every_posted_byte_is_counted_once
            }
            credit {
                a_message_over_the_limit_is_refused_with_both_numbers
                acquired_bytes_are_bounded_and_come_back_when_cancelled
                a_peer_that_releases_nothing_stops_its_sender_and_a_release_lets_it_go_on
                a_peer_that_is_not_polled_does_not_hold_up_another
                both_sides_send_100_megabytes_at_once_and_neither_waits_forever
            }
            close {
                a_close_gives_one_closed_event_on_each_side
                slots_received_before_a_close_stay_readable
                slots_acquired_before_a_close_may_be_posted_and_go_nowhere
                a_transport_that_is_dropped_is_reported_closed_to_its_peers
                a_peer_that_is_closed_or_unknown_gets_no_slot
                a_new_connection_after_a_close_has_a_new_number_and_works
                closing_one_peer_leaves_the_others
            }
            garbage {
                bytes_that_are_no_message_harm_no_other_peer
                a_message_longer_than_the_receiver_allows_harms_no_other_peer
            }
            park {
                the_clock_never_goes_back_and_a_park_ends_by_its_deadline
                a_message_ends_a_park
                a_waker_that_woke_before_ends_the_next_park
            }
        }
    };
}

/// The laws of every back end whose ends may lie in two threads.
#[macro_export]
macro_rules! suite_of_threads {
    ($rig:expr) => {
        $crate::laws! { $rig;
            threads {
                an_echo_from_another_thread_returns_every_message_whole_and_in_order
                no_wake_up_is_lost_between_two_threads_that_sleep_whenever_they_can
                a_release_in_another_thread_wakes_a_sender_out_of_credit
                a_waker_in_another_thread_ends_a_park
                two_threads_send_100_megabytes_to_each_other_at_once
                a_thread_that_ends_without_a_word_is_reported_closed
            }
        }
    };
}

/// The laws of every back end whose ends may lie in two processes. They start the test binary
/// again, as the far end.
#[macro_export]
macro_rules! suite_of_processes {
    ($rig:expr) => {
        $crate::laws! { $rig;
            processes {
                an_echo_from_another_process_returns_every_message_whole_and_in_order
                two_processes_send_100_megabytes_to_each_other_at_once
                a_process_that_is_killed_is_reported_closed
            }
        }

        /// Not a law: the far end of the laws above, which start this binary again to run it.
        #[test]
        fn far_process() {
            if let (Some(order), Ok(rig)) = ($crate::far::order(), $rig) {
                $crate::far::obey(&rig, &order);
            }
        }
    };
}

/// The laws of every back end that reads messages out of a stream of bytes.
#[macro_export]
macro_rules! suite_of_streams {
    ($rig:expr) => {
        $crate::laws! { $rig;
            stream {
                a_message_that_comes_in_any_pieces_arrives_whole
                many_messages_in_one_write_arrive_one_by_one
                a_stream_that_ends_inside_a_message_is_closed_and_gives_no_message
                random_bytes_never_give_a_message_and_end_with_a_malformed_fault
            }
        }
    };
}
