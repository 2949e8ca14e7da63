"""Tokens for tests, good and bad, made without the code that is tested."""

import base64
import hashlib
import hmac

import jwt as pyjwt

from hubwire.model.tokens import AudiencePolicy, verify_client_token, verify_rest_token

KEY = "test-access-key-0123456789abcdef0123456789abcdef"
OTHER = "other-access-key-0123456789abcdef0123456789abcde"
NOW = 1_700_000_000
ENDPOINT = "https://wps.example.com"
CLIENT_AUD = f"{ENDPOINT}/client/hubs/chat"
POLICY = AudiencePolicy.of([ENDPOINT])
URL = "http://localhost:8080/api/hubs/chat/groups/a/:send?api-version=2024-12-01"
# Client-protocols.md 2.1
VECTOR = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJhdWQiOiJodHRwczovL3dwcy5leGFtcGxlLmNvbS9jbGllbnQvaHVicy9jaGF0Iiwi"
    "aWF0IjoxNzAwMDAwMDAwLCJleHAiOjE3MDAwMDM2MDAsInN1YiI6ImFsaWNlIiwicm9sZSI6WyJ3ZWJwdWJzdWIuam9pbkxlYXZlR3Jv"
    "dXAucm9vbS0xIiwid2VicHVic3ViLnNlbmRUb0dyb3VwIl0sIndlYnB1YnN1Yi5ncm91cCI6WyJyb29tLTEiXX0."
    "jSXyqy7yEHw5IWJym-G-QbxnV1s_BSgSZawZ_Kx9IBI"
)


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_token(header, payload, key=KEY):
    signed = f"{b64(header)}.{b64(payload)}"
    return f"{signed}.{b64(hmac.digest(key.encode(), signed.encode(), hashlib.sha256))}"


def token(key=KEY, **claims):
    claims = {"aud": CLIENT_AUD, "exp": NOW + 60, **claims}
    return pyjwt.encode({n: v for n, v in claims.items() if v is not None}, key, algorithm="HS256")


def client(text, *, keys=(KEY,), hub="chat", audiences=POLICY, now=NOW, **more):
    return verify_client_token(text, keys=keys, hub=hub, audiences=audiences, now=now, **more)


def rest(text, url, *, public=(), now=NOW):
    return verify_rest_token(text, keys=[KEY], request_url=url, public_endpoints=public, now=now)
