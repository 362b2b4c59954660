"""Runs the queries of a file (a JSON list of texts) over the records of another.

    run.py RECORDS QUERIES
"""

import json
import pathlib
import sys

import ask


def main():
    records, queries = map(pathlib.Path, sys.argv[1:3])
    database = ask.Database()
    database.load(records)
    for sql in json.loads(queries.read_text()):
        print(json.dumps(len(database.rows(sql))))


main()
