"""Send a notification to one user, and if wished another one to everybody."""

import argparse
import os

from azure.messaging.webpubsubservice import WebPubSubServiceClient

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("user", help="the user id, as in the client's token")
parser.add_argument("text", help="what the user is told")
parser.add_argument("--everybody", metavar="TEXT", help="what everybody in the hub is told")
parser.add_argument("--hub", default="notifications", help="default: notifications")
args = parser.parse_args()

service = WebPubSubServiceClient.from_connection_string(os.environ["HUBWIRE_CONNECTION_STRING"], hub=args.hub)

# A dict goes out as JSON, and reaches every connection of the user: each tab, each device.
service.send_to_user(args.user, {"kind": "personal", "text": args.text})
if args.everybody:
    service.send_to_all({"kind": "news", "text": args.everybody})

# Nothing is kept for users who are away. Who must reach them then has to use another way, a mail say.
if service.user_exists(args.user):
    print(f"{args.user} is connected.")
else:
    print(f"{args.user} is not connected, and has not got it.")
