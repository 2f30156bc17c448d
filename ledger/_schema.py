"""The ledger's tables, version by version: each step makes a version out of the one before, and loses nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

FIRST = """
CREATE TABLE executions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    item_uid TEXT NOT NULL UNIQUE,
    op_key TEXT,
    attempt INTEGER NOT NULL,
    plan TEXT NOT NULL,
    kwargs TEXT NOT NULL,
    user TEXT NOT NULL,
    user_group TEXT NOT NULL,
    state TEXT NOT NULL,
    run_uids TEXT NOT NULL DEFAULT '[]',
    result TEXT,
    error TEXT,
    started_at REAL NOT NULL,
    finished_at REAL
);
CREATE INDEX executions_by_key ON executions (op_key);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
PEOPLE = """
CREATE TABLE approvals (
    item_uid TEXT NOT NULL,
    body TEXT NOT NULL,
    op_key TEXT,
    plan TEXT NOT NULL,
    kwargs TEXT NOT NULL,
    sample_id TEXT,
    user_group TEXT NOT NULL,
    asked_at REAL NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending',
    decided_by TEXT,
    reason TEXT,
    decided_at REAL,
    PRIMARY KEY (item_uid, body)
);
CREATE INDEX approvals_by_kind ON approvals (user_group, plan, state);
CREATE TABLE samples (
    id TEXT PRIMARY KEY,
    facts TEXT NOT NULL,
    opened_by TEXT NOT NULL,
    opened_at REAL NOT NULL,
    closed_by TEXT,
    closed_at REAL
);
"""
OPERATIONS = """
CREATE TABLE operations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT UNIQUE,
    body TEXT NOT NULL,
    plan TEXT NOT NULL,
    args TEXT NOT NULL,
    kwargs TEXT NOT NULL,
    sample_id TEXT,
    session_id TEXT,
    note TEXT,
    user TEXT NOT NULL,
    user_group TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    submitted_at REAL NOT NULL,
    pruned_at REAL
);
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    operation INTEGER NOT NULL REFERENCES operations (id),
    attempt INTEGER NOT NULL,
    item_uid TEXT UNIQUE,
    state TEXT NOT NULL,
    paused_at REAL,
    cancel_asked_at REAL,
    cancel_asked_by TEXT,
    result TEXT,
    error_code TEXT,
    error TEXT,
    started_at REAL,
    finished_at REAL,
    UNIQUE (operation, attempt)
);
CREATE INDEX attempts_by_state ON attempts (state, operation);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    attempt INTEGER NOT NULL REFERENCES attempts (id),
    uid TEXT NOT NULL UNIQUE
);
CREATE INDEX runs_by_attempt ON runs (attempt);
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    operation INTEGER,
    key TEXT,
    attempt INTEGER,
    type TEXT NOT NULL,
    data TEXT NOT NULL
);
CREATE INDEX events_by_key ON events (key, id);
CREATE TRIGGER events_stay BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'the audit is only added to'); END;
CREATE TRIGGER events_are_kept BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'the audit is only added to'); END;
CREATE TEMPORARY TABLE numbered AS
    SELECT *, coalesce('k' || op_key, 'i' || item_uid) AS whose,
        row_number() OVER one AS number, first_value(id) OVER one AS first, min(started_at) OVER whole AS began,
        count(*) OVER whole AS times
    FROM executions
    WINDOW whole AS (PARTITION BY coalesce('k' || op_key, 'i' || item_uid)), one AS (whole ORDER BY id);
INSERT INTO operations (id, key, body, plan, args, kwargs, user, user_group, attempt, submitted_at)
    SELECT first, op_key, body_of(plan, kwargs), plan, '[]', kwargs, user, user_group, times, began
    FROM numbered WHERE number = times ORDER BY first;
INSERT INTO attempts (id, operation, attempt, item_uid, state, paused_at, result, error_code, error, started_at, finished_at)
    SELECT id, first, number, item_uid, CASE state WHEN 'paused' THEN 'running' ELSE state END,
        CASE state WHEN 'paused' THEN started_at END, result, CASE WHEN error IS NOT NULL THEN 'plan_failed' END, error,
        started_at, finished_at
    FROM numbered ORDER BY id;
INSERT OR IGNORE INTO runs (attempt, uid)
    SELECT numbered.id, run.value FROM numbered, json_each(numbered.run_uids) AS run ORDER BY numbered.id, run.key;
INSERT INTO events (time, operation, key, attempt, type, data)
    SELECT coalesce(finished_at, started_at), first, op_key, number, 'state', json_object(
        'state', state, 'item_uid', item_uid, 'attempt', attempt, 'plan', plan, 'kwargs', json(kwargs), 'user', user,
        'user_group', user_group, 'run_uids', json(run_uids), 'result', json(result), 'error', error,
        'started_at', started_at, 'finished_at', finished_at, 'note', 'of a ledger of version 2')
    FROM numbered ORDER BY id;
DROP TABLE numbered;
DROP TABLE executions;
"""
"""What was executed before is an attempt now. The same key could start several plans then: they become its attempts, in order,
and what each of them was stands in the audit."""

DECISIONS = """
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    attempt INTEGER NOT NULL REFERENCES attempts (id),
    round INTEGER NOT NULL,
    words TEXT NOT NULL,
    answers TEXT NOT NULL,
    fallback TEXT NOT NULL,
    facts TEXT NOT NULL,
    asked_at REAL NOT NULL,
    deadline REAL NOT NULL,
    answer TEXT,
    answered_by TEXT,
    answered_at REAL,
    closed_at REAL,
    used INTEGER NOT NULL DEFAULT 0,
    UNIQUE (attempt, round)
);
CREATE INDEX decisions_that_wait ON decisions (attempt) WHERE closed_at IS NULL;
"""

LEFT = """
ALTER TABLE attempts ADD COLUMN left_at TEXT;
ALTER TABLE operations ADD COLUMN restore TEXT;
"""
"""Where an attempt left the microscope; what must be restored before an operation."""

STEPS = (FIRST, PEOPLE, OPERATIONS, DECISIONS, LEFT)
"""What makes each version of the file out of the one before."""


def statements(step: str) -> Iterator[str]:
    """The statements of a step; a trigger has semicolons of its own."""
    statement = ""
    for line in step.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
