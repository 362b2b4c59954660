-- The same columns as migtrace.migrations, of the traces that the OpenTelemetry Collector's ClickHouse exporter has stored in
-- default.otel_traces. What spans do not have is left out: phases by pass, what was not measured.
--
-- Attributes are text there, and what is not known has none. Where both hosts have sent their halves, the half that knows
-- more is taken: the record of both hosts, or the one that has an upper bound of the stop, or the source's.

CREATE DATABASE IF NOT EXISTS migtrace;

CREATE VIEW IF NOT EXISTS migtrace.migrations_of_traces AS
WITH
    argMaxIf(SpanAttributes, (mapContains(SpanAttributes, 'migtrace.stop.high_ns'), SpanAttributes['migtrace.role'] = 'source'),
        SpanName = 'migration' AND mapContains(SpanAttributes, 'migtrace.start.seen')) AS a,
    argMaxIf(Timestamp, (mapContains(SpanAttributes, 'migtrace.stop.high_ns'), SpanAttributes['migtrace.role'] = 'source'),
        SpanName = 'migration' AND mapContains(SpanAttributes, 'migtrace.start.seen')) AS begun,
    argMaxIf(StatusMessage, (mapContains(SpanAttributes, 'migtrace.stop.high_ns'), SpanAttributes['migtrace.role'] = 'source'),
        SpanName = 'migration' AND mapContains(SpanAttributes, 'migtrace.start.seen')) AS said
SELECT
    TraceId AS trace_id,
    nullIf(a['migtrace.migration.id'], '') AS migration_id,
    begun AS start,
    nullIf(a['migtrace.mode'], '') AS mode,
    nullIf(a['migtrace.outcome'], '') AS outcome,
    if(said = a['migtrace.outcome'], NULL, nullIf(said, '')) AS error,
    nullIf(a['migtrace.vm.uuid'], '') AS vm_uuid,
    nullIf(a['migtrace.vm.name'], '') AS vm_name,
    toUInt32OrNull(a['migtrace.vm.vcpus']) AS vcpus,
    toUInt64OrNull(a['migtrace.vm.memory_bytes']) AS memory_bytes,
    nullIf(anyIf(ResourceAttributes['host.name'], SpanName = 'migration' AND SpanAttributes['migtrace.role'] = 'source'), '') AS source_host,
    nullIf(anyIf(ResourceAttributes['host.name'], SpanName = 'migration' AND SpanAttributes['migtrace.role'] = 'destination'), '') AS destination_host,
    nullIf(a['migtrace.qemu.version'], '') AS qemu_version,
    nullIf(a['migtrace.qemu.accelerator'], '') AS accelerator,
    toUInt64OrNull(a['migtrace.total.value_ns']) AS total_ns,
    toUInt64OrNull(a['migtrace.total.low_ns']) AS total_low_ns,
    toUInt64OrNull(a['migtrace.total.high_ns']) AS total_high_ns,
    nullIf(a['migtrace.total.method'], '') AS total_method,
    toUInt64OrNull(a['migtrace.stop.value_ns']) AS stop_ns,
    toUInt64OrNull(a['migtrace.stop.low_ns']) AS stop_low_ns,
    toUInt64OrNull(a['migtrace.stop.high_ns']) AS stop_high_ns,
    nullIf(a['migtrace.stop.method'], '') AS stop_method,
    toUInt64OrNull(a['migtrace.network_gap.value_ns']) AS network_gap_ns,
    toUInt64OrNull(a['migtrace.network_gap.low_ns']) AS network_gap_low_ns,
    toUInt64OrNull(a['migtrace.network_gap.high_ns']) AS network_gap_high_ns,
    toUInt64OrNull(a['migtrace.reachability.value_ns']) AS reachability_ns,
    toUInt64OrNull(a['migtrace.reachability.low_ns']) AS reachability_low_ns,
    toUInt64OrNull(a['migtrace.reachability.high_ns']) AS reachability_high_ns,
    toUInt64OrNull(a['migtrace.tail.value_ns']) AS tail_ns,
    toUInt64OrNull(a['migtrace.tail.low_ns']) AS tail_low_ns,
    toUInt64OrNull(a['migtrace.tail.high_ns']) AS tail_high_ns,
    toUInt64OrNull(a['migtrace.qemu.downtime_ns']) AS qemu_downtime_ns,
    toUInt64OrNull(a['migtrace.qemu.downtime_limit_ns']) AS downtime_limit_ns,
    toUInt64OrNull(a['migtrace.tx.wire_bytes']) AS tx_wire_bytes,
    toUInt64OrNull(a['migtrace.rx.wire_bytes']) AS rx_wire_bytes,
    toUInt64OrNull(a['migtrace.tx.payload_bytes']) AS tx_payload_bytes,
    toUInt64OrNull(a['migtrace.retransmitted_segments']) AS retransmitted_segments
FROM default.otel_traces
GROUP BY TraceId
HAVING countIf(SpanName = 'migration' AND mapContains(SpanAttributes, 'migtrace.start.seen')) > 0;
