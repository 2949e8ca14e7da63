"""Load tests with locust: the five scenarios of Azure's performance guide, and parts for one's own.

docs/load-testing.md says how they are run. `stamps`, `ledger`, `scenarios`, `verdict` and `pages` are pure
and know nothing of locust, which patches the standard library as soon as it is imported.
"""
