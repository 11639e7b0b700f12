-- Who vouches for people: settings is JSON, with the secret by which the registry proves itself there.
CREATE TABLE identity_provider (
    name TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    settings TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- Browsers that are at a provider now: state is a SHA-256, flow is JSON.
CREATE TABLE login_flow (
    state {bytes} NOT NULL PRIMARY KEY,
    flow TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX login_flow_expires ON login_flow (expires_at);

-- Tokens of an issuer that stand for a robot: claims is a JSON object of patterns.
CREATE TABLE trust_rule (
    id {id},
    issuer TEXT NOT NULL,
    audience TEXT NOT NULL,
    claims TEXT NOT NULL,
    account_id BIGINT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL
);
CREATE INDEX trust_rule_issuer ON trust_rule (issuer);
CREATE INDEX trust_rule_account ON trust_rule (account_id);

-- Groups of a directory that are teams; source: which directory made someone a member, '' is nobody.
CREATE TABLE group_map (
    source TEXT NOT NULL,
    group_name TEXT NOT NULL,
    team_id BIGINT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    PRIMARY KEY (source, group_name, team_id)
);
CREATE INDEX group_map_team ON group_map (team_id);
ALTER TABLE org_member ADD COLUMN source TEXT NOT NULL DEFAULT '';
ALTER TABLE team_member ADD COLUMN source TEXT NOT NULL DEFAULT '';
