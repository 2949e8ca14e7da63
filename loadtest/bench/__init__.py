"""Benchmarks: what Hubwire costs, beside a bare send() loop and beside peers, in the same run.

`python -m loadtest.bench` lists the rows; docs/performance.md is made from the results that are kept.
"""
