-- After which migrations did the network need longest to find the guest again? The five worst of each network.
SELECT
    network,
    migration_id,
    start,
    vm_name,
    destination_host,
    round(tail_ns / 1e6, 3) AS tail_ms,
    round(tail_low_ns / 1e6, 3) AS at_least_ms,
    round(tail_high_ns / 1e6, 3) AS at_most_ms,
    round(reachability_ns / 1e6, 3) AS unreachable_ms
FROM migtrace.migrations
WHERE tail_ns IS NOT NULL
ORDER BY network, tail_low_ns DESC, migration_id
LIMIT 5 BY network
