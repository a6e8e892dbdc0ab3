//! Processes and their partitions: they come, freeze, stop and die, and partitions go from one to another.

use super::*;

/// A partition that Kafka has assigned, until its epoch is raised and its parked keys are read.
#[derive(Clone, Copy)]
pub(super) struct Raising {
    session: Session,
    start: Offset,
    raised: Option<Raised>,
}

/// One process: its engine and what is under way outside of it.
pub(super) struct Worker {
    pub(super) owner: u64,
    pub(super) engine: Engine,
    /// As the group knows them.
    pub(super) sessions: HashMap<Partition, Session>,
    pub(super) raising: BTreeMap<Partition, Raising>,
    pub(super) epochs: HashMap<Partition, Epoch>,
    pub(super) positions: HashMap<Partition, usize>,
    pub(super) claims: Vec<Vec<Claim>>,
    pub(super) yields: Option<Vec<Settlement>>,
    pub(super) starts: Option<Vec<Start>>,
    pub(super) settlements: Vec<Vec<Settlement>>,
    pub(super) parkings: Option<Vec<Parking>>,
    pub(super) burials: Option<Vec<DeadLetter>>,
    pub(super) load: Option<Vec<ParkedKey>>,
    /// What was read of those that are due.
    pub(super) replays: Option<Vec<ReplayRow>>,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) questions: Vec<Effect>,
    /// Nothing reaches it until then.
    pub(super) frozen_until: Option<Now>,
    /// Partitions that went to others while it stood still.
    pub(super) lost: Vec<Partition>,
    pub(super) is_leaving: bool,
    /// Rows that left the table by a statement whose answer it has not heard.
    pub(super) unheard: u64,
}

impl Worker {
    pub(super) fn new(seed: u64, story: Story) -> Self {
        let mut engine = Engine::new(story.engine_config(seed));
        // As if it had run for long, or had just begun: what one process counts says nothing to another.
        engine.serial = Serial(1_000_000 * (seed % 4));
        // So small that two are under way at once.
        let rows = [1, 2, 4, EVERY_RECORD.rows][usize::try_from(seed / 4 % 4).unwrap()];
        let limits = BatchLimits { rows, ..EVERY_RECORD };
        (engine.claims, engine.settlements) = (BatchQueue::new(limits), BatchQueue::new(limits));
        Self {
            owner: seed,
            engine,
            sessions: HashMap::new(),
            raising: BTreeMap::new(),
            epochs: HashMap::new(),
            positions: HashMap::new(),
            claims: Vec::new(),
            yields: None,
            starts: None,
            settlements: Vec::new(),
            parkings: None,
            burials: None,
            load: None,
            replays: None,
            deliveries: Vec::new(),
            questions: Vec::new(),
            frozen_until: None,
            lost: Vec::new(),
            is_leaving: false,
            unheard: 0,
        }
    }

    /// Whether it goes on with what it decided about this identity, without asking the ledger first.
    pub(super) fn holds(&self, identity: &Identity) -> bool {
        let goes_on = |stage: Stage| match stage {
            Stage::Gated | Stage::Claiming | Stage::Busy { .. } | Stage::Behind | Stage::Settling => false,
            Stage::Claimed
            | Stage::Yielding
            | Stage::Ready
            | Stage::Starting
            | Stage::Delivering
            | Stage::Failing { .. }
            | Stage::Waiting { .. }
            | Stage::Parking
            | Stage::Burying { .. } => true,
        };
        self.deliveries.iter().any(|delivery| delivery.event.identity == *identity)
            || self.replays.iter().flatten().any(|replay| replay.row.identity == *identity)
            || self.engine.entries.values().any(|entry| entry.identity == *identity && goes_on(entry.stage))
    }
}

impl World {
    pub(super) fn begin_session(&mut self, partition: Partition, index: usize, start: Offset) {
        self.sessions += 1;
        let session = Session(self.sessions);
        self.workers[index].sessions.insert(partition, session);
        self.workers[index].raising.insert(partition, Raising { session, start, raised: None });
    }

    /// The epoch is raised, and then it is read what is parked.
    pub(super) fn answer_raise(&mut self, index: usize) {
        let raising: Vec<_> =
            self.workers[index].raising.iter().map(|(partition, raising)| (*partition, *raising)).collect();
        let Some((partition, Raising { session, start, raised })) = self.random.choice(raising) else { return };
        if self.statement_fails() {
            return self.raise_again(index, partition);
        }
        let Some(raised) = raised else {
            let raised = self.tables.raise(partition, self.workers[index].owner, start);
            let is_answered = !self.statement_fails();
            let raising = Raising { session, start, raised: Some(raised).filter(|_| is_answered) };
            self.workers[index].raising.insert(partition, raising);
            return;
        };
        let records = &self.log[number(partition)];
        let position = records.iter().position(|record| record.coordinates.offset >= start).unwrap_or(records.len());
        self.workers[index].raising.remove(&partition);
        self.workers[index].epochs.insert(partition, raised.epoch);
        self.workers[index].positions.insert(partition, position);
        let parked = self.tables.parked_keys(self.now, partition);
        self.input(index, Input::Assigned { partition, session, start, raised, parked });
    }

