-- What happened where somebody listens, in the order of the commits of each repository; a row goes
-- when it was handed to those who listen.
DROP TABLE event_outbox;
CREATE TABLE event_outbox (
    id {id},
    kind TEXT NOT NULL,
    repository {name} NOT NULL,
    digest {name},
    tag {name},
    previous {name},
    source {name},
    by_id BIGINT,
    created_at BIGINT NOT NULL
);

-- Who listens. prefix is what the pattern of repositories begins with; level 1 is changes of
-- manifests, tags and repositories, 2 is blobs too.
CREATE TABLE subscription (
    id {id},
    name {name} NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('webhook', 'replication')),
    repositories TEXT NOT NULL,
    prefix {name} NOT NULL,
    tags TEXT NOT NULL,
    events TEXT NOT NULL,
    level BIGINT NOT NULL,
    state TEXT NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'failed')),
    settings TEXT NOT NULL,
    failing_since BIGINT,
    next_run BIGINT,
    result TEXT,
    created_at BIGINT NOT NULL
);

-- An event on its way to a webhook, and then its history. number is the event's in the outbox.
CREATE TABLE delivery (
    id {id},
    subscription_id BIGINT NOT NULL REFERENCES subscription (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    repository {name} NOT NULL,
    event TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'delivered', 'failed')),
    attempts BIGINT NOT NULL DEFAULT 0,
    run_after BIGINT NOT NULL,
    locked_until BIGINT NOT NULL DEFAULT 0,
    status BIGINT,
    reply TEXT,
    created_at BIGINT NOT NULL,
    finished_at BIGINT
);
CREATE INDEX delivery_due ON delivery (run_after) WHERE state = 'waiting';
CREATE INDEX delivery_order ON delivery (subscription_id, repository, number) WHERE state = 'waiting';
CREATE INDEX delivery_subscription ON delivery (subscription_id, id);

-- Registries that are mirrored; name begins the names of their repositories here.
CREATE TABLE mirror (
    id {id},
    name {name} NOT NULL UNIQUE,
    upstream TEXT NOT NULL,
    is_default BIGINT NOT NULL,
    settings TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- At most one job of a key waits.
ALTER TABLE job ADD COLUMN key TEXT;
CREATE UNIQUE INDEX job_key ON job (kind, key) WHERE state = 'waiting';
