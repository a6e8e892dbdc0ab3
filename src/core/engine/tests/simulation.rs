//! Several engines against a naive Kafka and naive tables: random interleavings of polls, answers, lost answers, failures,
//! outages, rebalances, crashes, freezes and time. After each step the promises are asserted, at the end that all is told.

mod books;
mod channel;
mod promises;
mod rings;
mod statements;
mod stories;
mod workers;

use std::collections::{BTreeMap, HashMap, HashSet};

use super::tables::{Row, Tables};
use super::*;
use crate::core::decode::{Decoded, synthetic_identity};
use crate::core::effect::{DeadLetter, ParkedKey, Parking, Settlement, Start};
use crate::core::event::Fingerprint;
use crate::core::input::{LoadedLane, ReplayRow, Rest};
use crate::core::invariants;
use crate::core::key::LaneKey;
use books::Books;
use channel::{Failures, Gateway, is_event};
use statements::{Late, is_bad};
use stories::Story;
use workers::Worker;

const PARTITIONS: usize = 3;
const WORKERS: usize = 3;
const RECORDS: usize = 40;
const USERS: u64 = 3;
const MAX_ATTEMPTS: u32 = 2;
/// Steps of one seed before everything works again; more than a million in all.
const STEPS: usize = 1_500;
/// Records that are polled at once.
const POLL: usize = 4;

/// An identity, and what is said under it.
type Content = (Identity, Fingerprint);

struct World {
    story: Story,
    random: fastrand::Rng,
    now: Now,
    seed: u64,
    log: Vec<Vec<Record>>,
    /// What each record of the log says.
    contents: HashMap<Coordinates, Option<Content>>,
    lanes: HashMap<Coordinates, LaneKey>,
    committed: Vec<usize>,
    owners: Vec<Option<usize>>,
    tables: Tables,
    workers: Vec<Worker>,
    sessions: u64,
    gateway: Gateway,
    /// Durably notified or given up.
    settled: HashSet<Content>,
    /// Content that was notified, is parked or uncertain: no other may have its identity.
    kept: HashMap<Identity, HashSet<Fingerprint>>,
    notified: HashMap<Identity, usize>,
    told: HashSet<Content>,
    /// Identities whose delivery may rightly be repeated: an owner went away while it ran.
    cut_off: HashSet<Identity>,
    /// Those of them that are settled by now.
    done_late: HashSet<Identity>,
    ever_cut_off: HashSet<Identity>,
    /// Answers that spent an attempt.
    spent: HashMap<Identity, u32>,
    /// By worker: what another met is no evidence of this one.
    failures: HashMap<(usize, Identity), Failures>,
    /// Starts that were written.
    started: HashSet<Identity>,
    /// Deliveries that may have had their effect.
    effects: HashSet<Identity>,
    /// Ends of an owner that met the identity on its way.
    unfinished: HashMap<Identity, usize>,
    convicted: HashSet<Identity>,
    successes: Vec<(LaneKey, Now)>,
    late: Vec<Late>,
    books: Books,
    /// Rows of one answer.
    largest_load: usize,
    counts: BTreeMap<&'static str, usize>,
    is_calm: bool,
}

