-- A multipart upload that is under way in the object store: what a killed server began is ended there.
CREATE TABLE multipart (
    store_key {name} NOT NULL PRIMARY KEY,
    upload_id TEXT NOT NULL,
    alive_at BIGINT NOT NULL
);
CREATE INDEX multipart_alive ON multipart (alive_at);
