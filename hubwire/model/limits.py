"""The service's limits, each with its source (client-protocols.md section 8 unless another is named)."""

from __future__ import annotations

from typing import Final

# Messages
MAX_MESSAGE_BYTES: Final = 1_048_576
"""One complete client message, after reassembly and before decoding; also a REST payload (1.13)."""
MAX_TTL_SECONDS: Final = 300
"""`ttlSeconds` and `messageTtlSeconds`; 0 means none (7.4)."""
ACK_WINDOW: Final = 1000
"""How many executed ack ids a connection remembers, first in first out (3.8)."""
MAX_UINT64: Final = 2**64 - 1
"""The largest `ackId` and `sequenceId` (3.1, 4.1)."""

# Names
MAX_HUB_CHARACTERS: Final = 128
MAX_GROUP_CHARACTERS: Final = 1024
MAX_EVENT_NAME_CHARACTERS: Final = 128
MAX_USER_ID_CHARACTERS: Final = 1024
"""Azure documents no maximum; this one is recommended there."""

# Permissions (2.5, 2.6)
MAX_LITERALS: Final = 1000
"""Literal rules per permission and connection; above it REST answers 409."""
MAX_PATTERNS: Final = 9
"""Pattern rules per permission and connection; surplus roles are ignored."""
MAX_PATTERN_CHARACTERS: Final = 1024
MAX_PATTERN_WILDCARDS: Final = 5
"""Unescaped asterisks in a pattern, and likewise its wildcard elements."""

# Metadata (7.5)
MAX_METADATA_KEY_BYTES: Final = 256
MAX_METADATA_VALUE_BYTES: Final = 1024
MAX_METADATA_TOTAL_BYTES: Final = 8192

# Outbound queues (8.1)
OUTBOX_BYTES: Final = 16 * 1024 * 1024
"""Azure's emulator, though nothing that is known of Azure, also closes a client for whom 1,000 messages wait.
Here memory is what is bounded: a burst of small messages is no reason to lose a client."""
OUTBOX_MESSAGE_BYTES: Final = 100
"""What a message that waits costs beside its own bytes, roughly; counted, or tiny ones would make the bound
several times as large."""

# Reliable sessions (4.2)
UNACKED_MESSAGES: Final = 1000
UNACKED_BYTES: Final = 16_000_000
RETENTION_SECONDS: Final = 35
"""Clients try for 30 s from when they notice the loss; the rest is margin."""
RECONNECTION_TOKEN_SECONDS: Final = 7 * 24 * 3600
RECONNECTION_KEY_SECONDS: Final = 30 * 24 * 3600
"""How old the key that signs them becomes; by then the tokens of the one before have long expired."""

# Group state (7.3)
GROUP_STATE_BYTES: Final = 512
GROUP_STATE_SNAPSHOT_ITEMS: Final = 200

# Tokens (2.1)
CLOCK_SKEW_SECONDS: Final = 300

# Event handlers (8.1, 1.5)
HANDLER_ANSWER_BYTES: Final = 16 * 1024 * 1024
HANDLER_TIMEOUT_SECONDS: Final = 100
HANDLER_RETRY_SECONDS: Final = (1, 3, 5)
"""Pauses before repeating after a transport error."""

# Keep-alive (1.10)
DEFAULT_KEEP_ALIVE_SECONDS: Final = 20
KEEP_ALIVE_SILENT_INTERVALS: Final = 3
"""A client that was silent for this many intervals is dropped without a close frame."""
