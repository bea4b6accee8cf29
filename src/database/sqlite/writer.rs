//! The one connection that writes, and whether it still writes into the file that was opened.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sqlx::{
    Connection, Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

use super::open::{BUSY_TIMEOUT, SqliteJobStore, database};
use crate::{
    database::DatabaseRemarks,
    job::{JobError, JobId},
};

const LOCKED_PAUSE: Duration = Duration::from_millis(20);
/// How often it is looked whether the file is still there.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// With less space on the file's disk, an operator should know.
const LITTLE_SPACE: u64 = 256 << 20;

/// A file, whatever names lead to it; absent for one in memory, and where the system does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpenedFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl OpenedFile {
    #[cfg(unix)]
    pub(super) fn at(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(path).ok()?;
        Some(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }

    #[cfg(not(unix))]
    pub(super) fn at(_: &Path) -> Option<Self> {
        None
    }

    /// What is written into a file that was removed or replaced is lost with it.
    fn check(&self) -> Result<(), JobError> {
        let what = match Self::at(&self.path) {
            Some(found) if found == *self => return Ok(()),
            Some(_) => "was replaced",
            None => "was removed",
        };
        Err(JobError::database(format!(
            "{}: the database file {what} while this process used it, so nothing is written any more; start it again",
            self.path.display()
        )))
    }
}

impl SqliteJobStore {
    /// For a statement that is its own transaction.
    pub(super) fn writer(&self) -> Result<&SqlitePool, JobError> {
        self.opened.as_ref().map_or(Ok(()), OpenedFile::check)?;
        Ok(&self.write_pool)
    }

    /// Holds the write lock until the end of the transaction.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Sqlite>, JobError> {
        self.writer()?.begin_with("BEGIN IMMEDIATE").await.map_err(database)
    }

    /// Returns once the file was removed or replaced.
    pub async fn lost(&self) -> JobError {
        loop {
            tokio::time::sleep(CHECK_EVERY).await;
            if let Some(Err(error)) = self.opened.as_ref().map(OpenedFile::check) {
                return error;
            }
        }
    }

    /// Checks that the file can be written to: an open one can always be read.
    pub async fn ping(&self) -> Result<(), JobError> {
        self.check_writes().await
    }

    /// Only a commit takes room on the disk. What is left of a process that dies in between is deleted with the other
    /// old rejections.
    pub async fn check_writes(&self) -> Result<(), JobError> {
        let id = format!("check {}", JobId::new());
        sqlx::query("INSERT INTO rejections (id, received_at, error, body) VALUES (?, 0, '', hex(randomblob(8192)))")
            .bind(&id)
            .execute(self.writer()?)
            .await
            .map_err(database)?;
        let gone = sqlx::query("DELETE FROM rejections WHERE id = ?").bind(&id);
        gone.execute(self.writer()?).await.map_err(database)?;
        Ok(())
    }

    pub async fn check(&self) -> Result<DatabaseRemarks, JobError> {
        self.check_writes().await?;
        let mut checked = DatabaseRemarks {
            warnings: self.clock_warning().await?.into_iter().collect(),
            ..DatabaseRemarks::default()
        };
        if let Some(opened) = &self.opened
            && let Ok(free) = fs4::available_space(&opened.path)
        {
            let text = format!("{} MiB free on its disk", free >> 20);
            match free < LITTLE_SPACE {
                true => checked.warnings.push(format!("only {text}; free some space")),
                false => checked.remarks.push(text),
            }
        }
        Ok(checked)
    }
}

/// A connection to a file does not die while idle, so it is not tested before each use. SQLite ends a transaction by
/// itself after some errors, for instance on a full disk. sqlx does not know that and would never begin another one on
/// that connection, so it is closed.
pub(super) fn pool_options(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(connections).test_before_acquire(false).after_release(|connection, _| {
        Box::pin(async move {
            // After the rollback that a dropped transaction has asked for.
            connection.ping().await?;
            Ok(!connection.is_in_transaction())
        })
    })
}

/// Opens the connection for writing. The first process to open a file switches it to WAL, and the last one to close it
/// may switch back. A process that opens it at that moment gets "locked" at once, without the [`BUSY_TIMEOUT`], so this
/// waits.
pub(super) async fn connect(options: &SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    let start = Instant::now();
    loop {
        match pool_options(1).connect_with(options.clone()).await {
            Err(sqlx::Error::Database(error))
                if error.message() == "database is locked" && start.elapsed() < BUSY_TIMEOUT =>
            {
                tokio::time::sleep(LOCKED_PAUSE).await;
            }
            Ok(pool) => {
                // A later connection must not make a new file.
                pool.set_connect_options(options.clone().create_if_missing(false));
                return Ok(pool);
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{DatabaseOptions, OutboxMode};

    async fn opened(path: &Path) -> SqliteJobStore {
        SqliteJobStore::open(path, OutboxMode::Embedded, &DatabaseOptions::default()).await.unwrap()
    }

    /// As long as the file may not grow, SQLite says the same as on a full disk.
    #[tokio::test]
    async fn writes_succeed_again_once_the_disk_is_no_longer_full() {
        let folder = tempfile::tempdir().unwrap();
        let rows = opened(&folder.path().join("rows.db")).await;
        rows.ping().await.unwrap();
        sqlx::query("PRAGMA max_page_count = 1").execute(&rows.write_pool).await.unwrap();
        let mut tx = rows.begin().await.unwrap();
        let full = sqlx::query(
            "INSERT INTO rejections (id, received_at, error, body) VALUES ('', 0, '', hex(randomblob(1000000)))",
        )
        .execute(&mut *tx)
        .await
        .unwrap_err();
        assert!(full.to_string().contains("database or disk is full"), "{full}");
        drop(tx);
        // The limit was that of the connection.
        let id = "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21".parse().unwrap();
        assert_eq!(rows.cancel(id, &|_| false).await.unwrap(), crate::database::CancelOutcome::Unknown);
        rows.ping().await.unwrap();
        let left: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM rejections").fetch_one(&rows.write_pool).await.unwrap();
        assert_eq!(left, 0);
    }

    #[tokio::test]
    async fn the_probe_and_the_doctor_notice_a_full_disk() {
        let folder = tempfile::tempdir().unwrap();
        let rows = opened(&folder.path().join("rows.db")).await;
        let checked = rows.check().await.unwrap();
        let said = [checked.remarks, checked.warnings].concat();
        assert!(matches!(said.as_slice(), [text] if text.contains("MiB free on its disk")), "{said:?}");
        // Without the free pages that the check has left.
        let rows = opened(&folder.path().join("full.db")).await;
        sqlx::query("PRAGMA max_page_count = 1").execute(&rows.write_pool).await.unwrap();
        for checked in [rows.ping().await, rows.check().await.map(drop)] {
            let error = checked.unwrap_err();
            assert!(error.to_string().contains("database or disk is full; free some space"), "{error}");
        }
    }

    #[tokio::test]
    async fn nothing_is_written_into_a_file_that_was_removed_or_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.db");
        let rows = opened(&path).await;
        let aside = folder.path().join("aside.db");
        std::fs::rename(&path, &aside).unwrap();
        let error = rows.ping().await.unwrap_err().to_string();
        assert!(error.contains("rows.db: the database file was removed"), "{error}");
        std::fs::write(&path, "").unwrap();
        let error = rows.begin().await.unwrap_err().to_string();
        assert!(error.contains("was replaced") && error.ends_with("start it again"), "{error}");
        assert_eq!(rows.lost().await.to_string(), error);
        std::fs::rename(&aside, &path).unwrap();
        rows.ping().await.unwrap();
    }
}
