"""The same application server as aiohttp_app.py, in plain Flask."""

import hashlib
import hmac
import json
import os

from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

KEY = os.environ["HUBWIRE_CONNECTION_STRING"].partition("AccessKey=")[2].partition(";")[0].encode()
app = Flask(__name__)
told: list[str] = []


@app.route("/events", methods=["OPTIONS"], provide_automatic_options=False)
def allow() -> Response:
    return Response(headers={"WebHook-Allowed-Origin": request.headers["WebHook-Request-Origin"]})


@app.post("/events", provide_automatic_options=False)
def event() -> Response:
    connection = request.headers.get("ce-connectionId", "").encode()
    wanted = "sha256=" + hmac.new(KEY, connection, hashlib.sha256).hexdigest()
    if wanted not in request.headers.get("ce-signature", "").split(","):
        return Response("not signed", 401)
    kind, user = request.headers["ce-type"], request.headers.get("ce-userId", "")
    if kind == "azure.webpubsub.sys.connect":
        if user == "mallory":
            return Response("not you", 403)
        return jsonify(userId=user.upper(), groups=["lobby"])
    if kind.startswith("azure.webpubsub.sys."):
        told.append(f"{request.headers['ce-eventName']} {user}")
        return Response()
    if kind == "azure.webpubsub.user.crash":
        raise RuntimeError("This is a fault of the application.")
    count = str(int(request.headers.get("ce-connectionState", "0")) + 1)
    answer = jsonify(said=request.get_json(), by=user, count=int(count))
    answer.headers["ce-connectionState"] = count
    return answer


@app.get("/told")
def list_told() -> Response:
    return jsonify(told)


server = make_server("127.0.0.1", 0, app, threaded=True)
print(json.dumps({"port": server.port}), flush=True)
server.serve_forever()
