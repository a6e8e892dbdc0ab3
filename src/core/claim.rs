//! What a claim found decides what happens next.

use super::event::Fingerprint;
use super::input::{LedgerRow, LedgerState};

/// What to do with a copy of an identity, given the ledger's row after its claim.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The claim is ours, and this is the first copy that holds it.
    Fresh,
    /// The claim is ours; an owner before us may have begun the delivery.
    Takeover,
    /// Another copy holds the claim: wait and claim again.
    Busy,
    /// The identity is settled, or will be by another.
    Duplicate,
    /// The identity belongs to other content.
    Conflict,
}

/// The table of ARCHITECTURE.md, "What a claim finds". The row is ours when it names our coordinates.
#[must_use]
pub fn judge(row: &LedgerRow, is_ours: bool, fingerprint: Fingerprint) -> Verdict {
    let same_content = row.fingerprint == fingerprint;
    match row.state {
        LedgerState::Claimed if is_ours && row.inserted => Verdict::Fresh,
        LedgerState::Claimed if is_ours => Verdict::Takeover,
        // Whatever its content: how the holder ends decides.
        LedgerState::Claimed => Verdict::Busy,
        // This very record, or an older copy than the one that died: the statement would have claimed a later one.
        LedgerState::Dead => Verdict::Duplicate,
        LedgerState::Done | LedgerState::Parked | LedgerState::Uncertain if same_content => Verdict::Duplicate,
        LedgerState::Done | LedgerState::Parked | LedgerState::Uncertain => Verdict::Conflict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::effect::Serial;
    use crate::core::input::Holder;
    use crate::core::record::{Coordinates, Epoch, Offset, Partition};

    #[test]
    fn every_cell_of_the_table() {
        use LedgerState::{Claimed, Dead, Done, Parked, Uncertain};
        let holder = |offset| Holder {
            topic: "t".into(),
            coordinates: Coordinates { partition: Partition(0), offset: Offset(offset) },
            epoch: Epoch(1),
            serial: Serial(1),
        };
        let (ours, other) = (holder(5), holder(6));
        let table = [
            (Claimed, &ours, true, true, Verdict::Fresh),
            (Claimed, &ours, true, false, Verdict::Takeover),
            (Claimed, &other, true, false, Verdict::Busy),
            (Claimed, &other, false, false, Verdict::Busy),
            (Parked, &ours, true, false, Verdict::Duplicate),
            (Parked, &other, true, false, Verdict::Duplicate),
            (Parked, &other, false, false, Verdict::Conflict),
            (Done, &ours, true, false, Verdict::Duplicate),
            (Done, &ours, false, false, Verdict::Conflict),
            (Done, &other, true, false, Verdict::Duplicate),
            (Done, &other, false, false, Verdict::Conflict),
            (Dead, &ours, true, false, Verdict::Duplicate),
            (Dead, &other, true, false, Verdict::Duplicate),
            (Dead, &other, false, false, Verdict::Duplicate),
            (Uncertain, &ours, true, false, Verdict::Duplicate),
            (Uncertain, &other, true, false, Verdict::Duplicate),
            (Uncertain, &other, false, false, Verdict::Conflict),
        ];
        let (content, foreign) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
        for (state, holder, same_content, inserted, expected) in table {
            let row = LedgerRow {
                state,
                holder: holder.clone(),
                fingerprint: if same_content { content } else { foreign },
                inserted,
                starts: 0,
            };
            assert_eq!(judge(&row, *holder == ours, content), expected, "{row:?}");
        }
    }
}
