"""The operations of the data plane, one file for each kind of thing that is done.

A handler reads and checks everything first and only then acts, so that an answer of 400 never follows a
part of the work. It raises `Problem` or an error of the model; `controlplane.app` answers with it.
"""
