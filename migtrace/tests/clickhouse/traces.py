"""Compares migtrace.migrations_of_traces with migtrace.migrations, over the records of a file.

The rows of otel_traces are made here, as the Collector's ClickHouse exporter stores spans with the attributes that
migtrace gives them: of each record the spans `migration` of its hosts.

    traces.py RECORDS FOLDER
"""

import json
import pathlib
import sys

import ask

# What the exporter creates, without codecs and indices.
TABLE = """CREATE TABLE default.otel_traces (Timestamp DateTime64(9), TraceId String, SpanId String, ParentSpanId String,
    SpanName LowCardinality(String), ServiceName LowCardinality(String), ResourceAttributes Map(LowCardinality(String), String),
    SpanAttributes Map(LowCardinality(String), String), Duration UInt64, StatusCode LowCardinality(String), StatusMessage String)
    ENGINE = MergeTree ORDER BY (ServiceName, SpanName, Timestamp)"""


def length(key, estimate):
    known = {"value_ns", "low_ns", "high_ns", "method"}
    return {f"migtrace.{key}.{name}": value for name, value in (estimate or {}).items() if name in known}


def own(record):
    """What the span of the record's own side says beside what both say."""
    downtime, total = record["downtime"], record["traffic"]["total"]
    lengths = {"stop": downtime["stop"], "network_gap": downtime["network"], "reachability": downtime["reachability"], "tail": downtime["tail"]}
    found = {"migtrace.start.seen": str(record["start"]["seen"]).lower(), **length("total", record["total_time"])}
    for key, estimate in lengths.items():
        found |= length(key, estimate)
    for way in ("tx", "rx") if total else ():
        found |= {f"migtrace.{way}.{name}": total[way][name] for name in ("wire_bytes", "payload_bytes")}
    return found | {
        "migtrace.qemu.downtime_ns": downtime["qemu_reported_ns"],
        "migtrace.qemu.downtime_limit_ns": downtime["budget_ns"],
        "migtrace.qemu.version": record["qemu"]["version"],
        "migtrace.qemu.accelerator": record["qemu"]["accelerator"],
        "migtrace.retransmitted_segments": record["traffic"]["retransmitted_segments"],
    }


def spans(record):
    migration, vm = record["migration"], record["vm"]
    failed = migration["outcome"] in ("failed", "cancelled")
    for number, observer in enumerate(one for one in record["observers"] if one["role"] != "observer"):
        attributes = {
            "migtrace.role": observer["role"], "migtrace.migration.id": migration["id"], "migtrace.mode": migration["mode"],
            "migtrace.outcome": migration["outcome"], "migtrace.vm.uuid": vm["uuid"], "migtrace.vm.name": vm["name"],
            "migtrace.vm.vcpus": vm["vcpus"], "migtrace.vm.memory_bytes": vm["memory_bytes"],
        } | (own(record) if number == 0 else {})
        begun = record["start"]["realtime_ns"]
        yield {
            "Timestamp": f"{begun // 10**9}.{begun % 10**9:09}", "TraceId": migration["id"].replace("-", ""), "SpanName": "migration",
            "ServiceName": "migtrace", "ResourceAttributes": {"host.name": observer["host"]},
            "SpanAttributes": {key: str(value) for key, value in attributes.items() if value is not None},
            "StatusCode": "Error" if failed else "Unset",
            "StatusMessage": (migration["error"] or migration["outcome"]) if failed else "",
        }


def main():
    path, folder = map(pathlib.Path, sys.argv[1:3])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    # Without a wall time there is no trace; an error that is no end has no place in one.
    records = [one for one in records if one["start"]["realtime_ns"] is not None]
    for one in records:
        if one["migration"]["outcome"] not in ("failed", "cancelled"):
            one["migration"]["error"] = None
    kept, rows = folder / "kept.jsonl", folder / "spans.jsonl"
    kept.write_text("".join(json.dumps(one) + "\n" for one in records))
    rows.write_text("".join(json.dumps(span) + "\n" for one in records for span in spans(one)))
    database = ask.Database()
    database.load(kept)
    database.execute(TABLE)
    database.execute(f"INSERT INTO default.otel_traces FROM INFILE '{rows}' FORMAT JSONEachRow")
    for statement in ask.statements((ask.DIST / "otel_traces.sql").read_text()):
        database.execute(statement)
    columns = [name for name, in database.rows("SELECT name FROM system.columns WHERE table = 'migrations_of_traces' ORDER BY position")]
    shared = ", ".join(name for name in columns if name != "trace_id")
    of_records = database.rows(f"SELECT {shared} FROM migtrace.migrations ORDER BY migration_id")
    of_traces = database.rows(f"SELECT {shared} FROM migtrace.migrations_of_traces ORDER BY migration_id")
    for one, other in zip(of_records, of_traces):
        if one != other:
            sys.exit(f"by the record\n  {one}\nby the trace\n  {other}")
    if len(of_records) != len(of_traces):
        sys.exit(f"{len(of_records)} migrations by records, {len(of_traces)} by traces")
    print(json.dumps({"migrations": len(of_traces), "columns": len(columns)}))


main()
