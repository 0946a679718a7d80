//! A database that runs statements nobody has looked at: read-only, nothing but SELECT, and no more of time, rows and
//! memory than allowed. What a statement may do is said by a list of what is allowed, not of what is not.
//!
//! SQLite's heap limit is one for the process. So that a greedy statement costs nobody else, what runs out of memory, be it
//! a statement or opening a file, is tried again alone, and only then is the verdict its own.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use serde::Serialize;

use super::rows::{Cell, Row};
use super::schema::Schema;

/// What a statement may use. It is ended where it asks for more, and counts as one that cannot be run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunLimits {
    /// Instructions of SQLite's virtual machine; the same statement needs as many on every machine.
    pub steps: u64,
    /// Wall-clock time, for instructions that take long themselves.
    pub time: Duration,
    /// Rows of the result.
    pub rows: usize,
    /// Bytes of the result.
    pub result_bytes: usize,
    /// Bytes of one value or of a row while it is made, at most 1,000,000,000.
    pub value_bytes: usize,
    /// Bytes of the statement itself, at most 1,000,000.
    pub statement_bytes: usize,
    /// Bytes of SQLite's heap in this process, all connections together. The lowest that was ever asked for holds.
    pub heap_bytes: u64,
}

impl Default for RunLimits {
    /// A thousand times what any development gold of Spider needs; a second or two of one core.
    fn default() -> RunLimits {
        RunLimits {
            steps: 100_000_000,
            time: Duration::from_secs(30),
            rows: 100_000,
            result_bytes: 64 << 20,
            value_bytes: 1 << 20,
            statement_bytes: 1 << 16,
            heap_bytes: 512 << 20,
        }
    }
}

/// Why a statement has no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunFailure {
    /// It is not a statement of this database, or failed while it ran.
    Failed(String),
    /// It asks for more than reading.
    Refused(String),
    /// It was ended at a limit, which is named.
    Limit(&'static str),
}

impl std::fmt::Display for RunFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RunFailure::Failed(message) => write!(f, "failed: {message}"),
            RunFailure::Refused(message) => write!(f, "refused: {message}"),
            RunFailure::Limit(limit) => write!(f, "ended at the limit of {limit}"),
        }
    }
}

/// Instructions between two looks at the clock.
const STEPS_PER_LOOK: u32 = 1000;
/// Which limit ended a statement.
const NONE: u8 = 0;
const STEPS: u8 = 1;
const TIME: u8 = 2;

/// Statements run under its reading side, one alone under its writing side.
static ALONE: RwLock<()> = RwLock::new(());

/// An open database.
pub(super) struct Database {
    connection: Connection,
    limits: RunLimits,
    /// Whether the statement asked for something it may not have.
    denied: Arc<AtomicBool>,
    pub schema: Schema,
}

impl Database {
    /// Opens a file and reads its tables.
    pub fn open(file: &Path, limits: RunLimits) -> rusqlite::Result<Database> {
        let shared = ALONE.read().unwrap_or_else(PoisonError::into_inner);
        let first = Database::attempt_open(file, limits);
        drop(shared);
        let failed = first.as_ref().err().and_then(rusqlite::Error::sqlite_error_code);
        if failed != Some(ErrorCode::OutOfMemory) {
            return first;
        }
        let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
        Database::attempt_open(file, limits)
    }

