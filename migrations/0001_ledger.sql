-- Text is compared and sorted by bytes (COLLATE "C"): cheap, and the same order everywhere, which the lock order relies on.
-- Kafka's partition and offset are kpartition and koffset: both words are taken in SQL.

CREATE TABLE partition_epochs (
    consumer_group text COLLATE "C" NOT NULL,
    topic          text COLLATE "C" NOT NULL,
    kpartition     integer NOT NULL,
    epoch          bigint NOT NULL,
    owner          text COLLATE "C" NOT NULL,
    clean_end      boolean NOT NULL,
    unclean_ends   integer NOT NULL DEFAULT 0,
    raised_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer_group, topic, kpartition)
) WITH (fillfactor = 50);

-- No index but the primary key, and room in every page: each settle is a HOT update.
CREATE TABLE processed_orders (
    claimed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_at     timestamptz,
    koffset        bigint NOT NULL,
    epoch          bigint NOT NULL,
    kpartition     integer NOT NULL,
    starts         smallint NOT NULL DEFAULT 0,
    -- A dead letter of this identity was written: a success has one to resolve, and pruning has one to look for.
    buried         boolean NOT NULL DEFAULT false,
    -- claimed, parked, done, dead (x), uncertain
    state          text COLLATE "C" NOT NULL CHECK (state IN ('c', 'p', 'd', 'x', 'u')),
    consumer_group text COLLATE "C" NOT NULL,
    order_id       text COLLATE "C" NOT NULL CHECK (octet_length(order_id) BETWEEN 1 AND 255),
    event_type     text COLLATE "C" NOT NULL CHECK (octet_length(event_type) BETWEEN 1 AND 128),
    topic          text COLLATE "C" NOT NULL,
    fingerprint    bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    PRIMARY KEY (consumer_group, order_id, event_type)
) WITH (fillfactor = 50);

CREATE TABLE parked_events (
    consumer_group  text COLLATE "C" NOT NULL,
    order_id        text COLLATE "C" NOT NULL,
    event_type      text COLLATE "C" NOT NULL,
    topic           text COLLATE "C" NOT NULL,
    kpartition      integer NOT NULL,
    koffset         bigint NOT NULL,
    key_hash        bigint,
    -- Of a replay: its record blocks no later ones of its key.
    run_id          bigint,
    attempts        integer NOT NULL,
    due_at          timestamptz NOT NULL,
    first_failed_at timestamptz NOT NULL,
    last_error      text COLLATE "C",
    record          bytea NOT NULL,
    PRIMARY KEY (consumer_group, order_id, event_type)
);
CREATE INDEX parked_by_partition ON parked_events (consumer_group, topic, kpartition, key_hash, koffset) WHERE run_id IS NULL;
CREATE INDEX parked_replays ON parked_events (consumer_group, topic, kpartition, due_at) WHERE run_id IS NOT NULL;

-- One row per origin and group. A recreated topic uses coordinates again, so the content is part of the origin.
CREATE TABLE dead_letters (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer_group  text COLLATE "C" NOT NULL,
    topic           text COLLATE "C" NOT NULL,
    kpartition      integer NOT NULL,
    koffset         bigint NOT NULL,
    record          bytea NOT NULL,
    digest          bytea NOT NULL GENERATED ALWAYS AS (sha256(record)) STORED,
    order_id        text COLLATE "C" NOT NULL,
    event_type      text COLLATE "C" NOT NULL,
    reason          text COLLATE "C" NOT NULL CHECK (reason IN
        ('undecodable', 'invalid', 'conflict', 'permanent', 'exhausted', 'crash_loop', 'uncertain')),
    class           text COLLATE "C" NOT NULL,
    error           text COLLATE "C" NOT NULL,
    -- The same bug, the same value: `core::dead_letter::bug_fingerprint`.
    bug             text COLLATE "C" NOT NULL,
    attempts        integer NOT NULL,
    failures        integer NOT NULL DEFAULT 1,
    replays         integer NOT NULL DEFAULT 0,
    state           text COLLATE "C" NOT NULL DEFAULT 'open' CHECK (state IN
        ('open', 'replaying', 'quarantined', 'discarded', 'resolved')),
    first_failed_at timestamptz NOT NULL,
    last_failed_at  timestamptz NOT NULL,
    -- When the ledger row became dead or uncertain: equal to its settled_at, which tells a repeated statement from another failure.
    failed_at       timestamptz NOT NULL,
    published_at    timestamptz,
    closed_at       timestamptz,
    UNIQUE (consumer_group, topic, kpartition, koffset, digest)
);
CREATE INDEX dead_by_identity ON dead_letters (consumer_group, order_id, event_type);
CREATE INDEX dead_unpublished ON dead_letters (consumer_group, topic, kpartition, id) WHERE published_at IS NULL;
