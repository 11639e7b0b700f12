-- An account at a certificate authority: credentials is JSON, with its key.
CREATE TABLE acme_account (
    directory TEXT NOT NULL PRIMARY KEY,
    credentials TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- A certificate that servers of this database show, NULL until there is one; who renews it holds the row.
CREATE TABLE acme_certificate (
    directory TEXT NOT NULL,
    names TEXT NOT NULL,
    chain TEXT,
    private_key TEXT,
    due_at BIGINT NOT NULL,
    held_until BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    PRIMARY KEY (directory, names)
);

-- What an authority is shown that looks who controls a name.
CREATE TABLE acme_proof (
    name TEXT NOT NULL PRIMARY KEY,
    chain TEXT NOT NULL,
    private_key TEXT NOT NULL,
    ends_at BIGINT NOT NULL
);