    fn attempt_open(file: &Path, limits: RunLimits) -> rusqlite::Result<Database> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(file, flags)?;
        // Temporary tables stay in memory, where they are limited; files would not be.
        connection.execute_batch(&format!(
            "PRAGMA hard_heap_limit = {}; PRAGMA temp_store = MEMORY; PRAGMA query_only = ON;",
            limits.heap_bytes.max(1)
        ))?;
        let schema = tables(&connection)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        // A text in double quotes that is no column is a literal: golds of Spider are written so.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, true)?;
        let int = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, int(limits.value_bytes))?;
        connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, int(limits.statement_bytes))?;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        connection.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0)?;
        // Functions of a few long texts would take long between two looks at the clock.
        connection.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000)?;
        connection.set_limit(Limit::SQLITE_LIMIT_EXPR_DEPTH, 200)?;
        connection.set_limit(Limit::SQLITE_LIMIT_COMPOUND_SELECT, 100)?;
        let denied = Arc::new(AtomicBool::new(false));
        let seen = denied.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| {
            let allowed = is_allowed(&context);
            seen.fetch_or(!allowed, Ordering::Relaxed);
            if allowed { Authorization::Allow } else { Authorization::Deny }
        }))?;
        Ok(Database { connection, limits, denied, schema })
    }

    /// The rows of a statement.
    pub fn run(&mut self, sql: &str) -> Result<Vec<Row>, RunFailure> {
        if sql.contains('\0') || !is_single(sql) {
            return Err(RunFailure::Failed("expected one statement, found more".into()));
        }
        let shared = ALONE.read().unwrap_or_else(PoisonError::into_inner);
        let first = self.attempt(sql);
        drop(shared);
        if first != Err(RunFailure::Limit("memory")) {
            return first;
        }
        let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
        self.attempt(sql)
    }

    fn attempt(&mut self, sql: &str) -> Result<Vec<Row>, RunFailure> {
        let ended = Arc::new(AtomicU8::new(NONE));
        self.denied.store(false, Ordering::Relaxed);
        let watched = self.watch(ended.clone()).map_err(Stop::Sqlite);
        watched.and_then(|()| self.rows(sql)).map_err(|stop| match stop {
            Stop::Limit(limit) => RunFailure::Limit(limit),
            Stop::NoQuery => RunFailure::Refused("expected a query, found a statement without a result".into()),
            Stop::Sqlite(error) if self.denied.load(Ordering::Relaxed) => RunFailure::Refused(error.to_string()),
            Stop::Sqlite(error) => failure(&error, ended.load(Ordering::Relaxed)),
        })
    }

    /// Ends what runs from now on at the limits of steps and time.
    fn watch(&mut self, ended: Arc<AtomicU8>) -> rusqlite::Result<()> {
        let mut looks = self.limits.steps / u64::from(STEPS_PER_LOOK);
        let end = Instant::now() + self.limits.time;
        let look = move || {
            if looks == 0 {
                ended.store(STEPS, Ordering::Relaxed);
                return true;
            }
            looks -= 1;
            let late = Instant::now() > end;
            if late {
                ended.store(TIME, Ordering::Relaxed);
            }
            late
        };
        self.connection.progress_handler(STEPS_PER_LOOK as i32, Some(look))
    }

    fn rows(&self, sql: &str) -> Result<Vec<Row>, Stop> {
        let mut statement = self.connection.prepare(sql)?;
        let columns = statement.column_count();
        if columns == 0 {
            return Err(Stop::NoQuery);
        }
        let mut rows = statement.query([])?;
        let (mut found, mut bytes) = (Vec::new(), 0usize);
        while let Some(row) = rows.next()? {
            if found.len() == self.limits.rows {
                return Err(Stop::Limit("rows"));
            }
            let mut cells = Vec::with_capacity(columns);
            bytes += size_of::<Row>();
            for column in 0..columns {
                let value = row.get_ref(column)?;
                bytes += size_of::<Cell>() + value.as_bytes_or_null().ok().flatten().map_or(0, <[u8]>::len);
                if bytes > self.limits.result_bytes {
                    return Err(Stop::Limit("result bytes"));
                }
                cells.push(match value {
                    ValueRef::Null => Cell::Null,
                    ValueRef::Integer(number) => Cell::Integer(number),
                    ValueRef::Real(number) => Cell::real(number),
                    ValueRef::Text(text) => Cell::Text(text.to_vec()),
                    ValueRef::Blob(bytes) => Cell::Blob(bytes.to_vec()),
                });
            }
            found.push(cells);
        }
        Ok(found)
    }
}

enum Stop {
    Limit(&'static str),
    NoQuery,
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Stop {
        Stop::Sqlite(error)
    }
}

fn failure(error: &rusqlite::Error, ended: u8) -> RunFailure {
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) if ended == STEPS => RunFailure::Limit("steps"),
        Some(ErrorCode::OperationInterrupted) if ended == TIME => RunFailure::Limit("time"),
        Some(ErrorCode::OutOfMemory) => RunFailure::Limit("memory"),
        Some(ErrorCode::TooBig) => RunFailure::Limit("value or statement bytes"),
        _ => RunFailure::Failed(error.to_string()),
    }
}

/// Reading the tables of the file, and functions of the values.
fn is_allowed(context: &AuthContext<'_>) -> bool {
    match context.action {
        AuthAction::Select | AuthAction::Recursive => true,
        AuthAction::Read { .. } => context.database_name.is_none_or(|name| name == "main"),
        AuthAction::Function { function_name } => {
            !["load_extension", "fts3_tokenizer"].iter().any(|name| function_name.eq_ignore_ascii_case(name))
        }
        _ => false,
    }
}

fn tables(connection: &Connection) -> rusqlite::Result<Schema> {
    let mut names = connection.prepare("SELECT name FROM sqlite_master WHERE type = 'table'")?;
    let names: Vec<String> = names.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut columns = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
    let mut tables = Vec::new();
    for name in names {
        let columns: rusqlite::Result<Vec<String>> = columns.query_map([&name], |row| row.get(0))?.collect();
        tables.push((name, columns?));
    }
    Ok(Schema::new(tables))
}

/// Whether nothing but white space and comments follows the first semicolon that stands outside quotes and comments.
/// Python's `sqlite3`, which the official evaluator runs statements by, refuses others.
fn is_single(sql: &str) -> bool {
    let mut rest = sql;
    let mut ended = false;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let past = |mark: &str| after.find(mark).map_or("", |at| &after[at + mark.len()..]);
        let comment = rest.starts_with("--") || rest.starts_with("/*");
        if ended && !comment && !c.is_whitespace() {
            return false;
        }
        rest = match c {
            '\'' => past("'"),
            '"' => past("\""),
            '`' => past("`"),
            '[' => past("]"),
            '-' if comment => past("\n"),
            '/' if comment => after[1..].find("*/").map_or("", |at| &after[at + 3..]),
            _ => after,
        };
        ended |= c == ';';
    }
    true
}
