"""A client joins a group and sends to it; then a server speaks to everybody. Both in one program."""

import os
import queue

from azure.messaging.webpubsubclient import WebPubSubClient
from azure.messaging.webpubsubclient.models import CallbackType, WebPubSubDataType, WebPubSubProtocolType
from azure.messaging.webpubsubservice import WebPubSubServiceClient

GROUP = "news"

# The server. It holds the connection string, and makes a URL for each client: it says who the client is
# and what it may do.
service = WebPubSubServiceClient.from_connection_string(
    os.environ["HUBWIRE_CONNECTION_STRING"], hub="quickstart"
)
access = service.get_client_access_token(
    user_id="ada",
    roles=[f"webpubsub.joinLeaveGroup.{GROUP}", f"webpubsub.sendToGroup.{GROUP}"],
    minutes_to_expire=10,
)

# The client. It knows nothing but this URL. Messages come on a thread of the SDK's own.
client = WebPubSubClient(access["url"], protocol_type=WebPubSubProtocolType.JSON)
messages: queue.Queue[str] = queue.Queue()
client.subscribe(CallbackType.CONNECTED, lambda told: print(f"connected as {told.user_id}"))
client.subscribe(
    CallbackType.GROUP_MESSAGE, lambda told: messages.put(f"{told.from_user_id} to {told.group}: {told.data}")
)
client.subscribe(CallbackType.SERVER_MESSAGE, lambda told: messages.put(f"server to all: {told.data}"))

with client:
    client.join_group(GROUP)
    client.send_to_group(GROUP, "Hello, group", WebPubSubDataType.TEXT)
    print(messages.get(timeout=10))

    service.send_to_all("Hello, everybody", content_type="text/plain")
    print(messages.get(timeout=10))