    /// The raise was given up, or the reading after it.
    fn raise_again(&mut self, index: usize, partition: Partition) {
        self.give_up_raise(index, partition);
        if let Some(raising) = self.workers[index].raising.get_mut(&partition) {
            raising.raised = None;
        }
    }

    /// One that is under way may be carried out later.
    fn give_up_raise(&mut self, index: usize, partition: Partition) {
        let worker = &self.workers[index];
        let under_way = worker.raising.get(&partition).filter(|raising| raising.raised.is_none());
        let late = under_way.map(|raising| Late::Raise { partition, owner: worker.owner, start: raising.start });
        // Where only deadly orders end owners, nothing fences one.
        if let Some(late) = late.filter(|_| !self.story.is_deadly()) {
            self.comes_late(late);
        }
    }

    pub(super) fn assign(&mut self, partition: usize, index: usize) {
        if self.owners[partition].is_some() || self.workers[index].is_leaving {
            return;
        }
        self.owners[partition] = Some(index);
        // That comes first.
        self.tell_lost(index);
        let records = &self.log[partition];
        let end = || records.last().map_or(Offset(0), |record| record.coordinates.offset.next());
        let start = records.get(self.committed[partition]).map_or_else(end, |record| record.coordinates.offset);
        self.begin_session(name(partition), index, start);
    }

    pub(super) fn release(&mut self, index: usize, partition: Partition) {
        let worker = &mut self.workers[index];
        worker.sessions.remove(&partition);
        if let Some(epoch) = worker.epochs.remove(&partition) {
            if self.statement_fails() {
                self.comes_late(Late::EndClean(partition, epoch));
            } else {
                self.tables.end_clean(partition, epoch);
            }
        }
        self.owners[number(partition)] = None;
    }

    pub(super) fn poll(&mut self, partition: usize) {
        if self.story.has_full_parking() && self.is_calm && !self.is_initial_done() {
            self.produce_healthy(partition);
        }
        let Some(index) = self.owners[partition].filter(|index| !self.is_frozen(*index)) else { return };
        let name = name(partition);
        let count = self.random.usize(1..=POLL);
        let worker = &mut self.workers[index];
        if worker.raising.contains_key(&name) {
            return;
        }
        // Paused partitions are not fetched; a record too many would prove nothing less.
        let paused = worker.engine.stats().paused;
        let (Some(session), Some(position)) = (worker.sessions.get(&name), worker.positions.get_mut(&name)) else {
            return;
        };
        if let Some(cause) = paused {
            if cause == PauseCause::ParkedLimit {
                self.count("full");
            }
            return;
        }
        let records: Vec<Record> = self.log[partition].iter().skip(*position).take(count).cloned().collect();
        *position += records.len();
        let session = *session;
        self.input(index, Input::Polled { partition: name, session, records });
    }

    fn produce_healthy(&mut self, partition: usize) {
        let offset = self.log[partition].last().unwrap().coordinates.offset.next().0;
        let record = Story::healthy_record(name(partition), offset);
        self.know(&record);
        self.log[partition].push(record);
    }

    pub(super) fn pass_time(&mut self, index: usize) {
        self.now += Duration::from_millis(self.random.u64(0..1_500));
        if !self.is_frozen(index) {
            self.input(index, Input::Tick);
        }
    }

    /// What runs in a process that goes away may or may not have had its effect.
    pub(super) fn crash(&mut self, index: usize) {
        let under_way: Vec<_> = self.workers[index].engine.under_way().collect();
        let gone = self.replace(index);
        self.effects.extend(gone.deliveries.iter().map(|delivery| delivery.event.identity.clone()));
        // Notified and not settled counts as in flight: the claim of it is still open.
        let unsettled = gone.settlements.iter().flatten().map(|settlement| settlement.identity.clone());
        let running = gone.deliveries.iter().map(|delivery| delivery.event.identity.clone());
        for identity in unsettled.chain(running) {
            self.note_cut_off(identity);
        }
        self.note_unfinished(under_way.into_iter());
    }

