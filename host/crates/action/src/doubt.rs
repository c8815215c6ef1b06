//! What to do with a request that a crash left unanswered. Pure.
//!
//! A plugin can't change the world without a begun row in the ledger, so the ledger tells what may have
//! happened: no row, nothing happened.

use db::ledger::{Entry, LedgerRow};

/// What a manifest says of repeating an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Twice is the same as once.
    Idempotent,
    /// Twice is seen but does no harm, such as a chat message: at least once.
    Harmless,
    /// Never without knowing.
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing can have happened, or repeating is as good as once.
    Execute,
    /// Ask the plugin whether it happened.
    Probe,
    /// A person has to decide.
    Park,
}

/// Begun rows that no settled row ends.
pub fn unsettled(rows: &[LedgerRow]) -> Vec<i64> {
    let settled: Vec<i64> = rows.iter().filter_map(|row| row.begun).collect();
    rows.iter().filter(|row| row.entry == Entry::Begun && !settled.contains(&row.id)).map(|row| row.id).collect()
}

/// Whether any effect of the request may have reached the world: begun, and not settled as "not-done".
fn may_have_happened(rows: &[LedgerRow]) -> bool {
    rows.iter()
        .filter(|row| row.entry == Entry::Begun)
        .any(|begun| !rows.iter().any(|row| row.begun == Some(begun.id) && row.body["status"] == "not-done"))
}

pub fn next(rows: &[LedgerRow], can_probe: bool, repeat: Repeat) -> Next {
    match (may_have_happened(rows), can_probe, repeat) {
        (false, _, _) => Next::Execute,
        (true, true, _) => Next::Probe,
        (true, false, Repeat::Idempotent | Repeat::Harmless) => Next::Execute,
        (true, false, Repeat::Never) => Next::Park,
    }
}

/// After a probe that could not tell.
pub fn next_if_unknown(repeat: Repeat) -> Next {
    match repeat {
        Repeat::Idempotent | Repeat::Harmless => Next::Execute,
        Repeat::Never => Next::Park,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Timestamp;

    fn row(id: i64, entry: Entry, begun: Option<i64>, status: &str) -> LedgerRow {
        let body = serde_json::json!({ "status": status });
        LedgerRow { id, at: Timestamp(0), entry, begun, request: None, body, hash: String::new() }
    }

    #[test]
    fn without_a_begun_row_nothing_happened() {
        for repeat in [Repeat::Idempotent, Repeat::Harmless, Repeat::Never] {
            assert_eq!(next(&[], true, repeat), Next::Execute);
            assert_eq!(next(&[row(1, Entry::Refused, None, "")], false, repeat), Next::Execute);
        }
    }

    #[test]
    fn a_begun_effect_is_probed_when_the_plugin_can() {
        let rows = [row(1, Entry::Begun, None, "")];
        assert_eq!(unsettled(&rows), [1]);
        for repeat in [Repeat::Idempotent, Repeat::Harmless, Repeat::Never] {
            assert_eq!(next(&rows, true, repeat), Next::Probe);
        }
    }

    #[test]
    fn without_a_probe_only_what_is_harmless_is_repeated() {
        let rows = [row(1, Entry::Begun, None, "")];
        assert_eq!(next(&rows, false, Repeat::Harmless), Next::Execute);
        assert_eq!(next(&rows, false, Repeat::Never), Next::Park);
        assert_eq!(next_if_unknown(Repeat::Idempotent), Next::Execute);
        assert_eq!(next_if_unknown(Repeat::Never), Next::Park);
    }

    #[test]
    fn an_effect_that_was_done_before_the_answer_was_stored_is_not_simply_repeated() {
        let rows = [row(1, Entry::Begun, None, ""), row(2, Entry::Settled, Some(1), "done")];
        assert_eq!(unsettled(&rows), Vec::<i64>::new());
        assert_eq!(next(&rows, false, Repeat::Never), Next::Park);
        let rows = [row(1, Entry::Begun, None, ""), row(2, Entry::Settled, Some(1), "not-done")];
        assert_eq!(next(&rows, false, Repeat::Never), Next::Execute);
    }
}
