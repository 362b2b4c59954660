-- Records of migtrace in ClickHouse, with figures as columns. Times are in nanoseconds, as in the records; what is not known
-- is NULL, and a length has its bounds beside it (`..._low_ns`, `..._high_ns`: NULL where nothing bounds it from above).
--
--   clickhouse-client --multiquery < schema.sql
--   migtrace merge --directory /srv/migtrace |
--     clickhouse-client --query 'INSERT INTO migtrace.records (record) FORMAT JSONAsString'

CREATE DATABASE IF NOT EXISTS migtrace;

-- The records as they are. What a later question needs is still there.
CREATE TABLE IF NOT EXISTS migtrace.records
(
    record String CODEC(ZSTD(3)),
    loaded DateTime DEFAULT now()
)
ENGINE = MergeTree ORDER BY loaded;

-- One row a migration and day: a record that is loaded again, or one of both hosts after one of a single host, takes the
-- place of what was there. Ask the view `migtrace.migrations`.
CREATE TABLE IF NOT EXISTS migtrace.migration_rows
(
    migration_id Nullable(String),
    start Nullable(DateTime64(9, 'UTC')),
    start_error_ns Nullable(UInt64),
    start_seen Nullable(Bool),
    mode LowCardinality(Nullable(String)),
    outcome LowCardinality(Nullable(String)),
    error Nullable(String),
    vm_uuid Nullable(String),
    vm_name Nullable(String),
    vcpus Nullable(UInt32),
    memory_bytes Nullable(UInt64),
    -- Of the hosts that have observed it; one that has not is NULL.
    source_host LowCardinality(Nullable(String)),
    destination_host LowCardinality(Nullable(String)),
    -- The network of the destination's end of the memory stream (/24, or /64 of IPv6), and the interface at which it was
    -- counted.
    network LowCardinality(Nullable(String)),
    interface LowCardinality(Nullable(String)),
    qemu_version LowCardinality(Nullable(String)),
    accelerator LowCardinality(Nullable(String)),
    total_ns Nullable(UInt64),
    total_low_ns Nullable(UInt64),
    total_high_ns Nullable(UInt64),
    total_method LowCardinality(Nullable(String)),
    stopped Nullable(Bool),
    stop_ns Nullable(UInt64),
    stop_low_ns Nullable(UInt64),
    stop_high_ns Nullable(UInt64),
    stop_method LowCardinality(Nullable(String)),
    network_gap_ns Nullable(UInt64),
    network_gap_low_ns Nullable(UInt64),
    network_gap_high_ns Nullable(UInt64),
    reachability_ns Nullable(UInt64),
    reachability_low_ns Nullable(UInt64),
    reachability_high_ns Nullable(UInt64),
    reachability_method LowCardinality(Nullable(String)),
    tail_ns Nullable(UInt64),
    tail_low_ns Nullable(UInt64),
    tail_high_ns Nullable(UInt64),
    qemu_downtime_ns Nullable(UInt64),
    downtime_limit_ns Nullable(UInt64),
    tx_wire_bytes Nullable(UInt64),
    rx_wire_bytes Nullable(UInt64),
    tx_payload_bytes Nullable(UInt64),
    retransmitted_segments Nullable(UInt64),
    phases Array(Tuple(name String, pass Nullable(UInt64), start_ns Int64, end_ns Int64, tx_wire_bytes Nullable(UInt64), rx_wire_bytes Nullable(UInt64))),
    parts Array(Tuple(name String, role String, host String, start_ns Int64, length_ns UInt64, low_ns UInt64, high_ns Nullable(UInt64), wire_bytes Nullable(UInt64))),
    -- How the clock of each host relates to the record's. The record's own host has no method. `wall_ahead_ns` is how far its
    -- wall clock is ahead of that host's.
    clocks Array(Tuple(host String, role String, method Nullable(String), offset_ns Nullable(Int64), low_ns Nullable(Int64), high_ns Nullable(Int64), wall_ahead_ns Nullable(Int64))),
    contradictions Array(String),
    not_measured Array(Tuple(what String, why String)),
    -- Nonzero: the figures are lower bounds.
    lost_facts UInt64,
    hosts UInt8,
    loaded DateTime,
    -- A record of more hosts counts more than one of fewer, and then a later one.
    version UInt64 DEFAULT hosts * 10000000000 + toUnixTimestamp(loaded)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (ifNull(migration_id, ''), toDate(ifNull(start, toDateTime64(0, 9, 'UTC'))), if(migration_id IS NULL, concat(ifNull(vm_uuid, ''), ifNull(source_host, ''), ifNull(destination_host, '')), ''));

-- A column that needs several fields is made of them here; NULL goes through all of it.
CREATE MATERIALIZED VIEW IF NOT EXISTS migtrace.records_to_rows TO migtrace.migration_rows AS
WITH
    JSONExtract(record, 'Tuple(
        migration Tuple(id Nullable(String), mode Nullable(String), outcome Nullable(String), error Nullable(String)),
        vm Tuple(uuid Nullable(String), name Nullable(String), vcpus Nullable(UInt32), memory_bytes Nullable(UInt64)),
        observers Array(Tuple(host String, role String, clock Tuple(offset_ns Nullable(Int64)),
            alignment Tuple(offset_ns Nullable(Int64), low_ns Nullable(Int64), high_ns Nullable(Int64), method Nullable(String)))),
        start Tuple(realtime_ns Nullable(Int64), error_ns Nullable(UInt64), seen Nullable(Bool)),
        total_time Tuple(value_ns Nullable(UInt64), low_ns Nullable(UInt64), high_ns Nullable(UInt64), method Nullable(String)),
        phases Array(Tuple(name String, pass Nullable(UInt64), start_ns Int64, end_ns Int64, traffic Tuple(tx Tuple(wire_bytes Nullable(UInt64), payload_bytes Nullable(UInt64)), rx Tuple(wire_bytes Nullable(UInt64))))),
        traffic Tuple(total Tuple(tx Tuple(wire_bytes Nullable(UInt64), payload_bytes Nullable(UInt64)), rx Tuple(wire_bytes Nullable(UInt64))), retransmitted_segments Nullable(UInt64),
            flows Array(Tuple(local String, remote String, purpose String, interface String))),
        downtime Tuple(stopped Nullable(Bool),
            stop Tuple(value_ns Nullable(UInt64), low_ns Nullable(UInt64), high_ns Nullable(UInt64), method Nullable(String)),
            network Tuple(value_ns Nullable(UInt64), low_ns Nullable(UInt64), high_ns Nullable(UInt64), method Nullable(String)),
            reachability Tuple(value_ns Nullable(UInt64), low_ns Nullable(UInt64), high_ns Nullable(UInt64), method Nullable(String)),
            tail Tuple(value_ns Nullable(UInt64), low_ns Nullable(UInt64), high_ns Nullable(UInt64), method Nullable(String)),
            parts Array(Tuple(name String, role String, host String, start_ns Int64,
                length Tuple(value_ns UInt64, low_ns UInt64, high_ns Nullable(UInt64)), wire_bytes Nullable(UInt64))),
            qemu_reported_ns Nullable(UInt64), budget_ns Nullable(UInt64), contradictions Array(String)),
        qemu Tuple(version Nullable(String), accelerator Nullable(String)),
        not_measured Array(Tuple(what String, why String)),
        lost Tuple(ring_buffer UInt64, flows UInt64, hook_calls UInt64, qmp_lines UInt64, vcpus UInt64))') AS r,
    r.downtime AS d,
    r.observers AS o,
    arrayFirst(x -> x.role = 'source', o).host AS source,
    arrayFirst(x -> x.role = 'destination', o).host AS destination,
    arrayFilter(x -> x.purpose IN ('ram', 'tls'), r.traffic.flows) AS streams,
    if(empty(streams), r.traffic.flows, streams)[1] AS stream,
    -- The record's own side names its end first.
    if(o[1].role = 'destination', stream.local, stream.remote) AS end,
    -- [2001:db8::1]:49152 and 192.0.2.1:49152
    trimBoth(replaceRegexpOne(end, ':[0-9]+$', ''), '[]') AS address,
    multiIf(
        isIPv4String(address), concat(toString(IPv4CIDRToRange(toIPv4OrDefault(address), 24).1), '/24'),
        isIPv6String(address), concat(toString(IPv6CIDRToRange(toIPv6OrDefault(address), 64).1), '/64'),
        '') AS net
SELECT
    r.migration.id AS migration_id,
    if(r.start.realtime_ns IS NULL, NULL, fromUnixTimestamp64Nano(assumeNotNull(r.start.realtime_ns), 'UTC')) AS start,
    r.start.error_ns AS start_error_ns,
    r.start.seen AS start_seen,
    r.migration.mode AS mode,
    r.migration.outcome AS outcome,
    r.migration.error AS error,
    r.vm.uuid AS vm_uuid,
    r.vm.name AS vm_name,
    r.vm.vcpus AS vcpus,
    r.vm.memory_bytes AS memory_bytes,
    nullIf(source, '') AS source_host,
    nullIf(destination, '') AS destination_host,
    nullIf(net, '') AS network,
    nullIf(stream.interface, '') AS interface,
    r.qemu.version AS qemu_version,
    r.qemu.accelerator AS accelerator,
    r.total_time.value_ns AS total_ns,
    r.total_time.low_ns AS total_low_ns,
    r.total_time.high_ns AS total_high_ns,
    r.total_time.method AS total_method,
    d.stopped AS stopped,
    d.stop.value_ns AS stop_ns,
    d.stop.low_ns AS stop_low_ns,
    d.stop.high_ns AS stop_high_ns,
    d.stop.method AS stop_method,
    d.network.value_ns AS network_gap_ns,
    d.network.low_ns AS network_gap_low_ns,
    d.network.high_ns AS network_gap_high_ns,
    d.reachability.value_ns AS reachability_ns,
    d.reachability.low_ns AS reachability_low_ns,
    d.reachability.high_ns AS reachability_high_ns,
    d.reachability.method AS reachability_method,
    d.tail.value_ns AS tail_ns,
    d.tail.low_ns AS tail_low_ns,
    d.tail.high_ns AS tail_high_ns,
    d.qemu_reported_ns AS qemu_downtime_ns,
    d.budget_ns AS downtime_limit_ns,
    r.traffic.total.tx.wire_bytes AS tx_wire_bytes,
    r.traffic.total.rx.wire_bytes AS rx_wire_bytes,
    r.traffic.total.tx.payload_bytes AS tx_payload_bytes,
    r.traffic.retransmitted_segments AS retransmitted_segments,
    arrayMap(x -> (x.name, x.pass, x.start_ns, x.end_ns, x.traffic.tx.wire_bytes, x.traffic.rx.wire_bytes), r.phases) AS phases,
    arrayMap(x -> (x.name, x.role, x.host, x.start_ns, x.length.value_ns, x.length.low_ns, x.length.high_ns, x.wire_bytes), d.parts) AS parts,
    arrayMap(x -> (x.host, x.role, x.alignment.method, x.alignment.offset_ns, x.alignment.low_ns, x.alignment.high_ns,
        x.alignment.offset_ns + x.clock.offset_ns - o[1].clock.offset_ns), o) AS clocks,
    d.contradictions AS contradictions,
    r.not_measured AS not_measured,
    r.lost.ring_buffer + r.lost.flows + r.lost.hook_calls + r.lost.qmp_lines + r.lost.vcpus AS lost_facts,
    length(o) AS hosts,
    loaded
FROM migtrace.records
WHERE JSONExtractString(record, 'schema') = 'migtrace.record/1';

-- One row a migration.
CREATE VIEW IF NOT EXISTS migtrace.migrations AS SELECT * EXCEPT (version) FROM migtrace.migration_rows FINAL;

-- Whose VM it is. You fill it: INSERT INTO migtrace.tenants VALUES ('6f1c2a34-...', 'acme'). The last one holds.
CREATE TABLE IF NOT EXISTS migtrace.tenants
(
    vm_uuid String,
    tenant LowCardinality(String),
    since DateTime DEFAULT now()
)
ENGINE = ReplacingMergeTree(since) ORDER BY vm_uuid;
