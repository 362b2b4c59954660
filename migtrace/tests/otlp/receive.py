"""Receives OTLP with OtelTap, and says what came as JSON, one span or metric a line.

Arguments: the port, `spans` or `metrics`, and how many of them to wait for. `ready` says that it listens.
"""

import asyncio
import json
import sys

from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings


def attributes(pairs):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs if not pair.value.HasField("array_value")}


def of_span(span):
    return {
        "name": span.name,
        "trace": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "events": [event.name for event in span.events],
        "attributes": attributes(span.attributes),
        "links": [link.trace_id.hex() for link in span.links],
        "status": span.status.code,
    }


def of_point(kind, point):
    said = {"attributes": attributes(point.attributes)}
    if kind != "sum":
        said |= {"count": point.count, "sum": point.sum, "min": point.min, "max": point.max}
        said["exemplars"] = [exemplar.as_double for exemplar in point.exemplars]
    if kind == "histogram":
        said |= {"bounds": list(point.explicit_bounds), "counts": list(point.bucket_counts)}
    return said


def of_metric(metric):
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind)
    return {
        "name": metric.name,
        "unit": metric.unit,
        "kind": kind,
        "temporality": data.aggregation_temporality,
        "points": [of_point(kind, point) for point in data.data_points],
    }


async def main(port, what, wanted):
    async with OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(http_port=port)) as tap:
        print("ready", flush=True)
        stream, said = {"spans": (tap.stream_traces, of_span), "metrics": (tap.stream_metrics, of_metric)}[what]
        seen = 0
        async for received in stream():
            print(json.dumps(said(received)), flush=True)
            seen += 1
            if seen == wanted:
                return


asyncio.run(asyncio.wait_for(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])), 60))
