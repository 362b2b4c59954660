"""Receives OTLP with OtelTap, and says what came as JSON, one span or metric a line.

Arguments: the port, and how many spans to wait for. The end of standard input ends it. `ready` says that it listens.
"""

import asyncio
import json
import sys

from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings


def attributes(pairs):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs if not pair.value.HasField("array_value")}


async def main(port, wanted):
    async with OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(http_port=port)) as tap:
        print("ready", flush=True)
        seen = 0
        async for span in tap.stream_traces():
            said = {
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
            print(json.dumps(said), flush=True)
            seen += 1
            if seen == wanted:
                return


asyncio.run(asyncio.wait_for(main(int(sys.argv[1]), int(sys.argv[2])), 60))
