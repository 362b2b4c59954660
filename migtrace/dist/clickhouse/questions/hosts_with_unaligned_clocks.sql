-- Which hosts' clocks could mostly not be aligned by packets or readings, and whose wall clocks are far from the others'?
-- A difference of two wall clocks is counted for both hosts: the median tells the one that is off from those that met it.
SELECT
    arrayJoin([tupleElement(clock, 'host'), tupleElement(clocks[1], 'host')]) AS host,
    count() AS migrations,
    countIf(tupleElement(clock, 'low_ns') IS NULL OR tupleElement(clock, 'high_ns') IS NULL) AS not_aligned,
    round(quantileExact(0.5)(abs(tupleElement(clock, 'wall_ahead_ns'))) / 1e6, 3) AS p50_wall_apart_ms,
    round(max(abs(tupleElement(clock, 'wall_ahead_ns'))) / 1e6, 3) AS worst_wall_apart_ms
FROM migtrace.migrations
ARRAY JOIN clocks AS clock
WHERE tupleElement(clock, 'method') IS NOT NULL
GROUP BY host
HAVING 2 * not_aligned > migrations OR p50_wall_apart_ms > 10
ORDER BY p50_wall_apart_ms DESC NULLS LAST, not_aligned DESC, host
