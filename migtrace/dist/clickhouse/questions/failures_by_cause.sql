-- Why did migrations fail? QEMU's own words, where it gave any. Numbers in them (pids, ports) are left out, so that the same
-- cause is one row.
SELECT
    outcome,
    replaceRegexpAll(error, '[0-9]+', 'N') AS cause,
    count() AS migrations,
    uniqExact(vm_uuid) AS vms,
    uniqExact(source_host, destination_host) AS pairs_of_hosts,
    max(start) AS latest
FROM migtrace.migrations
WHERE outcome IN ('failed', 'cancelled')
GROUP BY outcome, cause
ORDER BY migrations DESC, outcome, cause
