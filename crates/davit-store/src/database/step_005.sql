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
