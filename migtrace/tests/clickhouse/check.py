"""Compares ClickHouse's answers with those of truth.py, over the records of a file (JSON Lines).

    check.py RECORDS FOLDER            compares
    check.py RECORDS FOLDER --times    only shows how long loading and each question takes
"""

import collections
import copy
import json
import pathlib
import sys

import ask
import truth

TENANTS = ["acme", "umbrella", "initech"]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def is_same(one, other):
    if isinstance(one, float) or isinstance(other, float):
        # Both round, and one may round a half up.
        return None not in (one, other) and abs(float(one) - float(other)) <= 1.01e-3 + 1e-9 * abs(float(one))
    return one == other


def plain(value):
    """ClickHouse writes large integers as text."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


def compare(name, got, expected):
    """Their order is the question's, with what is equal in any order."""
    sort = lambda rows: sorted(rows, key=lambda row: [str(value) for value in row if not isinstance(value, float)])
    got, expected = sort([[plain(value) for value in row] for row in got]), sort(expected)
    same = len(got) == len(expected) and all(
        len(one) == len(other) and all(map(is_same, one, other)) for one, other in zip(got, expected)
    )
    if not same:
        sys.exit(f"{name}:\n" + "\n".join(f"  {row}" for row in got) + "\nbut it should be\n" + "\n".join(f"  {row}" for row in expected))
    if not expected:
        sys.exit(f"{name}: these records say nothing of it")


def times(database, records):
    _, seconds = ask.timed(lambda: database.load(records))
    print(json.dumps({"question": "loading", "seconds": round(seconds, 2)}))
    for name, sql in ask.questions().items():
        _, seconds = ask.timed(lambda: database.rows(sql))
        print(json.dumps({"question": name, "seconds": round(seconds, 3)}))


def main():
    path, folder = map(pathlib.Path, sys.argv[1:3])
    database = ask.Database()
    if "--times" in sys.argv:
        times(database, path)
        return
    records = [json.loads(line) for line in path.read_text().splitlines()]
    # What one host knew counts for less than what both did, whichever came first. What comes twice counts once.
    halves = copy.deepcopy([record for record in records if len(record["observers"]) > 1])
    for half in halves:
        half["observers"] = half["observers"][:1]
        half["downtime"]["stop"] = None
        half["migration"]["outcome"] = "unknown"
    written = write(folder / "halves.jsonl", halves)
    for file in (written, path, path, written):
        database.load(file)
    uuids = sorted({record["vm"]["uuid"] for record in records if record["vm"]["uuid"] is not None})
    tenants = {uuid: TENANTS[number % len(TENANTS)] for number, uuid in enumerate(uuids) if number % 4}
    for uuid, tenant in tenants.items():
        database.execute(f"INSERT INTO migtrace.tenants (vm_uuid, tenant) VALUES ('{uuid}', '{tenant}')")
    asked = ask.questions()
    for name, sql in asked.items():
        compare(name, database.rows(sql), getattr(truth, name)(records, tenants))
    print(json.dumps({"records": len(records), "questions": sorted(asked)}))
    if "--show" in sys.argv:
        for name, sql in asked.items():
            print(name, database.text(sql), sep="\n")


main()
