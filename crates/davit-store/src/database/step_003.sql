-- `lost`: the blob was kept here and is gone; of one that was never kept nothing is missed.
ALTER TABLE layer_blobs ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;

-- When the digest was last pulled or pushed.
ALTER TABLE repo_digests ADD COLUMN seen INTEGER NOT NULL DEFAULT 0;
