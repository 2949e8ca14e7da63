"""Request bodies: how much of them is read, and what message they become (rest-api.md sections 4 and 6)."""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

from aiohttp import ClientError, web

from controlplane.problems import Problem, invalid_body
from hubwire.model.message import DataType
from hubwire.model.payload import is_json, metadata_fault

METADATA_PREFIX = "x-webpubsub-metadata-"
UNSUPPORTED_MEDIA_TYPE = "Error.UnsupportedMediaType"

_TYPES = {
    "application/json": DataType.JSON,
    "text/plain": DataType.TEXT,
    "application/octet-stream": DataType.BINARY,
}
_TOKEN = r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+"  # RFC 9110, 5.6.2
_QUOTED = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_MEDIA_TYPE = re.compile(rf"\s*({_TOKEN}/{_TOKEN})((?:\s*;\s*(?:{_TOKEN}=(?:{_TOKEN}|{_QUOTED}))?)*)\s*")
_PARAMETER = re.compile(rf";\s*({_TOKEN})=({_TOKEN}|{_QUOTED})")
# Named one by one: Python knows codecs that are no charset, some of them slow on purpose-made input.
_CHARSETS = re.compile(
    r"utf-8|utf-8-sig|ascii|utf-16(-le|-be)?|utf-32(-le|-be)?|iso8859-\d{1,2}|cp125\d|koi8-[ru]"
    r"|gbk|gb2312|gb18030|big5|shift_jis|euc_jp|euc_kr"
)
_BOM = b"\xef\xbb\xbf"


class ContentType(NamedTuple):
    """`charset` is Python's name of a charset other than UTF-8, or None for UTF-8 and for bytes."""

    data_type: DataType
    charset: str | None


def parse_content_type(header: str | None) -> ContentType:
    """Raises Problem (415) when it is malformed, of another type, or in an unknown charset.

    No header at all means bytes.
    """
    if header is None:
        return ContentType(DataType.BINARY, None)
    match = _MEDIA_TYPE.fullmatch(header)
    data_type = _TYPES.get(match[1].lower()) if match else None
    if match is None or data_type is None:
        raise unsupported(f"The content type '{header[:100]}' is not supported.")
    charset = None
    for name, value in _PARAMETER.findall(match[2]):
        if name.lower() == "charset":
            charset = _charset(value.strip('"'))
    return ContentType(data_type, None if data_type is DataType.BINARY else charset)


def _charset(name: str) -> str | None:
    try:
        python_name = codecs.lookup(name).name
    except (LookupError, ValueError):
        python_name = ""
    if not _CHARSETS.fullmatch(python_name):
        raise unsupported(f"The charset '{name[:100]}' is not supported.")
    return None if python_name in ("utf-8", "ascii") else python_name


def unsupported(message: str) -> Problem:
    """415, which no SDK retries."""
    return Problem(415, UNSUPPORTED_MEDIA_TYPE, message, "Request")


def too_large(limit: int) -> Problem:
    """Not retried by any SDK; the body is the flat one (rest-api.md section 4)."""
    return invalid_body(f"The request body is over the limit of {limit} bytes.", 413)


async def read_body(request: web.Request, limit: int) -> bytes:
    """The whole body, announced or chunked. Raises Problem (413) as soon as it is over the limit."""
    announced = request.content_length
    if announced is not None and announced > limit:
        raise too_large(limit)
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.content.iter_any():
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            chunks.append(chunk)
    except (ClientError, OSError, web.RequestPayloadError) as error:
        raise invalid_body("The request body ended before its time.") from error
    return b"".join(chunks)


def to_message_data(content_type: ContentType, body: bytes, limit: int) -> bytes:
    """What travels: UTF-8 for text and JSON, the bytes themselves otherwise.

    JSON is checked to be one value and kept as the caller wrote it, spaces included. Raises Problem.
    """
    data_type, charset = content_type
    if data_type is DataType.BINARY:
        return body
    try:
        if charset is not None:
            body = body.decode(charset).encode()
        else:
            body.decode()
    except UnicodeError:
        raise invalid_body("The request body cannot be decoded in its charset.") from None
    if data_type is DataType.JSON:
        # A byte order mark is allowed in front of JSON, but not inside the frames that it becomes part of.
        body = body.removeprefix(_BOM)
        if not is_json(body):
            raise invalid_body("The request body is not a valid JSON.")
    if len(body) > limit:
        raise too_large(limit)
    return body


def read_metadata(request: web.Request) -> dict[str, str] | None:
    """From `X-WebPubSub-Metadata-<key>` headers (rest-api.md 6.3). Raises Problem (400) over a limit."""
    metadata: dict[str, str] = {}
    for name, value in request.headers.items():
        if name.lower().startswith(METADATA_PREFIX):
            metadata[name.lower()[len(METADATA_PREFIX) :]] = value.rpartition(",")[2].strip()
    if not metadata:
        return None
    fault = metadata_fault(metadata)
    if fault is not None:
        raise invalid_body(fault)
    return metadata
