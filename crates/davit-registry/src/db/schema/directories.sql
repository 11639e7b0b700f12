-- When a directory is compared with the accounts next, when it last was, and what came of the last try.
ALTER TABLE identity_provider ADD COLUMN sync_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE identity_provider ADD COLUMN synced_at BIGINT;
ALTER TABLE identity_provider ADD COLUMN sync_result TEXT;

-- Since when a directory has the entry no more.
ALTER TABLE identity ADD COLUMN gone_at BIGINT;
