"""Tokens of OpenID Connect issuers for REST, beside those signed with an access key (rest-api.md 2.2)."""
