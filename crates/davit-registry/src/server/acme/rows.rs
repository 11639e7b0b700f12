//! What servers of one database know of their certificate.

use davit_distribution::Secret;

use crate::db::{Connection, Database, DbError, Transaction, values};

/// Whose certificate: of these names, by this authority.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: String,
    pub(super) names: String,
}

/// A certificate that is there or is to be had.
#[derive(Debug)]
pub(super) struct Row {
    /// Chain and key in PEM.
    pub(super) pair: Option<(String, Secret)>,
    /// When the next attempt is.
    pub(super) due_ms: i64,
    /// Until when somebody makes one.
    pub(super) held_ms: i64,
    /// Attempts that failed since the last that did not.
    pub(super) failures: i64,
}

pub(super) async fn find(database: &Database, place: &Place) -> Result<Option<Row>, DbError> {
    let sql = "SELECT chain, private_key, due_at, held_until, failures FROM acme_certificate \
               WHERE directory = $1 AND names = $2";
    let mut reader = database.reader().await?;
    let row = reader.row(sql, values![&place.directory, &place.names]).await?;
    row.map(|row| {
        Ok(Row {
            pair: row.get::<Option<String>>(0)?.zip(row.get::<Option<String>>(1)?.map(Secret::new)),
            due_ms: row.get(2)?,
            held_ms: row.get(3)?,
            failures: row.get(4)?,
        })
    })
    .transpose()
}

/// Begins an attempt, if one is due and no other server has begun it.
pub(super) struct Claim {
    pub(super) place: Place,
    pub(super) hold_ms: i64,
}

impl Transaction for Claim {
    type Output = bool;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<bool, DbError> {
        let Place { directory, names } = &self.place;
        let first = "INSERT INTO acme_certificate (directory, names, due_at, held_until, failures) \
                     VALUES ($1, $2, 0, 0, 0) ON CONFLICT (directory, names) DO NOTHING";
        connection.execute(first, values![directory, names]).await?;
        let hold = "UPDATE acme_certificate SET held_until = $1 WHERE directory = $2 \
                    AND names = $3 AND due_at <= $4 AND held_until <= $4";
        let now = connection.now_ms();
        let row = values![now + self.hold_ms, directory, names, now];
        Ok(connection.execute(hold, row).await? == 1)
    }
}

/// Ends an attempt that brought a certificate.
pub(super) struct Keep {
    pub(super) place: Place,
    pub(super) chain: String,
    pub(super) key: String,
    pub(super) due_ms: i64,
}

impl Transaction for Keep {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "UPDATE acme_certificate SET chain = $1, private_key = $2, due_at = $3, \
                   held_until = 0, failures = 0 WHERE directory = $4 AND names = $5";
        let Place { directory, names } = &self.place;
        let row = values![&self.chain, &self.key, self.due_ms, directory, names];
        connection.execute(sql, row).await?;
        Ok(())
    }
}

/// Ends an attempt that failed.
pub(super) struct Postpone {
    pub(super) place: Place,
    pub(super) due_ms: i64,
}

impl Transaction for Postpone {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "UPDATE acme_certificate SET due_at = $1, held_until = 0, \
                   failures = failures + 1 WHERE directory = $2 AND names = $3";
        let Place { directory, names } = &self.place;
        connection.execute(sql, values![self.due_ms, directory, names]).await?;
        Ok(())
    }
}

/// Gives an attempt up that nothing came of yet; it stays due.
pub(super) struct Release(pub(super) Place);

impl Transaction for Release {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "UPDATE acme_certificate SET held_until = 0 WHERE directory = $1 AND names = $2";
        connection.execute(sql, values![&self.0.directory, &self.0.names]).await?;
        Ok(())
    }
}

/// Makes an attempt earlier; one that failed keeps its pause.
pub(super) struct Hasten {
    pub(super) place: Place,
    pub(super) due_ms: i64,
}

impl Transaction for Hasten {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "UPDATE acme_certificate SET due_at = $1 \
                   WHERE directory = $2 AND names = $3 AND due_at > $1 AND failures = 0";
        let Place { directory, names } = &self.place;
        connection.execute(sql, values![self.due_ms, directory, names]).await?;
        Ok(())
    }
}

/// Credentials of the account at an authority, as JSON.
pub(super) async fn account(
    database: &Database,
    directory: &str,
) -> Result<Option<String>, DbError> {
    let sql = "SELECT credentials FROM acme_account WHERE directory = $1";
    let row = database.reader().await?.row(sql, values![directory]).await?;
    row.map(|row| row.get(0)).transpose()
}

/// Keeps them, unless another server was earlier.
pub(super) struct KeepAccount {
    pub(super) directory: String,
    pub(super) credentials: String,
}

impl Transaction for KeepAccount {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "INSERT INTO acme_account (directory, credentials, created_at) \
                   VALUES ($1, $2, $3) ON CONFLICT (directory) DO NOTHING";
        let now = connection.now_ms();
        connection.execute(sql, values![&self.directory, &self.credentials, now]).await?;
        Ok(())
    }
}

/// Forgets an account that is none any more.
pub(super) struct ForgetAccount {
    pub(super) directory: String,
}

impl Transaction for ForgetAccount {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "DELETE FROM acme_account WHERE directory = $1";
        connection.execute(sql, values![&self.directory]).await?;
        Ok(())
    }
}

/// Certificate and key, in PEM, that show control of a name now.
pub(super) async fn proof(
    database: &Database,
    name: &str,
) -> Result<Option<(String, String)>, DbError> {
    let sql = "SELECT chain, private_key FROM acme_proof WHERE name = $1 AND ends_at > $2";
    let mut reader = database.reader().await?;
    let now = reader.now_ms();
    let row = reader.row(sql, values![name, now]).await?;
    row.map(|row| Ok((row.get(0)?, row.get(1)?))).transpose()
}

/// Lets every server show them.
pub(super) struct PutProof {
    pub(super) name: String,
    pub(super) chain: String,
    pub(super) key: String,
    pub(super) ends_ms: i64,
}

impl Transaction for PutProof {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let now = connection.now_ms();
        let old = "DELETE FROM acme_proof WHERE name = $1 OR ends_at <= $2";
        connection.execute(old, values![&self.name, now]).await?;
        let new = "INSERT INTO acme_proof (name, chain, private_key, ends_at) \
                   VALUES ($1, $2, $3, $4)";
        let row = values![&self.name, &self.chain, &self.key, self.ends_ms];
        connection.execute(new, row).await?;
        Ok(())
    }
}

/// Shows them no more.
pub(super) struct DropProofs {
    pub(super) names: Vec<String>,
}

impl Transaction for DropProofs {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        for name in &self.names {
            let sql = "DELETE FROM acme_proof WHERE name = $1";
            connection.execute(sql, values![name]).await?;
        }
        Ok(())
    }
}
