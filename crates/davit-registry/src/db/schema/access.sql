-- Wrong attempts as leaking buckets, empty at empty_at; unreported: not in the audit log yet.
DROP TABLE login_failure;
CREATE TABLE login_failure (
    subject TEXT NOT NULL PRIMARY KEY,
    empty_at BIGINT NOT NULL,
    unreported BIGINT NOT NULL
);

-- When a key that signs no more verifies nothing any more.
ALTER TABLE signing_key ADD COLUMN ends_at BIGINT;
