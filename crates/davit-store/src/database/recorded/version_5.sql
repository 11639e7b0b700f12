-- A database as version 5 wrote it: its schema and one row of most kinds. Never edited: later
-- versions must lead from here to their own.

-- Sizes in bytes, times in nanoseconds since 1970, digests as `algorithm:hex`, JSON as text.
-- `durable_boot`: NULL when the content survives power loss, else the boot that wrote it.

CREATE TABLE blobs (
    digest       TEXT PRIMARY KEY,
    size         INTEGER NOT NULL,
    media_type   TEXT,
    durable_boot TEXT,
    created      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What a manifest or index names; the child need not be present.
CREATE TABLE blob_refs (
    parent   TEXT NOT NULL REFERENCES blobs(digest) ON DELETE CASCADE,
    child    TEXT NOT NULL,
    PRIMARY KEY (parent, child)
) STRICT, WITHOUT ROWID;
CREATE INDEX blob_refs_child ON blob_refs(child);

CREATE TABLE layers (
    diff_id       TEXT PRIMARY KEY,
    tar_size      INTEGER NOT NULL,
    table_size    INTEGER NOT NULL,
    table_crc32c  INTEGER NOT NULL,
    entries       INTEGER NOT NULL DEFAULT 0,
    diffid_state  TEXT NOT NULL DEFAULT 'verified',
    presence      TEXT NOT NULL DEFAULT 'full',
    durable_boot  TEXT,
    verity_digest TEXT,
    created       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The same layer as it was received or pushed: compressed digest -> DiffID.
CREATE TABLE layer_blobs (
    digest     TEXT NOT NULL,
    diff_id    TEXT NOT NULL,
    size       INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    encoding   TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (digest, diff_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX layer_blobs_diff_id ON layer_blobs(diff_id);

-- An image: the digest of its config.
CREATE TABLE images (
    id       TEXT PRIMARY KEY,
    chain_id TEXT,
    created  INTEGER,
    os       TEXT NOT NULL,
    architecture TEXT NOT NULL,
    variant  TEXT NOT NULL DEFAULT '',
    stored   INTEGER NOT NULL,
    labels   TEXT NOT NULL DEFAULT '{}'
) STRICT, WITHOUT ROWID;

CREATE TABLE image_layers (
    image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    diff_id  TEXT NOT NULL,
    PRIMARY KEY (image_id, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_layers_diff_id ON image_layers(diff_id);

-- Names; `digest` is the manifest or index, `image_id` the image of it that this machine uses.
CREATE TABLE tags (
    reference  TEXT PRIMARY KEY,
    digest     TEXT NOT NULL,
    media_type TEXT NOT NULL,
    size       INTEGER NOT NULL,
    image_id   TEXT,
    tagged     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_digest ON tags(digest);
CREATE INDEX tags_image_id ON tags(image_id);

-- Images without a name: built without a tag, pulled by digest, or their tag moved on.
CREATE TABLE untagged (
    digest     TEXT PRIMARY KEY,
    media_type TEXT NOT NULL,
    size       INTEGER NOT NULL,
    image_id   TEXT,
    since      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX untagged_image_id ON untagged(image_id);

-- Under which digests registries know an image; lives as long as the image does.
CREATE TABLE repo_digests (
    repository TEXT NOT NULL,
    digest     TEXT NOT NULL,
    image_id   TEXT NOT NULL,
    media_type TEXT NOT NULL,
    size       INTEGER NOT NULL,
    PRIMARY KEY (repository, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX repo_digests_image_id ON repo_digests(image_id);

CREATE TABLE trees (
    id        TEXT PRIMARY KEY,
    form      TEXT NOT NULL,
    chain_id  TEXT,
    size      INTEGER NOT NULL,
    spec      TEXT NOT NULL DEFAULT '{}',
    created   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX trees_chain_id ON trees(chain_id);

CREATE TABLE tree_layers (
    tree_id  TEXT NOT NULL REFERENCES trees(id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    diff_id  TEXT NOT NULL,
    PRIMARY KEY (tree_id, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX tree_layers_diff_id ON tree_layers(diff_id);

-- Work in flight; live while tmp/lease-ID is locked and the boot is the same.
CREATE TABLE leases (
    id      TEXT PRIMARY KEY,
    boot_id TEXT NOT NULL,
    purpose TEXT NOT NULL,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE lease_items (
    lease_id TEXT NOT NULL REFERENCES leases(id) ON DELETE CASCADE,
    digest   TEXT NOT NULL,
    PRIMARY KEY (lease_id, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE build_records (
    key       TEXT PRIMARY KEY,
    kind      TEXT NOT NULL,
    spec      TEXT NOT NULL,
    cost_us   INTEGER NOT NULL DEFAULT 0,
    size      INTEGER NOT NULL DEFAULT 0,
    uses      INTEGER NOT NULL DEFAULT 0,
    created   INTEGER NOT NULL,
    last_used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE build_record_items (
    key    TEXT NOT NULL REFERENCES build_records(key) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    PRIMARY KEY (key, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE containers (
    id              TEXT PRIMARY KEY,
    name            TEXT UNIQUE,
    image_id        TEXT,
    run_root        TEXT NOT NULL,
    auto_remove     INTEGER NOT NULL DEFAULT 0,
    status          TEXT NOT NULL,
    cleanup_pending INTEGER NOT NULL DEFAULT 0,
    labels          TEXT NOT NULL DEFAULT '{}',
    spec            TEXT NOT NULL,
    state           TEXT NOT NULL DEFAULT '{}',
    created         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX containers_image_id ON containers(image_id);

-- What a container keeps beside its image: layers and blobs.
CREATE TABLE container_items (
    container_id TEXT NOT NULL REFERENCES containers(id) ON DELETE CASCADE,
    digest       TEXT NOT NULL,
    PRIMARY KEY (container_id, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE networks (
    id      TEXT PRIMARY KEY,
    name    TEXT NOT NULL UNIQUE,
    driver  TEXT NOT NULL,
    labels  TEXT NOT NULL DEFAULT '{}',
    spec    TEXT NOT NULL,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Addresses are 4 or 16 bytes in network order.
CREATE TABLE network_pools (
    network_id TEXT NOT NULL REFERENCES networks(id) ON DELETE CASCADE,
    subnet     BLOB NOT NULL,
    prefix     INTEGER NOT NULL,
    gateway    BLOB NOT NULL,
    first      BLOB NOT NULL,
    last       BLOB NOT NULL,
    PRIMARY KEY (network_id, subnet, prefix)
) STRICT, WITHOUT ROWID;

CREATE TABLE addresses (
    network_id   TEXT NOT NULL REFERENCES networks(id),
    address      BLOB NOT NULL,
    container_id TEXT NOT NULL REFERENCES containers(id) ON DELETE CASCADE,
    mac          TEXT NOT NULL DEFAULT '',
    aliases      TEXT NOT NULL DEFAULT '[]',
    PRIMARY KEY (network_id, address)
) STRICT, WITHOUT ROWID;
CREATE INDEX addresses_container_id ON addresses(container_id);

-- `host_address` is the empty blob for every address of its `family` (4 or 6).
CREATE TABLE ports (
    protocol       TEXT NOT NULL,
    family         INTEGER NOT NULL,
    host_address   BLOB NOT NULL,
    host_port      INTEGER NOT NULL,
    container_port INTEGER NOT NULL,
    container_id   TEXT NOT NULL REFERENCES containers(id) ON DELETE CASCADE,
    PRIMARY KEY (protocol, family, host_port, host_address)
) STRICT, WITHOUT ROWID;
CREATE INDEX ports_container_id ON ports(container_id);

CREATE TABLE volumes (
    name      TEXT PRIMARY KEY,
    driver    TEXT NOT NULL,
    anonymous INTEGER NOT NULL DEFAULT 0,
    labels    TEXT NOT NULL DEFAULT '{}',
    options   TEXT NOT NULL DEFAULT '{}',
    state     TEXT NOT NULL DEFAULT 'ready',
    created   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE volume_uses (
    volume       TEXT NOT NULL REFERENCES volumes(name),
    container_id TEXT NOT NULL REFERENCES containers(id) ON DELETE CASCADE,
    PRIMARY KEY (volume, container_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX volume_uses_container_id ON volume_uses(container_id);

CREATE TABLE events (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    time       INTEGER NOT NULL,
    type       TEXT NOT NULL,
    action     TEXT NOT NULL,
    actor      TEXT NOT NULL,
    attributes TEXT NOT NULL DEFAULT '{}'
) STRICT;

-- Addresses that work in flight holds, such as a build's commands; free with its lease.
CREATE TABLE lease_addresses (
    network_id TEXT NOT NULL REFERENCES networks(id) ON DELETE CASCADE,
    address    BLOB NOT NULL,
    lease_id   TEXT NOT NULL REFERENCES leases(id) ON DELETE CASCADE,
    PRIMARY KEY (network_id, address)
) STRICT, WITHOUT ROWID;
CREATE INDEX lease_addresses_lease_id ON lease_addresses(lease_id);

-- Builds: what each was asked, how it went, and when; its log is a file of the same id. A build
-- whose status is `running` and whose lease (of the same id) is gone was killed.
CREATE TABLE builds (
    id TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    started INTEGER NOT NULL,
    finished INTEGER,
    spec TEXT NOT NULL
) STRICT;
CREATE INDEX builds_started ON builds (started);

PRAGMA user_version=5;

-- `lost`: the blob was kept here and is gone; of one that was never kept nothing is missed.
ALTER TABLE layer_blobs ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;

-- When the digest was last pulled or pushed.
ALTER TABLE repo_digests ADD COLUMN seen INTEGER NOT NULL DEFAULT 0;

-- CRC-32C of a tree's file, or of all that an extracted tree shows; unknown of earlier ones.
ALTER TABLE trees ADD COLUMN crc32c INTEGER;

-- The boot in which a tree was written: it is never synced.
ALTER TABLE trees ADD COLUMN boot TEXT;

INSERT INTO blobs VALUES
    ('sha256:1111111111111111111111111111111111111111111111111111111111111111', 400,
     'application/vnd.oci.image.manifest.v1+json', NULL, 1700000000000000000),
    ('sha256:2222222222222222222222222222222222222222222222222222222222222222', 300,
     'application/vnd.oci.image.config.v1+json', NULL, 1700000000000000000);
INSERT INTO blob_refs VALUES
    ('sha256:1111111111111111111111111111111111111111111111111111111111111111',
     'sha256:2222222222222222222222222222222222222222222222222222222222222222'),
    ('sha256:1111111111111111111111111111111111111111111111111111111111111111',
     'sha256:3333333333333333333333333333333333333333333333333333333333333333');
INSERT INTO layers VALUES
    ('sha256:4444444444444444444444444444444444444444444444444444444444444444', 2048, 512, 77, 3,
     'verified', 'full', NULL, NULL, 1700000000000000000);
INSERT INTO layer_blobs VALUES
    ('sha256:3333333333333333333333333333333333333333333333333333333333333333',
     'sha256:4444444444444444444444444444444444444444444444444444444444444444', 700,
     'application/vnd.oci.image.layer.v1.tar+gzip', '', 1);
INSERT INTO images VALUES
    ('sha256:2222222222222222222222222222222222222222222222222222222222222222',
     'sha256:4444444444444444444444444444444444444444444444444444444444444444',
     1690000000000000000, 'linux', 'amd64', '', 1700000000000000000, '{"kind":"old"}');
INSERT INTO image_layers VALUES
    ('sha256:2222222222222222222222222222222222222222222222222222222222222222', 0,
     'sha256:4444444444444444444444444444444444444444444444444444444444444444');
INSERT INTO tags VALUES
    ('docker.io/library/old:1',
     'sha256:1111111111111111111111111111111111111111111111111111111111111111',
     'application/vnd.oci.image.manifest.v1+json', 400,
     'sha256:2222222222222222222222222222222222222222222222222222222222222222',
     1700000000000000000);
INSERT INTO repo_digests VALUES
    ('docker.io/library/old',
     'sha256:1111111111111111111111111111111111111111111111111111111111111111',
     'sha256:2222222222222222222222222222222222222222222222222222222222222222',
     'application/vnd.oci.image.manifest.v1+json', 400, 1700000000000000000);
INSERT INTO build_records VALUES
    ('run:key', 'run', '{}', 1000, 2048, 1, 1700000000000000000, 1700000000000000000);
INSERT INTO build_record_items VALUES
    ('run:key', 'sha256:4444444444444444444444444444444444444444444444444444444444444444');
INSERT INTO volumes VALUES
    ('data', 'local', 0, '{}', '{}', 'ready', 1700000000000000000);
INSERT INTO events VALUES
    (1, 1700000000000000000, 'image', 'pull', 'old:1', '{}');
INSERT INTO builds VALUES
    ('00112233aabbccdd', 'completed', 1700000000000000000, 1700000001000000000, '{}');
