-- Whose migrations took the wire? Migrations whose bytes are not known are counted apart, and VMs of nobody are NULL.
SELECT
    nullIf(t.tenant, '') AS tenant,
    count() AS migrations,
    countIf(tx_wire_bytes IS NULL) AS unknown,
    sum(tx_wire_bytes + rx_wire_bytes) AS wire_bytes
FROM migtrace.migrations AS m
LEFT JOIN (SELECT vm_uuid, tenant FROM migtrace.tenants FINAL) AS t ON m.vm_uuid = t.vm_uuid
GROUP BY tenant
ORDER BY wire_bytes DESC NULLS LAST, tenant
