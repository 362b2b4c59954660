"""Parses lines of OTLP in JSON by the messages that OpenTelemetry publishes, strictly, and says what is in them.

JSON's own mapping of protobuf has bytes in base64. OTLP has identifiers in hexadecimal, which is undone here.
"""

import base64
import json
import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

IDENTIFIERS = {"traceId", "spanId", "parentSpanId"}


def undone(value):
    if isinstance(value, dict):
        return {
            key: base64.b64encode(bytes.fromhex(field)).decode() if key in IDENTIFIERS else undone(field)
            for key, field in value.items()
        }
    return [undone(item) for item in value] if isinstance(value, list) else value


for line in sys.stdin:
    request = json_format.ParseDict(undone(json.loads(line)), trace_service_pb2.ExportTraceServiceRequest())
    for resource in request.resource_spans:
        for span in resource.scope_spans[0].spans:
            print(span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex() or "-", span.name, sep="\t")
