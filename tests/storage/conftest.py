"""Emulated object stores; the clients of a process know one of each kind."""

import pytest

from tests import object_stores


def start(name):
    with object_stores.STORES[name]() as store, object_stores.environment(store.environment):
        yield store


@pytest.fixture(scope="session")
def gcs():
    """The process's Cloud Storage server."""
    yield from start("gs")


@pytest.fixture(scope="session")
def s3():
    """The process's S3 server."""
    yield from start("s3")


@pytest.fixture(params=["gcs", "s3"])
def store(request):
    """Each kind of object store, without faults."""
    store = request.getfixturevalue(request.param)
    store.proxy.requests.clear()
    yield store
    store.proxy.fault = object_stores.no_fault
