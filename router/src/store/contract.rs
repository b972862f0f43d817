//! One contract for all engines: a table of named cases, each a rule of how stored pushes are kept, and a
//! model test of random operations against the plain reference.

mod appends;
pub(crate) mod desk;
mod groups;
mod model;
mod reads;
mod sessions;

pub(crate) use desk::Desk;
pub(crate) use model::{Dice, run_model};

use super::Store;
use std::pin::Pin;
use std::sync::Arc;

/// An engine under test.
#[tonic::async_trait]
pub(crate) trait Harness: Send {
    /// The store as it is now; another one after each [`Harness::restart`].
    fn store(&self) -> Arc<dyn Store>;

    /// Ends the engine in good order and starts it again on what it kept, as another incarnation.
    async fn restart(&mut self);
}

type Case =
    for<'desk, 'house> fn(&'desk mut Desk<'house>) -> Pin<Box<dyn Future<Output = ()> + 'desk>>;

macro_rules! table {
    ($($part:ident: $($case:ident,)+;)+) => {
        &[$($((stringify!($case), |desk| Box::pin($part::$case(desk))),)+)+]
    };
}

#[rustfmt::skip]
const CASES: &[(&str, Case)] = table! {
    sessions:
        a_claim_raises_the_epoch_above_the_clock_and_the_last_one,
        the_same_claim_again_gets_the_same_answer,
        an_old_login_that_comes_late_is_refused,
        another_installation_takes_the_session_over,
        a_release_keeps_instance_and_attempt,
        a_release_by_anyone_else_changes_nothing,
        a_route_is_forgotten_a_day_after_its_release,
        a_session_in_use_is_not_forgotten,
        an_announcement_is_taken_in_place,
        an_announcement_of_an_older_session_is_superseded,
        an_announcement_after_a_release_is_taken,
        an_announcement_raises_the_term_above_what_was_sent,
        a_superseded_session_can_do_nothing,
        a_session_that_the_store_does_not_know_is_forgotten,
        a_cursor_trims,
        a_cursor_ahead_is_believed_and_all_that_follows_lies_above_it,
        a_cursor_for_an_unknown_inbox_is_believed,
        an_absurd_cursor_is_refused,
        a_cursor_in_a_term_that_was_reached_is_believed_whatever_the_clock_says,
        the_change_of_term_is_told_again_to_a_login_that_asks_again,
        what_an_earlier_session_may_have_been_sent_is_flagged,
        a_takeover_flags_all_that_waits,
    ;
    appends:
        positions_follow_each_other,
        two_oks_for_one_push_id_name_one_position,
        a_push_id_used_for_something_else_is_found,
        a_push_id_is_forgotten_after_the_window_and_not_before,
        a_push_id_counts_per_business_and_device,
        what_is_over_before_it_is_stored_is_refused_and_leaves_no_trace,
        the_owner_comes_from_the_same_step,
        another_incarnation_begins_a_term_above_all_that_was_given_out,
        a_restart_loses_nothing_and_repeats_nothing,
        a_clock_set_back_gives_no_position_twice,
        the_newest_of_one_kind_stays,
        a_collapsed_entry_in_the_middle_is_told,
        a_full_inbox_lets_the_oldest_go_and_says_so,
        a_full_inbox_that_refuses_says_overflow_and_keeps_all,
        bytes_count_as_entries_do,
        an_entry_above_the_bound_alone_is_refused_and_nothing_leaves,
        the_lowest_priority_leaves_first,
        a_low_one_does_not_push_out_a_higher_one,
        a_replaced_entry_makes_room_for_its_successor,
        entries_that_are_over_make_room_wherever_they_stand,
        smaller_caps_take_effect_with_the_next_append,
        an_inbox_is_forgotten_in_the_end_and_begins_above,
    ;
    reads:
        entries_come_in_order_and_in_pages,
        a_large_entry_comes_alone,
        only_tail_and_floor_are_told_when_nothing_is_asked_for,
        an_acknowledgement_trims_and_a_lower_one_does_nothing,
        an_acknowledgement_ahead_of_the_store_is_believed,
        an_absurd_acknowledgement_changes_nothing,
        what_was_acknowledged_is_never_called_lost,
        what_is_over_is_passed_by_and_told,
        an_inbox_whose_end_is_gone_says_so,
        a_purge_empties_and_the_device_is_told,
        a_sweep_tells_of_what_waits,
        a_sweep_acknowledges,
        describe_counts,
        inboxes_of_devices_and_businesses_are_apart,
    ;
    groups:
        groups_are_listed_by_owner_in_order_and_by_page,
        all_groups_are_there_after_a_restart,
        a_new_history_is_empty_and_not_at_the_start,
        a_history_is_kept_within_its_bounds,
        a_history_goes_on_after_a_restart,
        a_group_without_a_history_takes_nothing,
        a_deleted_group_takes_its_history_along,
        a_history_forgets_what_is_too_old,
        a_history_knows_push_ids,
    ;
};

/// Holds an engine to every case.
pub(crate) async fn run_cases(harness: &mut dyn Harness) {
    for (name, case) in CASES {
        eprintln!("case {name}");
        case(&mut Desk::new(harness, name)).await;
    }
}
