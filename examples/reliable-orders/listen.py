"""A client that misses no order, whatever happens to its connection or to the gateway at the other end."""

import os
import queue

from azure.messaging.webpubsubclient import WebPubSubClient
from azure.messaging.webpubsubclient.models import CallbackType
from azure.messaging.webpubsubservice import WebPubSubServiceClient

# The server's part: it puts the client into the group by its URL.
service = WebPubSubServiceClient.from_connection_string(os.environ["HUBWIRE_CONNECTION_STRING"], hub="orders")
access = service.get_client_access_token(user_id="kitchen", groups=["orders"], minutes_to_expire=60)

# The client's part. It names no protocol: the default is the reliable one. After a lost connection the SDK
# comes back to its session by itself, and what was sent meanwhile arrives first.
client = WebPubSubClient(access["url"])
orders: queue.Queue[str] = queue.Queue()
client.subscribe(CallbackType.CONNECTED, lambda _: orders.put("connected"))  # once: the session stays
client.subscribe(CallbackType.DISCONNECTED, lambda _: orders.put("the session is lost"))
client.subscribe(CallbackType.GROUP_MESSAGE, lambda told: orders.put(f"{told.sequence_id}: {told.data}"))

with client:
    while not (line := orders.get()).endswith("closed"):
        print(line, flush=True)
