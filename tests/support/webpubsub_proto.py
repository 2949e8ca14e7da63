"""The protobuf schema of the subprotocols, built from the tables of client-protocols.md 5.1 to 5.3.

Only tests use it: the codec is written by hand, and this is what it is held against.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory

_F = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _F.TYPE_STRING,
    "bytes": _F.TYPE_BYTES,
    "uint64": _F.TYPE_UINT64,
    "uint32": _F.TYPE_UINT32,
    "bool": _F.TYPE_BOOL,
}
_PACKAGE = ".azure.webpubsub"


def _message(name: str, *fields: str) -> descriptor_pb2.DescriptorProto:
    """Each field as "number name type"; before the type, "opt": explicit presence, "one": in the oneof."""
    message = descriptor_pb2.DescriptorProto(name=name)
    optional = []
    for text in fields:
        number, field_name, *how, kind = text.split()
        field = message.field.add(name=field_name, number=int(number), label=_F.LABEL_OPTIONAL)
        if kind == "map":
            entry = "".join(part.capitalize() for part in field_name.split("_")) + "Entry"
            nested = _message(entry, "1 key string", "2 value string")
            nested.options.map_entry = True
            message.nested_type.append(nested)
            field.label, field.type = _F.LABEL_REPEATED, _F.TYPE_MESSAGE
            field.type_name = f"{_PACKAGE}.@.{entry}"  # completed by _place
        elif kind in _SCALARS:
            field.type = _SCALARS[kind]
        else:
            field.type = _F.TYPE_MESSAGE
            field.type_name = kind if kind.startswith(".google") else f"{_PACKAGE}.{kind}"
        if how == ["one"]:
            field.oneof_index = 0
        elif how == ["opt"] and kind in _SCALARS:
            optional.append(field)
    if any(" one " in text for text in fields):
        message.oneof_decl.add(name="message")
    for field in optional:
        field.proto3_optional = True
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{field.name}")
    return message


def _place(parent: str, message: descriptor_pb2.DescriptorProto) -> None:
    path = f"{parent}.{message.name}"
    for field in message.field:
        if "@" in field.type_name:
            field.type_name = field.type_name.replace(f"{_PACKAGE}.@", path)
    for nested in message.nested_type:
        _place(path, nested)


def _classes() -> dict[str, Any]:
    upstream = _message(
        "UpstreamMessage",
        "1 send_to_group_message one UpstreamMessage.SendToGroupMessage",
        "5 event_message one UpstreamMessage.EventMessage",
        "6 join_group_message one UpstreamMessage.JoinGroupMessage",
        "7 leave_group_message one UpstreamMessage.LeaveGroupMessage",
        "8 sequence_ack_message one UpstreamMessage.SequenceAckMessage",
        "9 ping_message one UpstreamMessage.PingMessage",
    )
    upstream.nested_type.extend(
        (
            _message(
                "SendToGroupMessage",
                "1 group string",
                "2 ack_id opt uint64",
                "3 data MessageData",
                "4 no_echo opt bool",
                "5 ttl_seconds opt uint32",
                "6 metadata map",
            ),
            _message(
                "EventMessage",
                "1 event string",
                "2 data MessageData",
                "3 ack_id opt uint64",
                "4 metadata map",
            ),
            _message("JoinGroupMessage", "1 group string", "2 ack_id opt uint64"),
            _message("LeaveGroupMessage", "1 group string", "2 ack_id opt uint64"),
            _message("SequenceAckMessage", "1 sequence_id uint64"),
            _message("PingMessage"),
        )
    )
    downstream = _message(
        "DownstreamMessage",
        "1 ack_message one DownstreamMessage.AckMessage",
        "2 data_message one DownstreamMessage.DataMessage",
        "3 system_message one DownstreamMessage.SystemMessage",
        "4 pong_message one DownstreamMessage.PongMessage",
    )
    ack = _message(
        "AckMessage",
        "1 ack_id uint64",
        "2 success bool",
        "3 error opt DownstreamMessage.AckMessage.ErrorMessage",
    )
    ack.nested_type.append(_message("ErrorMessage", "1 name string", "2 message string"))
    system = _message(
        "SystemMessage",
        "1 connected_message one DownstreamMessage.SystemMessage.ConnectedMessage",
        "2 disconnected_message one DownstreamMessage.SystemMessage.DisconnectedMessage",
    )
    system.nested_type.extend(
        (
            _message(
                "ConnectedMessage",
                "1 connection_id string",
                "2 user_id string",
                "3 reconnection_token opt string",
            ),
            _message("DisconnectedMessage", "2 reason string"),
        )
    )
    data = _message(
        "DataMessage",
        "1 from string",
        "2 group opt string",
        "3 data MessageData",
        "4 sequence_id opt uint64",
        "5 metadata map",
    )
    downstream.nested_type.extend((ack, data, system, _message("PongMessage")))
    message_data = _message(
        "MessageData",
        "1 text_data one string",
        "2 binary_data one bytes",
        "3 protobuf_data one .google.protobuf.Any",
        "4 json_data one string",
    )
    file = descriptor_pb2.FileDescriptorProto(
        name="webpubsub.proto",
        package="azure.webpubsub",
        syntax="proto3",
        dependency=["google/protobuf/any.proto"],
    )
    for top in (upstream, downstream, message_data):
        _place(_PACKAGE, top)
        file.message_type.append(top)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"azure.webpubsub.{name}"))
        for name in ("UpstreamMessage", "DownstreamMessage", "MessageData")
    }


_built = _classes()
UpstreamMessage: Any = _built["UpstreamMessage"]
DownstreamMessage: Any = _built["DownstreamMessage"]
MessageData: Any = _built["MessageData"]
