"""Loads records into ClickHouse (chDB) with the schema of dist/clickhouse, and asks the questions there."""

import json
import pathlib
import time

import chdb.session

DIST = pathlib.Path(__file__).parents[2] / "dist" / "clickhouse"


def statements(sql):
    lines = (line for line in sql.splitlines() if not line.lstrip().startswith("--"))
    return [one for one in "\n".join(lines).split(";") if one.strip()]


class Database:
    def __init__(self):
        self.session = chdb.session.Session()
        for statement in statements((DIST / "schema.sql").read_text()):
            self.session.query(statement)

    def load(self, path):
        """Loads JSON Lines of records, as clickhouse-client does with FORMAT JSONAsString."""
        self.session.query(
            f"INSERT INTO migtrace.records (record) SELECT json FROM file('{path}', 'JSONAsString', 'json String')"
        )

    def execute(self, sql):
        self.session.query(sql)

    def rows(self, sql):
        answer = str(self.session.query(sql, "JSONCompactEachRow"))
        return [json.loads(line) for line in answer.splitlines()]

    def text(self, sql):
        return str(self.session.query(sql, "PrettyCompactMonoBlock"))


def questions():
    return {path.stem: path.read_text() for path in sorted((DIST / "questions").glob("*.sql"))}


def timed(work):
    begun = time.monotonic()
    result = work()
    return result, time.monotonic() - begun