impl World {
    fn new(seed: u64, story: Story) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let log: Vec<Vec<Record>> =
            (0..PARTITIONS).map(|partition| stories::log(&mut random, name(partition))).collect();
        let mut world = Self {
            story,
            log: Vec::new(),
            contents: HashMap::new(),
            lanes: HashMap::new(),
            workers: (0..WORKERS).map(|number| Worker::new(seed ^ number as u64, story)).collect(),
            random: fastrand::Rng::with_seed(seed.wrapping_add(1)),
            now: Now::ZERO,
            seed,
            committed: vec![0; PARTITIONS],
            owners: vec![None; PARTITIONS],
            tables: Tables::new(ROWS_PER_KEY),
            sessions: 0,
            gateway: Gateway::Works,
            settled: HashSet::new(),
            kept: HashMap::new(),
            notified: HashMap::new(),
            told: HashSet::new(),
            cut_off: HashSet::new(),
            done_late: HashSet::new(),
            ever_cut_off: HashSet::new(),
            spent: HashMap::new(),
            failures: HashMap::new(),
            started: HashSet::new(),
            effects: HashSet::new(),
            unfinished: HashMap::new(),
            convicted: HashSet::new(),
            successes: Vec::new(),
            late: Vec::new(),
            books: Books::default(),
            largest_load: 0,
            counts: BTreeMap::new(),
            is_calm: false,
        };
        for record in log.iter().flatten() {
            world.know(record);
        }
        world.log = log;
        world
    }

    /// Notes what a record of the log says.
    fn know(&mut self, record: &Record) {
        let at = record.coordinates;
        self.contents.insert(at, stories::content(self.story, record));
        self.lanes.extend(stories::lane(self.story, record).map(|lane| (at, lane)));
    }

    fn step(&mut self) {
        let index = self.random.usize(0..WORKERS);
        let partition = self.random.usize(0..PARTITIONS);
        let is_frozen = self.is_frozen(index);
        match self.random.u8(0..150) {
            0..25 => self.poll(partition),
            98..100 => self.carry_out_late(),
            107..113 if self.is_calm => {}
            108 if self.story != Story::Deadly => self.lose(partition),
            109 if self.story != Story::Deadly => self.revoke(partition),
            110 if !self.story.is_deadly() => self.raise_late(partition),
            111 => self.turn_gateway(),
            95..98 if self.story.has_replays() && !is_frozen => self.replay(index),
            92..98 => self.pass_time(index),
            _ if is_frozen => {}
            25..45 => self.answer_claims(index),
            45..58 => self.answer_settlements(index),
            58..62 => self.answer_burials(index),
            62..67 => self.answer_parkings(index),
            67..72 => self.answer_load(index),
            72..92 => self.end_delivery(index),
            100..102 => self.answer_yields(index),
            102..107 => self.answer_starts(index),
            107 if self.story != Story::Deadly => self.crash(index),
            112 => self.disturb(index),
            113..119 => self.answer_question(index),
            119..121 => self.tell_lost(index),
            121..128 => self.assign(partition, index),
            _ => self.answer_raise(index),
        }
        self.end_if_idle(index);
        self.forget_cut_off();
        self.assert_parking_closes();
    }

    fn disturb(&mut self, index: usize) {
        match self.random.u8(0..4) {
            _ if self.story == Story::Deadly => {}
            0 if !self.workers[index].is_leaving => self.shut_down(index),
            1..3 => self.freeze(index),
            _ => {}
        }
    }

    fn input(&mut self, index: usize, input: Input) {
        let mut effects = Vec::new();
        self.workers[index].engine.handle(self.now, input, &mut effects);
        for effect in effects {
            self.perform(index, effect);
        }
        self.assert_bounded(index);
    }

    fn perform(&mut self, index: usize, effect: Effect) {
        let worker = &mut self.workers[index];
        let is_current = |worker: &Worker, partition, session| worker.sessions.get(&partition) == Some(&session);
        match effect {
            Effect::Claim(batch) => {
                worker.claims.push(batch);
                let several = worker.claims.len() > 1;
                self.count_if(several, "claims beside others");
            }
            Effect::Yield(batch) => assert!(worker.yields.replace(batch).is_none()),
            Effect::Start(batch) => assert!(worker.starts.replace(batch).is_none()),
            Effect::Done(batch) => {
                worker.settlements.push(batch);
                let several = worker.settlements.len() > 1;
                self.count_if(several, "settlements beside others");
            }
            Effect::Park(batch) => assert!(worker.parkings.replace(batch).is_none()),
            Effect::Dead(batch) => assert!(worker.burials.replace(batch).is_none()),
            Effect::LoadParked(keys) => assert!(worker.load.replace(keys).is_none()),
            Effect::Deliver(delivery) => self.start_delivery(index, delivery),
            Effect::Abort(ticket) => {
                let aborted = worker.deliveries.iter().position(|delivery| delivery.ticket == ticket).unwrap();
                let delivery = worker.deliveries.swap_remove(aborted);
                self.effects.insert(delivery.event.identity.clone());
                self.note_cut_off(delivery.event.identity.clone());
            }
            Effect::StoreOffset { partition, session, offset } if is_current(worker, partition, session) => {
                self.commit(partition, offset);
            }
            Effect::Release { partition, session } if is_current(worker, partition, session) => {
                self.release(index, partition);
            }
            Effect::Restart { partition, session, from } if is_current(worker, partition, session) => {
                self.begin_session(partition, index, from);
            }
            Effect::InspectHolder { .. } | Effect::ConfirmEpochs { .. } => worker.questions.push(effect),
            Effect::Report(report) => self.note(&report),
            Effect::StoreOffset { .. }
            | Effect::Release { .. }
            | Effect::Restart { .. }
            | Effect::Pause
            | Effect::Resume => {}
        }
    }

    fn note(&mut self, report: &Report) {
        let name = match report {
            Report::Ended { outcome: Outcome::Parked, .. } => "parked",
            Report::ReplayEnded { outcome: Outcome::Notified, .. } => "notified by replay",
            Report::ReplayEnded { outcome: Outcome::DeadLettered, .. } => "dead again",
            Report::ParkedEnded { outcome: Outcome::Notified, .. } => "notified from parking",
            Report::ParkedEnded { outcome: Outcome::DeadLettered, .. } => "dead from parking",
            Report::ExhaustedWithoutEvidence { .. } => "exhausted without evidence",
            // Where debug assertions are off, the engine only tells.
            Report::InvariantViolated { invariant, detail } => panic!("seed {}: {invariant}: {detail}", self.seed),
            Report::BreakerOpened { .. } => "breaker opened",
            Report::CrashLoop { .. } => "crash loops",
            Report::Frozen { .. } => "frozen",
            Report::Aborted { .. } => "aborted",
            _ => return,
        };
        if let Report::ParkedEnded { record, .. } | Report::ReplayEnded { record, .. } = report {
            let content = self.contents[&record.coordinates].clone();
            self.books.reported.extend(content.map(|(identity, _)| identity));
        }
        self.count(name);
    }

    fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }

    fn count_if(&mut self, happens: bool, name: &'static str) {
        if happens {
            self.count(name);
        }
    }

    fn answer_question(&mut self, index: usize) {
        let questions = &mut self.workers[index].questions;
        if questions.is_empty() {
            return;
        }
        // Any of them: the oldest may not wait for as long as others come.
        let question = questions.swap_remove(self.random.usize(0..questions.len()));
        match question {
            Effect::InspectHolder { ticket, holder } => {
                let partition = number(holder.coordinates.partition);
                let committed = self.log[partition].get(self.committed[partition]);
                let is_below = committed.is_none_or(|record| holder.coordinates.offset < record.coordinates.offset);
                let owner = self.tables.epoch(holder.coordinates.partition);
                let is_abandoned = is_below || owner.is_some_and(|owner| owner > holder.epoch);
                self.input(index, Input::HolderInspected { ticket, abandoned: is_abandoned.then_some(holder) });
            }
            Effect::ConfirmEpochs { freeze, partitions } => {
                let read = |(partition, epoch)| (partition, epoch, self.tables.epoch(partition) == Some(epoch));
                let epochs = partitions.into_iter().map(read).collect();
                self.input(index, Input::EpochsConfirmed { freeze, epochs });
            }
            other => panic!("{other:?} is no question"),
        }
    }

    fn leftovers(&self) -> String {
        let stats: Vec<_> = self.workers.iter().map(|worker| worker.engine.stats()).collect();
        let (committed, parked) = (&self.committed, self.tables.parked.keys());
        let held = self.workers.iter().flat_map(|worker| worker.engine.entries.values());
        let held: Vec<_> = held.map(|entry| (entry.record.coordinates, entry.stage, entry.attempts)).collect();
        format!("{held:?} {committed:?} of {RECORDS} committed, {parked:?} parked, {stats:#?}")
    }

    /// What was produced at first has ended.
    fn is_initial_done(&self) -> bool {
        self.committed.iter().all(|committed| *committed >= RECORDS) && self.tables.parked.is_empty()
    }

    fn is_done(&self) -> bool {
        (0..PARTITIONS).all(|partition| self.committed[partition] == self.log[partition].len())
            && self.tables.parked.is_empty()
            && self.workers.iter().all(|worker| worker.engine.stats().parked_rows == 0)
    }
}

