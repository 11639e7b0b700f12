-- {id}: a row's number; {bytes}: bytes; {name}: text that sorts by its bytes. Times are milliseconds.

CREATE TABLE account (
    id {id},
    name {name} NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('user', 'org', 'robot')),
    state TEXT NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'invited', 'disabled')),
    is_admin BIGINT NOT NULL DEFAULT 0,
    email TEXT,
    password TEXT,
    owner_id BIGINT REFERENCES account (id) ON DELETE CASCADE,
    epoch BIGINT NOT NULL DEFAULT 0,
    quota_bytes BIGINT,
    used_bytes BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL
);
CREATE INDEX account_owner ON account (owner_id);

CREATE TABLE org_member (
    org_id BIGINT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    account_id BIGINT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    role TEXT NOT NULL CHECK (role IN ('member', 'owner')),
    PRIMARY KEY (org_id, account_id)
);
CREATE INDEX org_member_account ON org_member (account_id);

CREATE TABLE team (
    id {id},
    org_id BIGINT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    name {name} NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    UNIQUE (org_id, name)
);

CREATE TABLE team_member (
    team_id BIGINT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    account_id BIGINT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    PRIMARY KEY (team_id, account_id)
);
CREATE INDEX team_member_account ON team_member (account_id);

CREATE TABLE identity (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    account_id BIGINT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (issuer, subject)
);

CREATE TABLE token (
    id {id},
    account_id BIGINT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('pat', 'robot', 'refresh', 'session', 'invite')),
    name TEXT NOT NULL DEFAULT '',
    sha256 {bytes} NOT NULL UNIQUE,
    scopes TEXT NOT NULL DEFAULT '[]',
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    last_used_at BIGINT
);
CREATE INDEX token_account ON token (account_id);

-- Public keys of all nodes; what signs is in each node's key file.
CREATE TABLE signing_key (
    id TEXT NOT NULL PRIMARY KEY,
    public_key {bytes} NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE setting (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE login_failure (
    subject TEXT NOT NULL PRIMARY KEY,
    failures BIGINT NOT NULL,
    blocked_until BIGINT NOT NULL,
    last_at BIGINT NOT NULL
);

-- "grant" is a word of SQL. subject_id is an account's or a team's number, 0 for 'everyone'.
CREATE TABLE access_grant (
    id {id},
    subject_kind TEXT NOT NULL CHECK (subject_kind IN ('account', 'team', 'org', 'everyone')),
    subject_id BIGINT NOT NULL,
    repo_glob TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('pull', 'push', 'maintain', 'admin')),
    condition TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (subject_kind, subject_id, repo_glob)
);

CREATE TABLE repo (
    id {id},
    path {name} NOT NULL UNIQUE,
    owner_id BIGINT REFERENCES account (id) ON DELETE SET NULL,
    visibility TEXT NOT NULL DEFAULT 'private' CHECK (visibility IN ('private', 'public')),
    kind TEXT NOT NULL DEFAULT 'hosted' CHECK (kind IN ('hosted', 'proxy')),
    sparse BIGINT,
    description TEXT NOT NULL DEFAULT '',
    readme TEXT NOT NULL DEFAULT '',
    settings TEXT NOT NULL DEFAULT '{}',
    created_at BIGINT NOT NULL
);
CREATE INDEX repo_owner ON repo (owner_id);

CREATE TABLE blob (
    digest {name} NOT NULL PRIMARY KEY,
    size_bytes BIGINT NOT NULL,
    store_key {name} NOT NULL UNIQUE,
    state TEXT NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'suspect')),
    created_at BIGINT NOT NULL
);

-- A link: the blob can be pulled from this repository.
CREATE TABLE repo_blob (
    repo_id BIGINT NOT NULL REFERENCES repo (id),
    digest {name} NOT NULL REFERENCES blob (digest),
    lease_until BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (repo_id, digest)
);
CREATE INDEX repo_blob_digest ON repo_blob (digest);
CREATE INDEX repo_blob_lease ON repo_blob (lease_until);

CREATE TABLE manifest (
    id {id},
    repo_id BIGINT NOT NULL REFERENCES repo (id),
    digest {name} NOT NULL,
    media_type TEXT NOT NULL,
    artifact_type TEXT,
    subject {name},
    body {bytes} NOT NULL,
    size_bytes BIGINT NOT NULL,
    pushed_at BIGINT NOT NULL,
    pushed_by BIGINT REFERENCES account (id) ON DELETE SET NULL,
    pulled_at BIGINT,
    lease_until BIGINT NOT NULL,
    UNIQUE (repo_id, digest)
);
CREATE INDEX manifest_subject ON manifest (repo_id, subject, digest) WHERE subject IS NOT NULL;

