"""The answers to the questions of dist/clickhouse, from the records alone: plain Python, no SQL."""

import collections
import datetime
import ipaddress
import math
import re

MS, SECOND = 1e6, 1e9


def get(record, *path):
    for name in path:
        record = record[name] if record is not None else None
    return record


def quantile(level, values):
    """As quantileExact has it: an element, not a value between two."""
    values = sorted(values)
    return values[min(math.floor(level * len(values)), len(values) - 1)] if values else None


def scaled(value, unit, digits):
    return None if value is None else round(value / unit, digits)


def completed(records):
    return [record for record in records if record["migration"]["outcome"] == "completed"]


def stops(records, bound="value_ns"):
    return [get(record, "downtime", "stop", bound) for record in records]


def known(values):
    return [value for value in values if value is not None]


def start(record):
    ns = record["start"]["realtime_ns"]
    if ns is None:
        return None
    whole = datetime.datetime.fromtimestamp(ns // 10**9, datetime.timezone.utc)
    return f"{whole:%Y-%m-%d %H:%M:%S}.{ns % 10**9:09}"


def host(record, role):
    return next((one["host"] for one in record["observers"] if one["role"] == role), None)


def network(record):
    flows = record["traffic"]["flows"]
    streams = [flow for flow in flows if flow["purpose"] in ("ram", "tls")] or flows
    if not streams:
        return None
    end = streams[0]["local" if record["observers"][0]["role"] == "destination" else "remote"]
    address = ipaddress.ip_address(end.rsplit(":", 1)[0].strip("[]"))
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 64), strict=False))


def stop_by_flavour_and_week(records, _):
    cells = collections.defaultdict(list)
    for record in completed(records):
        ns = record["start"]["realtime_ns"]
        week = None
        if ns is not None:
            day = datetime.datetime.fromtimestamp(ns / SECOND, datetime.timezone.utc).date()
            week = str(day - datetime.timedelta(days=day.weekday()))
        memory = record["vm"]["memory_bytes"]
        cells[week, record["vm"]["vcpus"], scaled(memory, 2**30, 1)].append(record)
    rows = []
    for key, cell in cells.items():
        values, highs = known(stops(cell)), known(stops(cell, "high_ns"))
        at_most = None if len(highs) < len(values) else scaled(quantile(0.99, highs), MS, 1)
        figures = [scaled(quantile(level, values), MS, 1) for level in (0.5, 0.95, 0.99)]
        worst = scaled(max(values, default=None), MS, 1)
        rows.append([*key, len(cell), len(values), *figures, worst, at_most])
    return rows


def worst_tails_by_network(records, _):
    found = collections.defaultdict(list)
    for record in records:
        if record["downtime"]["tail"] is not None:
            found[network(record)].append(record)
    rows = []
    for name, those in found.items():
        those.sort(key=lambda one: (-one["downtime"]["tail"]["low_ns"], one["migration"]["id"]))
        for one in those[:5]:
            tail = one["downtime"]["tail"]
            figures = [scaled(tail[bound], MS, 3) for bound in ("value_ns", "low_ns", "high_ns")]
            gone = scaled(get(one, "downtime", "reachability", "value_ns"), MS, 3)
            about = [one["migration"]["id"], start(one), one["vm"]["name"], host(one, "destination")]
            rows.append([name, *about, *figures, gone])
    return rows


def what_the_stop_was_made_of(records, _):
    cells = collections.defaultdict(list)
    for record in completed(records):
        for part in record["downtime"]["parts"]:
            cells[part["role"], part["name"]].append(part["length"])
    whole = sum(length["value_ns"] for cell in cells.values() for length in cell)
    rows = []
    for key, cell in cells.items():
        values = [length["value_ns"] for length in cell]
        highs = known(length["high_ns"] for length in cell)
        rows.append([
            *key, len(cell), scaled(sum(values), SECOND, 3), round(100 * sum(values) / whole, 2),
            scaled(quantile(0.5, values), MS, 3), scaled(quantile(0.99, values), MS, 3),
            scaled(sum(length["low_ns"] for length in cell), SECOND, 3),
            None if len(highs) < len(cell) else scaled(sum(highs), SECOND, 3),
        ])
    return rows


