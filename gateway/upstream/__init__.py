"""Event handlers: how the gateway asks application servers, and what it makes of their answers.

The way of an event: `service` (the facade) → settings choose a handler → `requests` builds what is sent →
`client` delivers it (admission, abuse protection, credentials, attempts) → `answers` reads what came back.
`requests`, `answers`, `source` and `cookies` are pure; the rest acts. Source: server-events.md.
"""