fn name(partition: usize) -> Partition {
    Partition(i32::try_from(partition).unwrap())
}

fn number(partition: Partition) -> usize {
    usize::try_from(partition.0).unwrap()
}

fn run(seed: u64, story: Story) -> BTreeMap<&'static str, usize> {
    let mut world = World::new(seed, story);
    for _ in 0..STEPS {
        world.step();
    }
    world.is_calm = true;
    let mut calm_steps = 0;
    while !world.is_done() {
        world.step();
        calm_steps += 1;
        assert!(calm_steps < 200_000, "seed {seed}: {}", world.leftovers());
    }
    world.assert_all_told();
    world.counts.insert("calm steps", calm_steps);
    let mut counts = std::mem::take(&mut world.counts);
    counts.insert("quarantined", world.convicted.len());
    counts.insert("uncertain", world.uncertain());
    counts.insert("notified", world.notified.len());
    counts.insert("repeated", world.notified.values().filter(|count| **count > 1).count());
    counts
}

/// `HERALD_MODEL_STEPS` asks for that many of each story, with other seeds: `make model STEPS=10000000`. `HERALD_MODEL_SEED` asks
/// for one seed.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("HERALD_MODEL_SEED") {
        return seed..seed + 1;
    }
    let Some(steps) = number("HERALD_MODEL_STEPS") else { return 0..default };
    let first = fastrand::u64(0..1 << 40);
    println!("{steps} steps from seed {first}");
    first..first + steps.div_ceil(STEPS as u64)
}

