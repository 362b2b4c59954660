-- What was the stop made of? The parts of all completed migrations, by who did what.
SELECT
    tupleElement(part, 'role') AS role,
    tupleElement(part, 'name') AS part_name,
    count() AS migrations,
    round(sum(tupleElement(part, 'length_ns')) / 1e9, 3) AS sum_s,
    round(100 * sum(tupleElement(part, 'length_ns')) / sum(sum(tupleElement(part, 'length_ns'))) OVER (), 2) AS share_percent,
    round(quantileExact(0.5)(tupleElement(part, 'length_ns')) / 1e6, 3) AS p50_ms,
    round(quantileExact(0.99)(tupleElement(part, 'length_ns')) / 1e6, 3) AS p99_ms,
    round(sum(tupleElement(part, 'low_ns')) / 1e9, 3) AS sum_at_least_s,
    if(count(tupleElement(part, 'high_ns')) < count(), NULL, round(sum(tupleElement(part, 'high_ns')) / 1e9, 3)) AS sum_at_most_s
FROM migtrace.migrations
ARRAY JOIN parts AS part
WHERE outcome = 'completed'
GROUP BY role, part_name
ORDER BY sum_s DESC, role, part_name