    /// By a new process.
    fn replace(&mut self, index: usize) -> Worker {
        for owner in &mut self.owners {
            *owner = owner.filter(|owner| *owner != index);
        }
        for partition in 0..PARTITIONS {
            self.give_up_raise(index, name(partition));
        }
        let gone = std::mem::replace(&mut self.workers[index], Worker::new(self.random.u64(..), self.story));
        self.books.unheard += gone.unheard;
        self.leave_statements(index, &gone);
        gone
    }

    fn note_unfinished(&mut self, under_way: impl Iterator<Item = (Coordinates, Identity, bool)>) {
        for (_, identity, may_have_had_its_effect) in under_way {
            *self.unfinished.entry(identity.clone()).or_default() += 1;
            if may_have_had_its_effect {
                self.note_cut_off(identity);
            }
        }
    }

    /// The session of this partition ends: what it has on its way may have its effect, and is somebody else's by then.
    fn note_end_of_session(&mut self, index: usize, partition: Partition) {
        let under_way: Vec<_> = self.workers[index].engine.under_way().collect();
        self.note_unfinished(under_way.into_iter().filter(|(at, ..)| at.partition == partition));
    }

    pub(super) fn lose(&mut self, partition: usize) {
        let Some(index) = self.owners[partition].take() else { return };
        let name = name(partition);
        self.workers[index].sessions.remove(&name);
        self.workers[index].epochs.remove(&name);
        self.give_up_raise(index, name);
        self.workers[index].raising.remove(&name);
        self.note_end_of_session(index, name);
        if self.is_frozen(index) {
            return self.workers[index].lost.push(name);
        }
        self.input(index, Input::Lost { partitions: vec![name] });
    }

    pub(super) fn revoke(&mut self, partition: usize) {
        let Some(index) = self.owners[partition].filter(|index| !self.is_frozen(*index)) else { return };
        self.note_end_of_session(index, name(partition));
        self.give_up_raise(index, name(partition));
        if self.workers[index].raising.remove(&name(partition)).is_some() {
            return self.release(index, name(partition));
        }
        let deadline = self.now + Duration::from_secs(self.random.u64(0..5));
        self.input(index, Input::Revoking { partitions: vec![name(partition)], deadline });
    }

    /// An owner of long ago, whose raise comes only now.
    pub(super) fn raise_late(&mut self, partition: usize) {
        let position = self.random.usize(0..=self.committed[partition]);
        let start = self.log[partition].get(position).map_or(Offset(0), |record| record.coordinates.offset);
        let owner = self.random.u64(..);
        self.raise_by(name(partition), owner, start);
    }

    /// Whoever owns the partition is fenced.
    pub(super) fn raise_by(&mut self, partition: Partition, owner: u64, start: Offset) {
        if let Some(index) = self.owners[number(partition)] {
            self.note_end_of_session(index, partition);
        }
        self.tables.raise(partition, owner, start);
    }

    /// It stands still while it works; the group may give its partitions to others meanwhile.
    pub(super) fn freeze(&mut self, index: usize) {
        self.workers[index].frozen_until = Some(self.now + Duration::from_secs(self.random.u64(5..12)));
        if self.random.bool() {
            for partition in 0..PARTITIONS {
                if self.owners[partition] == Some(index) {
                    self.lose(partition);
                }
            }
        }
    }

    pub(super) fn is_frozen(&self, index: usize) -> bool {
        self.workers[index].frozen_until.is_some_and(|until| self.now < until)
    }

    /// What comes first when it wakes may be anything; that it lost its partitions it learns some time.
    pub(super) fn tell_lost(&mut self, index: usize) {
        let partitions = std::mem::take(&mut self.workers[index].lost);
        // One that it has again by now was lost before that.
        let partitions: Vec<_> =
            partitions.into_iter().filter(|lost| !self.workers[index].sessions.contains_key(lost)).collect();
        // What it began since counts as cut off then.
        for partition in &partitions {
            self.note_end_of_session(index, *partition);
        }
        if !partitions.is_empty() {
            self.input(index, Input::Lost { partitions });
        }
    }

    pub(super) fn shut_down(&mut self, index: usize) {
        let deadline = self.now + Duration::from_secs(self.random.u64(0..5));
        self.workers[index].is_leaving = true;
        self.count("shut down");
        for partition in 0..PARTITIONS {
            self.note_end_of_session(index, name(partition));
        }
        self.input(index, Input::Shutdown { deadline });
    }

    /// One that was asked to stop ends when it holds nothing any more.
    pub(super) fn end_if_idle(&mut self, index: usize) {
        if self.workers[index].is_leaving && self.workers[index].engine.is_idle() {
            let gone = self.replace(index);
            assert!(gone.deliveries.is_empty(), "seed {}: a delivery runs in a process that has ended", self.seed);
        }
    }
}