def bytes_by_tenant(records, tenants):
    cells = collections.defaultdict(list)
    for record in records:
        total = record["traffic"]["total"]
        carried = None if total is None else total["tx"]["wire_bytes"] + total["rx"]["wire_bytes"]
        cells[tenants.get(record["vm"]["uuid"])].append(carried)
    unknown = lambda cell: sum(carried is None for carried in cell)
    return [[tenant, len(cell), unknown(cell), sum(known(cell)) if known(cell) else None] for tenant, cell in cells.items()]


def failures_by_cause(records, _):
    cells = collections.defaultdict(list)
    for record in records:
        migration = record["migration"]
        if migration["outcome"] in ("failed", "cancelled"):
            error = migration["error"]
            cells[migration["outcome"], error and re.sub("[0-9]+", "N", error)].append(record)
    rows = []
    for key, cell in cells.items():
        vms = {uuid for uuid in (record["vm"]["uuid"] for record in cell) if uuid is not None}
        pairs = {(host(record, "source"), host(record, "destination")) for record in cell}
        # A pair of which one host is not known is not counted.
        pairs = {pair for pair in pairs if None not in pair}
        rows.append([*key, len(cell), len(vms), len(pairs), max(known(map(start, cell)), default=None)])
    return rows


def hosts_with_unaligned_clocks(records, _):
    cells = collections.defaultdict(list)
    for record in records:
        own = record["observers"][0]["clock"]
        for one in record["observers"]:
            alignment = one.get("alignment")
            if alignment is None:
                continue
            apart = None
            if None not in (alignment["offset_ns"], one["clock"], own):
                apart = abs(alignment["offset_ns"] + one["clock"]["offset_ns"] - own["offset_ns"])
            for name in (one["host"], record["observers"][0]["host"]):
                cells[name].append((alignment["low_ns"] is None or alignment["high_ns"] is None, apart))
    rows = []
    for name, cell in cells.items():
        aparts = known(apart for _, apart in cell)
        worst = scaled(max(aparts, default=None), MS, 3)
        row = [name, len(cell), sum(bad for bad, _ in cell), scaled(quantile(0.5, aparts), MS, 3), worst]
        if 2 * row[2] > row[1] or (row[3] is not None and row[3] > 10):
            rows.append(row)
    return rows


def bounds_wider_than_values(records, _):
    cells = collections.defaultdict(list)
    for record in records:
        if record["downtime"]["stop"] is not None:
            cells[record["downtime"]["stop"]["method"]].append(record["downtime"]["stop"])
    rows = []
    for method, cell in cells.items():
        bounded = [stop for stop in cell if stop["high_ns"] is not None]
        widths = [stop["high_ns"] - stop["low_ns"] for stop in bounded]
        wide = sum(stop["high_ns"] - stop["low_ns"] > stop["value_ns"] for stop in bounded)
        figures = [scaled(quantile(0.5, widths), MS, 3), scaled(max(widths, default=None), MS, 3)]
        rows.append([method, len(cell), len(cell) - len(bounded), wide, *figures])
    return rows


def qemu_against_measured(records, _):
    cells = collections.defaultdict(list)
    for record in records:
        stop, said = record["downtime"]["stop"], record["downtime"]["qemu_reported_ns"]
        if stop is not None and said is not None:
            cells[record["qemu"]["version"]].append((stop, said))
    rows = []
    for version, cell in cells.items():
        unseen = [stop["value_ns"] - said for stop, said in cell]
        short = sum(said < stop["low_ns"] for stop, said in cell)
        long = sum(stop["high_ns"] is not None and said > stop["high_ns"] for stop, said in cell)
        rows.append([version, len(cell), short, long, scaled(quantile(0.5, unseen), MS, 3), scaled(max(unseen), MS, 3)])
    return rows