-- linked is digest, or NULL while the repository lacks the blob (sparse or not distributable).
CREATE TABLE manifest_blob (
    manifest_id BIGINT NOT NULL REFERENCES manifest (id) ON DELETE CASCADE,
    position BIGINT NOT NULL,
    repo_id BIGINT NOT NULL,
    digest {name} NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('config', 'layer')),
    linked {name},
    PRIMARY KEY (manifest_id, position),
    FOREIGN KEY (repo_id, linked) REFERENCES repo_blob (repo_id, digest)
);
CREATE INDEX manifest_blob_digest ON manifest_blob (repo_id, digest);
CREATE INDEX manifest_blob_linked ON manifest_blob (repo_id, linked);

-- child_id is NULL while the repository lacks the child.
CREATE TABLE manifest_child (
    parent_id BIGINT NOT NULL REFERENCES manifest (id) ON DELETE CASCADE,
    position BIGINT NOT NULL,
    repo_id BIGINT NOT NULL,
    digest {name} NOT NULL,
    child_id BIGINT REFERENCES manifest (id),
    platform TEXT,
    PRIMARY KEY (parent_id, position)
);
CREATE INDEX manifest_child_digest ON manifest_child (repo_id, digest);
CREATE INDEX manifest_child_child ON manifest_child (child_id);

CREATE TABLE tag (
    repo_id BIGINT NOT NULL REFERENCES repo (id),
    name {name} NOT NULL,
    manifest_id BIGINT NOT NULL REFERENCES manifest (id),
    version BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    updated_by BIGINT REFERENCES account (id) ON DELETE SET NULL,
    PRIMARY KEY (repo_id, name)
);
CREATE INDEX tag_manifest ON tag (manifest_id);

CREATE TABLE tag_event (
    id {id},
    repo_id BIGINT NOT NULL REFERENCES repo (id),
    name {name} NOT NULL,
    old_digest {name},
    new_digest {name},
    at BIGINT NOT NULL,
    by_id BIGINT REFERENCES account (id) ON DELETE SET NULL
);
CREATE INDEX tag_event_name ON tag_event (repo_id, name, id);
CREATE INDEX tag_event_old ON tag_event (repo_id, old_digest);

CREATE TABLE upload (
    id TEXT NOT NULL PRIMARY KEY,
    repo_id BIGINT NOT NULL REFERENCES repo (id),
    account_id BIGINT REFERENCES account (id) ON DELETE CASCADE,
    offset_bytes BIGINT NOT NULL,
    algorithm TEXT NOT NULL,
    hash_state {bytes} NOT NULL,
    store_ref TEXT NOT NULL,
    parts TEXT NOT NULL DEFAULT '[]',
    tail {bytes},
    version BIGINT NOT NULL,
    busy_until BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX upload_expires ON upload (expires_at);
CREATE INDEX upload_account ON upload (account_id);
CREATE INDEX upload_repo ON upload (repo_id);

CREATE TABLE trash (
    store_key {name} NOT NULL PRIMARY KEY,
    size_bytes BIGINT NOT NULL,
    not_before BIGINT NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX trash_not_before ON trash (not_before);

-- Manifests whose last reference may have gone.
CREATE TABLE gc_queue (
    repo_id BIGINT NOT NULL REFERENCES repo (id) ON DELETE CASCADE,
    digest {name} NOT NULL,
    after_ms BIGINT NOT NULL,
    PRIMARY KEY (repo_id, digest)
);
CREATE INDEX gc_queue_after ON gc_queue (after_ms);

CREATE TABLE job (
    id {id},
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed', 'cancelled')),
    run_after BIGINT NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    locked_until BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    result TEXT
);
CREATE INDEX job_state ON job (state, run_after);

CREATE TABLE event_outbox (
    id {id},
    kind TEXT NOT NULL,
    repo_id BIGINT REFERENCES repo (id) ON DELETE CASCADE,
    payload TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- Append-only: entry = SHA-256 over previous and this row's fields.
CREATE TABLE audit (
    id {id},
    at BIGINT NOT NULL,
    actor_id BIGINT,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    detail TEXT NOT NULL DEFAULT '{}',
    address TEXT,
    previous {bytes} NOT NULL,
    entry {bytes} NOT NULL UNIQUE
);
