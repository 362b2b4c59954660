-- How long did guests stand still, by flavour and week?
-- A quantile of the upper bounds is NULL where one of the migrations has none: then nothing bounds it.
SELECT
    toDate(toStartOfWeek(start, 1)) AS week,
    vcpus,
    round(memory_bytes / 1073741824, 1) AS memory_gib,
    count() AS migrations,
    count(stop_ns) AS with_stop,
    round(quantileExact(0.5)(stop_ns) / 1e6, 1) AS p50_ms,
    round(quantileExact(0.95)(stop_ns) / 1e6, 1) AS p95_ms,
    round(quantileExact(0.99)(stop_ns) / 1e6, 1) AS p99_ms,
    round(max(stop_ns) / 1e6, 1) AS worst_ms,
    if(count(stop_high_ns) < count(stop_ns), NULL, round(quantileExact(0.99)(stop_high_ns) / 1e6, 1)) AS p99_at_most_ms
FROM migtrace.migrations
WHERE outcome = 'completed'
GROUP BY week, vcpus, memory_gib
ORDER BY week, vcpus, memory_gib
