-- Automated builds: docs/formats/registry.md. Secrets are in clear, as builds need them.

-- Where a repository's images are built from. hook_key is in the webhook's address, hook_secret signs what comes there;
-- refs is what the last poll saw, as JSON.
CREATE TABLE build_source (
    id {id},
    repo_id BIGINT NOT NULL UNIQUE REFERENCES repo (id) ON DELETE CASCADE,
    url TEXT NOT NULL,
    settings TEXT NOT NULL DEFAULT '{}',
    credential TEXT,
    hook_key TEXT NOT NULL UNIQUE,
    hook_secret TEXT NOT NULL,
    refs TEXT,
    poll_ms BIGINT,
    poll_at BIGINT,
    error TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX build_source_poll ON build_source (poll_at);

CREATE TABLE build_rule (
    id {id},
    source_id BIGINT NOT NULL REFERENCES build_source (id) ON DELETE CASCADE,
    rule TEXT NOT NULL
);
CREATE INDEX build_rule_source ON build_rule (source_id);

CREATE TABLE build_variable (
    source_id BIGINT NOT NULL REFERENCES build_source (id) ON DELETE CASCADE,
    name {name} NOT NULL,
    value TEXT NOT NULL,
    is_secret BIGINT NOT NULL,
    PRIMARY KEY (source_id, name)
);

-- One build; plan is what it does, as its rule said then. lease_until is of the worker that runs it.
CREATE TABLE build (
    id {id},
    repo_id BIGINT NOT NULL REFERENCES repo (id) ON DELETE CASCADE,
    rule_id BIGINT REFERENCES build_rule (id) ON DELETE SET NULL,
    state TEXT NOT NULL CHECK (state IN
        ('waiting', 'running', 'done', 'failed', 'cancelled', 'skipped')),
    cause TEXT NOT NULL CHECK (cause IN ('push', 'poll', 'manual', 'retry', 'base')),
    reference TEXT NOT NULL,
    revision TEXT,
    plan TEXT NOT NULL,
    actor TEXT NOT NULL DEFAULT '',
    attempts BIGINT NOT NULL DEFAULT 0,
    worker TEXT,
    lease_until BIGINT NOT NULL DEFAULT 0,
    is_cancelled BIGINT NOT NULL DEFAULT 0,
    token_id BIGINT,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    digest {name},
    error TEXT,
    report TEXT,
    log_bytes BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX build_state ON build (state, id);
CREATE INDEX build_repo ON build (repo_id, id);
CREATE INDEX build_rule_reference ON build (rule_id, reference, id);

-- Pieces of a build's log, by their place in it.
CREATE TABLE build_log (
    build_id BIGINT NOT NULL REFERENCES build (id) ON DELETE CASCADE,
    position BIGINT NOT NULL,
    content {bytes} NOT NULL,
    PRIMARY KEY (build_id, position)
);

-- Images that the last build of a rule and reference began with. path and tag: in this registry, else NULL.
CREATE TABLE build_base (
    rule_id BIGINT NOT NULL REFERENCES build_rule (id) ON DELETE CASCADE,
    reference TEXT NOT NULL,
    image TEXT NOT NULL,
    digest {name} NOT NULL,
    path {name},
    tag {name},
    look_at BIGINT NOT NULL,
    PRIMARY KEY (rule_id, reference, image)
);
CREATE INDEX build_base_look ON build_base (look_at);
CREATE INDEX build_base_path ON build_base (path, tag);

-- Tags that go again, while they name what was built.
CREATE TABLE build_expiry (
    repo_id BIGINT NOT NULL REFERENCES repo (id) ON DELETE CASCADE,
    tag {name} NOT NULL,
    reference TEXT NOT NULL,
    digest {name} NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (repo_id, tag)
);
CREATE INDEX build_expiry_at ON build_expiry (expires_at);
