-- A repository that can be had back; its row in repo has another path meanwhile.
CREATE TABLE deleted_repo (
    repo_id BIGINT NOT NULL PRIMARY KEY REFERENCES repo (id) ON DELETE CASCADE,
    path {name} NOT NULL,
    deleted_at BIGINT NOT NULL
);
CREATE INDEX deleted_repo_path ON deleted_repo (path, deleted_at);

-- A manifest that can be had back, with the tags that it had (JSON).
CREATE TABLE deleted_manifest (
    repo_id BIGINT NOT NULL REFERENCES repo (id) ON DELETE CASCADE,
    digest {name} NOT NULL,
    media_type TEXT NOT NULL,
    body {bytes} NOT NULL,
    tags TEXT NOT NULL,
    deleted_at BIGINT NOT NULL,
    PRIMARY KEY (repo_id, digest)
);
CREATE INDEX deleted_manifest_at ON deleted_manifest (deleted_at);
