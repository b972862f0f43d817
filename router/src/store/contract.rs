//! One contract for all engines: a table of named cases, each a rule of how stored pushes are kept, and a
//! model test of random operations against the plain reference.

mod appends;
pub(crate) mod desk;
mod events;
mod groups;
mod model;
mod nodes;
mod reads;
mod routers;
mod sessions;

pub(crate) use desk::Desk;
pub(crate) use model::{Dice, run_model};

use super::Store;
use std::pin::Pin;
use std::sync::Arc;

/// An engine under test.
#[tonic::async_trait]
pub(crate) trait Harness: Send + Sync {
    /// The store as it is now; another one after each [`Harness::restart`].
    fn store(&self) -> Arc<dyn Store>;

    /// Ends the engine in good order and starts it again on what it kept, as another incarnation.
    async fn restart(&mut self);

    /// The same store as another router has it; engines with one router give the same again. To be dropped
    /// before a restart.
    async fn other(&self) -> Arc<dyn Store> {
        self.store()
    }

    /// Whether several routers may have it.
    fn is_shared(&self) -> bool;
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
        an_announcement_after_a_release_is_taken_under_a_new_epoch,
        a_raised_session_is_known_by_the_epoch_of_before,
        an_announcement_of_an_older_node_keeps_its_epoch,
        a_claim_goes_above_only_while_it_is_the_session,
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
    events:
        a_login_that_is_watched_is_marked_and_due,
        a_login_that_nobody_watches_is_not_due,
        what_was_heard_is_not_due_again_and_the_end_is,
        the_end_is_due_of_whatever_a_business_may_have_heard,
        a_takeover_is_due_in_order,
        a_login_for_other_businesses_marks_the_device_too,
        a_lost_node_is_said_to_be_lost,
        a_session_whose_end_was_lost_has_ended_like_any_other,
        an_announcement_is_due,
        an_older_confirmation_changes_nothing,
        a_confirmation_of_a_session_that_is_not_known_changes_nothing,
        what_is_due_survives_a_restart,
        a_mark_goes_only_if_it_is_the_one_that_was_seen,
        marks_come_in_order_and_in_pages,
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
    routers:
        a_group_is_made_only_where_there_is_none,
        a_group_is_replaced_only_as_it_is_known,
        a_group_that_goes_on_keeps_its_history,
        a_group_is_deleted_only_as_it_is_known,
        a_history_is_that_of_the_very_group_alone,
        a_group_that_was_deleted_is_not_kept,
        changes_made_together_are_answered_each,
        of_two_routers_that_decide_at_once_one_wins,
        a_group_made_while_it_is_deleted_is_listed,
        what_one_router_changes_the_others_hear,
    ;
    nodes:
        one_boot_of_a_node_holds_its_lease,
        a_lease_ends_when_it_is_not_renewed,
        a_node_that_says_goodbye_has_no_lease,
        one_router_at_a_time_has_a_duty,
        a_claim_registers_and_a_release_lets_go,
        an_announcement_registers,
        a_takeover_moves_the_registration,
        what_is_registered_and_was_never_claimed_does_no_harm,
        a_lost_session_is_ended_once_and_only_where_it_is,
        the_sessions_of_a_boot_are_told_in_parts,
        a_walk_meets_all_that_stays_registered,
        a_session_that_its_node_does_not_know_is_ended_and_no_other,
        who_has_the_session_is_told_to_whoever_asks,
        whoever_has_a_session_is_registered,
    ;
};

/// Holds an engine to every case.
pub(crate) async fn run_cases(harness: &mut dyn Harness) {
    for (name, case) in CASES {
        eprintln!("case {name}");
        case(&mut Desk::new(harness, name)).await;
    }
}
