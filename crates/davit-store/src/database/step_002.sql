-- Addresses that work in flight holds, such as a build's commands; free with its lease.
CREATE TABLE lease_addresses (
    network_id TEXT NOT NULL REFERENCES networks(id) ON DELETE CASCADE,
    address    BLOB NOT NULL,
    lease_id   TEXT NOT NULL REFERENCES leases(id) ON DELETE CASCADE,
    PRIMARY KEY (network_id, address)
) STRICT, WITHOUT ROWID;
CREATE INDEX lease_addresses_lease_id ON lease_addresses(lease_id);
