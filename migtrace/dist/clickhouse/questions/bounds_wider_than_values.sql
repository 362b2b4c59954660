-- Which stops are known badly: to within more than they are, or without an upper bound?
SELECT
    stop_method,
    count() AS migrations,
    countIf(stop_high_ns IS NULL) AS without_upper_bound,
    countIf(stop_high_ns - stop_low_ns > stop_ns) AS wider_than_value,
    round(quantileExact(0.5)(stop_high_ns - stop_low_ns) / 1e6, 3) AS p50_width_ms,
    round(max(stop_high_ns - stop_low_ns) / 1e6, 3) AS worst_width_ms
FROM migtrace.migrations
WHERE stop_ns IS NOT NULL
GROUP BY stop_method
ORDER BY migrations DESC, stop_method
