-- How far is QEMU's own downtime from the stop? Outside of the bounds means that QEMU is wrong, whichever value is true.
SELECT
    qemu_version,
    count() AS migrations,
    countIf(qemu_downtime_ns < stop_low_ns) AS too_short,
    countIf(qemu_downtime_ns > stop_high_ns) AS too_long,
    round(quantileExact(0.5)(toInt64(stop_ns) - toInt64(qemu_downtime_ns)) / 1e6, 3) AS p50_unseen_ms,
    round(max(toInt64(stop_ns) - toInt64(qemu_downtime_ns)) / 1e6, 3) AS worst_unseen_ms
FROM migtrace.migrations
WHERE stop_ns IS NOT NULL AND qemu_downtime_ns IS NOT NULL
GROUP BY qemu_version
ORDER BY migrations DESC, qemu_version
