//! What a claim found decides what happens next.

use super::event::Fingerprint;
use super::input::{LedgerRow, LedgerState};
use super::record::Coordinates;

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
    /// The record that the identity belongs to was given up on: this one may take it from there, if nobody did meanwhile.
    Dead,
    /// The identity belongs to other content.
    Conflict,
}

/// The table of ARCHITECTURE.md, "What a claim finds", for a record of these coordinates and this content. The row is ours when it
/// names our coordinates.
#[must_use]
pub fn judge(row: &LedgerRow, topic: &str, ours: Coordinates, fingerprint: Fingerprint) -> Verdict {
    let is_ours = row.holder.is(topic, ours);
    let same_content = row.fingerprint == fingerprint;
    let theirs = row.holder.coordinates;
    let comes_no_later =
        &*row.holder.topic == topic && theirs.partition == ours.partition && theirs.offset >= ours.offset;
    match row.state {
        LedgerState::Claimed if is_ours && row.inserted => Verdict::Fresh,
        LedgerState::Claimed if is_ours => Verdict::Takeover,
        // Whatever its content: how the holder ends decides.
        LedgerState::Claimed => Verdict::Busy,
        // This very record, or an older copy than the one that died.
        LedgerState::Dead if comes_no_later && same_content => Verdict::Duplicate,
        LedgerState::Dead => Verdict::Dead,
        LedgerState::Done | LedgerState::Parked | LedgerState::Uncertain if same_content => Verdict::Duplicate,
        LedgerState::Done | LedgerState::Parked | LedgerState::Uncertain => Verdict::Conflict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::effect::Serial;
    use crate::core::input::{Holder, RowAddress};
    use crate::core::record::{Epoch, Offset, Partition};

    #[test]
    fn every_cell_of_the_table() {
        use LedgerState::{Claimed, Dead, Done, Parked, Uncertain};
        let holder = |topic: &str, partition, offset| Holder {
            topic: topic.into(),
            coordinates: Coordinates { partition: Partition(partition), offset: Offset(offset) },
            epoch: Epoch(1),
            serial: Serial(1),
        };
        let (ours, later, earlier) = (holder("t", 0, 5), holder("t", 0, 6), holder("t", 0, 4));
        let (elsewhere, of_another_topic) = (holder("t", 1, 9), holder("u", 0, 9));
        let table = [
            (Claimed, &ours, true, true, Verdict::Fresh),
            (Claimed, &ours, true, false, Verdict::Takeover),
            (Claimed, &later, true, false, Verdict::Busy),
            (Claimed, &later, false, false, Verdict::Busy),
            (Parked, &ours, true, false, Verdict::Duplicate),
            (Parked, &later, true, false, Verdict::Duplicate),
            (Parked, &later, false, false, Verdict::Conflict),
            (Done, &ours, true, false, Verdict::Duplicate),
            (Done, &ours, false, false, Verdict::Conflict),
            (Done, &later, true, false, Verdict::Duplicate),
            (Done, &later, false, false, Verdict::Conflict),
            (Dead, &ours, true, false, Verdict::Duplicate),
            (Dead, &ours, false, false, Verdict::Dead),
            (Dead, &later, true, false, Verdict::Duplicate),
            (Dead, &later, false, false, Verdict::Dead),
            (Dead, &earlier, true, false, Verdict::Dead),
            (Dead, &elsewhere, true, false, Verdict::Dead),
            (Dead, &of_another_topic, true, false, Verdict::Dead),
            (Uncertain, &ours, true, false, Verdict::Duplicate),
            (Uncertain, &later, true, false, Verdict::Duplicate),
            (Uncertain, &later, false, false, Verdict::Conflict),
        ];
        let (content, foreign) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
        for (state, holder, same_content, inserted, expected) in table {
            let row = LedgerRow {
                state,
                holder: holder.clone(),
                fingerprint: if same_content { content } else { foreign },
                inserted,
                address: RowAddress::default(),
                starts: 0,
            };
            assert_eq!(judge(&row, &ours.topic, ours.coordinates, content), expected, "{row:?}");
        }
    }
}