/// Runs this many seeds. What never happens in a simulation is not proved by it: each of these things has to happen in one seed of
/// twenty, at least.
fn tell(story: Story, default: u64, happens: &[&str]) {
    let seeds = seeds(default);
    let expected = usize::try_from((seeds.end - seeds.start) / 20).unwrap();
    let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in seeds {
        for (name, count) in run(seed, story) {
            *totals.entry(name).or_default() += count;
        }
    }
    println!("{story:?} {totals:?}");
    for name in happens {
        let count = totals.get(name).copied().unwrap_or_default();
        assert!(count >= expected, "{name}: {totals:?}");
    }
}

#[test]
fn nothing_is_lost_and_nothing_settled_is_repeated_whatever_happens_in_between() {
    let happens = [
        "notified",
        "repeated",
        "parked",
        "notified from parking",
        "exhausted without evidence",
        "breaker opened",
        "crash loops",
        "conflicts",
        "bad data",
        "frozen",
        "shut down",
        "aborted",
        "late statements",
        "claims beside others",
        "settlements beside others",
    ];
    tell(Story::AtLeastOnce, 260, &happens);
}

#[test]
fn at_most_once_what_may_have_had_its_effect_is_never_repeated_and_only_that_is_uncertain() {
    let happens = [
        "late statements",
        "notified",
        "uncertain",
        "parked",
        "notified from parking",
        "breaker opened",
        "frozen",
        "shut down",
    ];
    tell(Story::AtMostOnce, 260, &happens);
}

#[test]
fn no_more_is_held_than_may_be_and_all_is_told() {
    tell(Story::SmallMemory, 40, &["notified", "parked", "breaker opened"]);
}

#[test]
fn long_lanes_keep_their_order_however_they_are_parked_and_read_in_parts() {
    tell(Story::LongLanes, 100, &["notified", "parked", "read in parts", "notified from parking", "dead from parking"]);
}

#[test]
fn a_worker_that_is_full_of_hopeless_records_goes_on_as_soon_as_the_channel_works_for_others() {
    let happens = ["notified", "parked", "dead from parking", "exhausted without evidence", "breaker opened", "full"];
    tell(Story::FullParking, 30, &happens);
}

#[test]
fn replays_keep_all_promises_whatever_happens_in_between() {
    tell(Story::Replays, 100, &["notified", "replays loaded", "replays cancelled", "notified by replay", "parked"]);
}

#[test]
fn replays_stand_in_nobodys_way_where_as_much_is_parked_as_may_be() {
    let happens = ["notified", "replays loaded", "dead again", "dead from parking", "breaker opened", "full"];
    tell(Story::ReplaysAndFullParking, 30, &happens);
}

#[test]
fn orders_that_abort_their_worker_are_quarantined_in_the_end_and_their_neighbours_never() {
    tell(Story::Deadly, 40, &["notified", "died", "quarantined", "crash loops", "parked"]);
}

#[test]
fn orders_that_abort_their_worker_are_found_out_among_workers_that_are_killed() {
    tell(Story::DeadlyAndKills, 40, &["notified", "died", "quarantined", "crash loops", "parked"]);
}
